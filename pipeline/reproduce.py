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
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
from ruamel.yaml import YAML

from pipeline import cells, features, image_level, metrics, outcomes, params, provenance, published, reproduced, runs
from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.files import InputError, interruptible, write_csv, write_text
from pipeline.settings import voters_of

WORK = Path(".cache/reproduction")
MARKERS = ("<!-- reproduction -->\n", "<!-- end of reproduction -->\n")
STAGES = {"prepare": "data/images.h5", "train": "data/backbone.safetensors", "extract": "data/features.h5"}  # and what each makes
JUDGED = "data/results/provenance.json"
FULL = published.FULL  # the folder inside a cell's
CODE = Path(__file__).parents[1]


@interruptible("reproduce: stopped; run it again, and it goes on")
def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m pipeline.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    making = commands.add_parser("run", help="run a cell")
    making.add_argument("cell", help="as in cifar100-lt-100/autoaugment/graloss: names of data/reproduction/cells.yaml")
    making.add_argument("--seed", type=int, default=0, help="of stage one and the heads; the images are always those of the papers")
    making.add_argument("--root", default=os.environ.get("TAILCACHE_CIFAR"), help="folder of the data set; default: $TAILCACHE_CIFAR")
    making.add_argument("--images", action="store_true", help="also cRT and LWS over images, as the reference code has them")
    making.add_argument("--full", action="store_true", help="also a linear classifier on the whole training set, as in GLAG's table 1")
    making.set_defaults(do=run)
    showing = commands.add_parser("table", help="what was reproduced, beside the published numbers")
    showing.add_argument("--write", type=Path, metavar="FILE", help=f"between {MARKERS[0].strip()} and {MARKERS[1].strip()}")
    showing.set_defaults(do=table)
    options = parser.parse_args()
    options.do(options)


def run(options: argparse.Namespace) -> None:
    """Make what is missing of a cell, then write its rows."""
    if not options.root:
        raise InputError("reproduce: name the folder of the data set, with --root or in TAILCACHE_CIFAR")
    known = cells.read()
    tree = cells.compose(options.cell, options.seed, str(Path(options.root).resolve()), known, params.read())
    folder = WORK / options.cell / f"seed-{options.seed}"
    make(folder, tree)
    if options.full:
        judge_in_full(folder, cells.full(tree, known))
    for kind in image_level.KINDS if options.images else ():
        if kind not in over_images(folder):
            call(folder, "image_level", kind)
    keep(options.cell, options.seed, folder)


def make(folder: Path, tree: dict[str, Any]) -> None:
    """Run the stages whose results are missing."""
    start(folder, tree)
    for stage, made in STAGES.items():
        if not (folder / made).exists():
            call(folder, stage)
    judged = folder / JUDGED
    fitted = [folder / f"data/heads/{head}.safetensors" for head in tree["heads"]]
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


def over_images(folder: Path) -> dict[str, Any]:
    """Figures of the heads that were trained over images, by kind."""
    file = folder / image_level.FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


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
                (folder / f"data/heads/{name}.safetensors").unlink(missing_ok=True)
        (folder / JUDGED).unlink(missing_ok=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        about = {"revision": provenance.revision(), "device": device_name()}
        (folder / "about.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    with (folder / "params.yaml.new").open("w", encoding="utf-8") as target:
        YAML().dump(tree, target)
    (folder / "params.yaml.new").replace(file)


def of_features(tree: dict[str, Any]) -> dict[str, Any]:
    """What cached features are made with, but for where the data set lies."""
    own = {section: value for section, value in tree.items() if section not in ("heads", "evaluate", "deviation")}
    return own | {"data": {**own.get("data", {}), "root": None}}


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


def keep(cell: str, seed: int, folder: Path) -> None:
    """Put the rows of a finished run into runs.csv, in the place of those of the same cell and seed."""
    times = seconds(folder)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    known = of_heads(folder) | {f"{kind}_images": figures for kind, figures in over_images(folder).items()} | of_heads(folder / FULL)
    new = [
        {"cell": cell, "seed": seed, "head": head}
        | {split: figures[split] for split in reproduced.FIGURES}
        | {"val": figures.get("val")}
        | {"selected_on": figures["selected_on"]}
        | {"chosen": " ".join(f"{key}={value:g}" for key, value in figures.get("chosen", {}).items())}
        | {"seconds": figures["seconds"], "train_seconds": times.get("train"), "extract_seconds": times.get("extract")}
        | about
        for head, figures in known.items()
    ]
    old = [row for row in reproduced.read() if (row["cell"], row["seed"]) != (cell, str(seed))]
    write_csv(reproduced.FILE, sorted([*old, *new], key=lambda row: (row["cell"], int(row["seed"]))))
    print(f"reproduce: {cell}, seed {seed}: {len(new)} heads -> {reproduced.FILE}")


def of_heads(folder: Path) -> dict[str, Any]:
    """Figures of all heads and ensembles that were judged in a folder, with the seconds of their fit and their accuracy on validation
    images (`val`, by which a recipe may be chosen); none where nothing was judged.
    """
    if not (folder / JUDGED).exists():
        return {}
    times, run = seconds(folder), runs.folder(folder)
    val = features.load(folder / STAGES["extract"], "val")["val"]
    found = {}
    for name, figures in run.figures.items():
        voters = [Classifier.load(folder / f"data/heads/{each}.safetensors") for each in voters_of(run.tree["evaluate"], name)]
        found[name] = {"seconds": times.get(f"head@{name}"), **figures, "val": val and accuracy(voters, val)}
    return found


def accuracy(voters: list[Classifier], samples: Features) -> float | None:
    """Mean of the classes' accuracies, in percent."""
    predicted = outcomes.of(voters, samples).predicted
    return metrics.mean(metrics.per_class_accuracy(samples.labels, predicted, samples.classes))


def seconds(folder: Path) -> dict[str, float]:
    """How long each stage took; of a training that went on after a pause, all its images at the rate of its last part."""
    file, found = folder / ".cache/timings.jsonl", {}
    for line in map(json.loads, file.read_text(encoding="utf-8").splitlines() if file.exists() else ()):
        found[line["stage"]] = line["seconds"]
        if line["stage"] == "train" and line["images"]:
            with h5py.File(folder / STAGES["prepare"], "r") as images:
                total = params.read(folder / "params.yaml")["train"]["epochs"] * len(images["train/labels"])
            found["train"] = round(line["seconds"] / line["images"] * total, 1)
    return found


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
