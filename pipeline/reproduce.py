"""Reproduce cells of the papers' tables, without DVC, so that it also runs on a bare machine with a GPU.

`run` makes all stages of a cell in a folder of its own, `.cache/reproduction/CELL/seed-N`, and adds a row for each head to
data/reproduction/runs.csv. What is there already is not made again, and a training that was cut off goes on. `table` puts the rows beside
the published numbers; `--write README.md` puts that table between its two markers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline import backbone, cells, extract, finished, image_level, images, params, provenance, reproduced
from pipeline.evaluate import HEADS
from pipeline.files import InputError, interruptible, write_csv, write_text
from pipeline.finished import FULL, JUDGED
from pipeline.import_features import FOLDER
from pipeline.settings import METHODS

WORK = Path(".cache/reproduction")
MARKERS = ("<!-- reproduction -->\n", "<!-- end of reproduction -->\n")
STAGES = {"prepare": images.FILE, "train": backbone.FILE, "extract": extract.FILE}  # and what each makes
TOGETHER = FOLDER / "networks.h5"  # features of several networks side by side
CODE = Path(__file__).parents[1]


@interruptible("reproduce: stopped; run it again, and it goes on")
def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m pipeline.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    making = commands.add_parser("run", help="run a cell")
    making.add_argument("cell", help="as in cifar100-lt-100/autoaugment/graloss, or …/ce+graloss: names of data/reproduction/cells.yaml")
    making.add_argument("--seed", type=int, default=0, help="of stage one and the heads; the images are always those of the papers")
    making.add_argument("--root", default=os.environ.get("TAILCACHE_CIFAR"), help="folder of the data set; default: $TAILCACHE_CIFAR")
    making.add_argument("--images", action="store_true", help="also cRT and LWS over images, as the reference code has them")
    making.add_argument("--full", action="store_true", help="also a linear classifier on the whole training set, as in GLAG's table 1")
    making.set_defaults(do=run)
    showing = commands.add_parser("table", help="what was reproduced, beside the published numbers")
    showing.add_argument("--write", type=Path, metavar="FILE", help=f"between {MARKERS[0].strip()} and {MARKERS[1].strip()}")
    showing.set_defaults(do=table)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that the stage under way ends too
    options.do(options)


def run(options: argparse.Namespace) -> None:
    """Make what is missing of a cell, then write its rows; of each cell first where the features of several networks go side by side."""
    if not options.root:
        raise InputError("reproduce: name the folder of the data set, with --root or in TAILCACHE_CIFAR")
    known, base, root = cells.read(), params.read(), str(Path(options.root).resolve())
    trees = {cell: cells.compose(cell, options.seed, root, known, base) for cell in cells.networks(options.cell)}
    folders = {cell: WORK / cell / f"seed-{options.seed}" for cell in (*trees, options.cell)}
    for cell, tree in trees.items():
        make(folders[cell], tree)
        if options.full:
            judge_in_full(folders[cell], cells.full(tree, known))
        for kind in image_level.KINDS if options.images else ():
            if kind not in finished.over_images(folders[cell]):
                call(folders[cell], "image_level", kind)
        keep(cell, options.seed, folders[cell], [folders[cell]])
    if len(trees) > 1:
        sources = [folders[cell] for cell in trees]
        judge_together(folders[options.cell], tree, sources)
        keep(options.cell, options.seed, folders[options.cell], sources)


def make(folder: Path, tree: dict[str, Any]) -> None:
    """Run the stages whose results are missing."""
    start(folder, tree)
    for stage, made in STAGES.items():
        if not (folder / made).exists():
            call(folder, stage)
    judge(folder, tree)


def judge(folder: Path, tree: dict[str, Any]) -> None:
    """Fit the heads that are missing, and evaluate all where one is new."""
    judged = folder / JUDGED
    fitted = [folder / HEADS / f"{head}.safetensors" for head in tree["heads"]]
    for path in fitted:
        if not path.exists():
            call(folder, f"heads.{tree['heads'][path.stem]['kind']}", path.stem)
    if not judged.exists() or judged.stat().st_mtime < max(path.stat().st_mtime for path in fitted):
        call(folder, "evaluate")


def judge_in_full(folder: Path, tree: dict[str, Any]) -> None:
    """Fit and judge a classifier on features of the whole training set, in a folder beside the backbone's results."""
    inner = folder / FULL
    (inner / "data").mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / STAGES["train"], inner / STAGES["train"])
    make(inner, tree)


def judge_together(folder: Path, tree: dict[str, Any], sources: list[Path]) -> None:
    """Fit and judge heads on features of several networks side by side; `tree` is the parameters of any of them."""
    tree = {**tree, "features": TOGETHER.as_posix()}
    start(folder, tree)
    caches = [(source / STAGES["extract"]).resolve() for source in sources]
    made = folder / TOGETHER
    if not made.exists() or made.stat().st_mtime < max(cache.stat().st_mtime for cache in caches):
        shutil.rmtree(folder / HEADS, ignore_errors=True)
        call(folder, "concatenate", "--name", TOGETHER.stem, *map(str, caches))
    judge(folder, tree)


def start(folder: Path, tree: dict[str, Any]) -> None:
    """Give the folder its params.yaml, and note the commit that its training begins with.

    What is there stays as far as its parameters do: heads that changed are dropped, to be fitted again.

    Raises
    ------
    InputError
        If the features there were made with other parameters.
    """
    file = folder / "params.yaml"
    if file.exists():
        old = params.read(file)
        if of_features(old) != of_features(tree):
            raise InputError(f"{file}: of an earlier cells.yaml or params.yaml; remove {folder} to start over")
        if old == tree:
            return
        for name, head in old["heads"].items():
            if head != tree["heads"].get(name):
                (folder / HEADS / f"{name}.safetensors").unlink(missing_ok=True)
        (folder / JUDGED).unlink(missing_ok=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "about.json").write_text(json.dumps({"revision": provenance.revision(), "device": device_name()}) + "\n")
    with (folder / "params.yaml.new").open("w", encoding="utf-8") as target:
        YAML().dump(tree, target)
    (folder / "params.yaml.new").replace(file)


def of_features(tree: dict[str, Any]) -> dict[str, Any]:
    """What cached features are made with: of data sets, losses and the like the one that was chosen; not where the data set lies."""
    own = {name: tree.get(name) for name in ("seed", "data", "train", "extract", "features")}
    own |= {f"{section}.{key}": params.find(tree, f"{section}.{params.find(tree, key)}") for section, key in METHODS.items()}
    return own | {"data": {**(own["data"] or {}), "root": None}}


def call(folder: Path, stage: str, *arguments: str) -> None:
    """Run a stage in the folder with the code of this clone."""
    print(f"reproduce: {folder}: {stage} {' '.join(arguments)}".rstrip(), flush=True)
    done = subprocess.run([sys.executable, "-m", f"pipeline.{stage}", *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": str(CODE)})
    if done.returncode:
        raise InputError(f"reproduce: {stage} failed in {folder} (status {done.returncode})")


def device_name() -> str:
    """The GPU's name, or the processor's and how many threads of it are used."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    known = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in known.splitlines() if line.startswith("model name")), platform.machine())
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' * (threads > 1)}"


def keep(cell: str, seed: int, folder: Path, networks: list[Path]) -> None:
    """Put the rows of a finished cell into runs.csv, in the place of those of the same cell and seed."""
    new = finished.rows(cell, seed, folder, networks)
    old = [row for row in reproduced.read() if (row["cell"], row["seed"]) != (cell, str(seed))]
    write_csv(reproduced.FILE, sorted([*old, *new], key=lambda row: (row["cell"], int(row["seed"]))))
    print(f"reproduce: {cell}, seed {seed}: {len(new)} heads -> {reproduced.FILE}")


def table(options: argparse.Namespace) -> None:
    """Print the tables, or write them between two markers of a file."""
    text = reproduced.every_table()
    if not options.write:
        print(text)
        return
    before, first, rest = options.write.read_text(encoding="utf-8").partition(MARKERS[0])
    _, second, after = rest.partition(MARKERS[1])
    if not second:
        raise InputError(f"{options.write}: has no lines {MARKERS[0].strip()} and {MARKERS[1].strip()}")
    write_text(options.write, f"{before}{first}\n{text}\n\n{second}{after}")


if __name__ == "__main__":
    main()
