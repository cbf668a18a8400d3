"""The stages of a cell, each in a process of its own, in a folder of the cell's own: what is missing is made, what is there stays."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML

from pipeline import backbone, cells, extract, finished, image_level, images, methods, params, provenance, stored
from pipeline.cells import Tree
from pipeline.evaluate import HEADS
from pipeline.files import InputError, write_text
from pipeline.finished import FULL, JUDGED
from pipeline.import_features import FOLDER

STAGES = {"prepare": images.FILE, "train": backbone.FILE, "extract": extract.FILE}  # and what each makes
TOGETHER = FOLDER / "networks.h5"  # features of several networks side by side
OF_FORMER = {  # what was made of a stage's former result, and goes before it runs again
    "train": (extract.FILE, image_level.FILE, Path(FULL) / extract.FILE),
    "extract": (HEADS,),
    "concatenate": (HEADS,),
}
CODE = Path(__file__).parents[1]


class Place(NamedTuple):
    """A cell's folder, and the descriptor of the lock that is held on it."""

    path: Path
    lock: int

    def make(self, tree: Tree, trained: Path | None = None, heads: list[str] | None = None) -> None:
        """Run the stages whose results are missing.

        trained : a backbone to take instead of training, if it is there and of the same parameters
        heads : the only ones to fit; None stands for all
        """
        tree = self.limited(tree, heads)
        self.start(tree)
        for stage, made in STAGES.items():
            if (self.path / made).exists() or (stage == "train" and trained and self.take(trained, tree)):
                continue
            if stage == "train":
                self.note_beginning(tree["train"]["compile"])
            self.call(stage)
        self.judge(tree, heads)

    def take(self, trained: Path, tree: Tree) -> bool:
        """Take a stored backbone, with what was made of a former one gone first; whether there was one of these parameters."""
        self.drop(*OF_FORMER["train"])
        taken = stored.fetch(trained, self.path, of_training(tree))
        if taken:
            print(f"reproduce: {self.path}: backbone of {trained}, not trained anew", flush=True)
        return taken

    def give_up_stored(self) -> None:
        """Remove a backbone that was stored and not trained here, so that it is trained."""
        if "train_seconds" in finished.about(self.path):
            self.drop(Path(backbone.FILE), Path(finished.ABOUT))

    def note_beginning(self, compiled: bool) -> None:
        """Note which commit a training begins or goes on with, which it only does with the same code, on which device, and whether
        compiled.

        That runs.csv has rows which are not committed yet does not make the code another one.
        """
        where = f"{device_name()}{', compiled' * compiled}"
        finished.note(self.path, {"revision": provenance.revision("pipeline", cells.FILE.as_posix()), "device": where})

    def put_together(self, tree: Tree, sources: list[Path], heads: list[str] | None = None) -> None:
        """Fit and judge heads on features of several networks side by side.

        tree : parameters of any of the networks, with the seed of these heads
        heads : as in `make`
        """
        tree = self.limited({**tree, "features": TOGETHER.as_posix()}, heads)
        self.start(tree)
        caches = [(source / extract.FILE).resolve() for source in sources]
        made = self.path / TOGETHER
        if not made.exists() or made.stat().st_mtime < max(cache.stat().st_mtime for cache in caches):
            self.call("concatenate", "--name", TOGETHER.stem, *map(str, caches))
        self.judge(tree, heads)

    def judge_in_full(self, tree: Tree) -> None:
        """Fit and judge a classifier on features of the whole training set, in a folder beside the backbone's results."""
        inner = Place(self.path / FULL, self.lock)
        (inner.path / "data").mkdir(parents=True, exist_ok=True)
        shutil.copy(self.path / backbone.FILE, inner.path / backbone.FILE)
        inner.make(tree)

    def judge(self, tree: Tree, heads: list[str] | None) -> None:
        """Fit the heads that are missing, and those of `heads` that are older than their kind's file; evaluate all where one is new."""
        judged = self.path / JUDGED
        fitted = [self.path / HEADS / f"{head}.safetensors" for head in tree["heads"]]
        for path in fitted:
            kind = tree["heads"][path.stem]["kind"]
            code = CODE / f"pipeline/heads/{kind}.py"
            asked = heads is None or path.stem in heads
            if not path.exists() or (asked and path.stat().st_mtime < code.stat().st_mtime):
                self.call(f"heads.{kind}", path.stem)
        if not judged.exists() or judged.stat().st_mtime < max(path.stat().st_mtime for path in fitted):
            self.call("evaluate")

    def limited(self, tree: Tree, heads: list[str] | None) -> Tree:
        """The same parameters with those heads alone that are asked for (None: all) or fitted here already, and the ensembles of such."""
        if heads is None:
            return tree
        there = {path.stem for path in (self.path / HEADS).glob("*.safetensors")}
        some = {name: head for name, head in tree["heads"].items() if name in heads or name in there}
        votes = {name: voters for name, voters in tree["evaluate"]["ensembles"].items() if some.keys() >= set(voters)}
        return {**tree, "heads": some, "evaluate": {**tree["evaluate"], "ensembles": votes}}

    def start(self, tree: Tree) -> None:
        """Give the folder its params.yaml. What is there stays as far as its parameters do.

        Raises
        ------
        InputError
            If the backbone there was trained with other parameters.
        """
        if old := self.former(tree):
            self.drop(*outdated(old, tree))
        text = StringIO()
        YAML().dump(tree, text)
        write_text(self.path / params.FILE, text.getvalue(), beside=True)

    def former(self, tree: Tree) -> Tree | None:
        """The parameters that the folder has; None where it is new.

        Raises
        ------
        InputError
            If its backbone was trained with others than these.
        """
        file = self.path / params.FILE
        if not file.exists():
            return None
        old = params.read(file)
        if of_training(old) != of_training(tree):
            raise InputError(f"{file}: of an earlier cells.yaml; remove {self.path} to train it anew")
        return old

    def call(self, stage: str, *arguments: str) -> None:
        """Run a stage with the code of this clone; what was made of its former result goes first."""
        self.drop(*OF_FORMER.get(stage, ()))
        print(f"reproduce: {self.path}: {stage} {' '.join(arguments)}".rstrip(), flush=True)
        paths = os.pathsep.join(filter(None, (str(CODE), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", f"pipeline.{stage}", *arguments]
        done = subprocess.run(command, cwd=self.path, env={**os.environ, "PYTHONPATH": paths}, pass_fds=(self.lock,))
        if done.returncode:
            raise InputError(f"reproduce: {stage} failed in {self.path} (status {done.returncode})")

    def drop(self, *results: Path) -> None:
        """Remove files and folders, as far as they are there; that heads over images were asked for is not forgotten."""
        for path in (self.path / result for result in results):
            if path.is_dir():
                shutil.rmtree(path)
            elif path == self.path / image_level.FILE and path.exists():
                write_text(path, json.dumps(dict.fromkeys(finished.over_images(self.path))) + "\n", beside=True)
            else:
                path.unlink(missing_ok=True)


def of_training(tree: Tree) -> Tree:
    """What a backbone is trained with: of losses and the like the one that was chosen. Neither where the data set lies nor whether
    operations were fused, which is noted with the device.
    """
    own = {name: params.find(tree, name) for name in ("seed", "train", "features")}
    own["train"] = {key: value for key, value in (own["train"] or {}).items() if key != "compile"}
    for section, of in methods.SECTIONS.items():
        own[f"{section}.{of.chosen_by}"] = params.find(tree, f"{section}.{params.find(tree, of.chosen_by)}")
    return own | {"data": {**(tree.get("data") or {}), "root": None}}


def outdated(old: Tree, tree: Tree) -> list[Path]:
    """What changed parameters make stale, of what is made from a backbone."""
    known, wanted = old.get("heads") or {}, tree["heads"]
    changed = [name for name in known if known[name] != wanted.get(name)]
    found = [HEADS / f"{name}.safetensors" for name in changed]
    if old.get("extract") != tree["extract"]:
        found.append(extract.FILE)
    if known != wanted or old.get("evaluate") != tree["evaluate"]:
        found.append(JUDGED)
    if any(params.find(old, key) != params.find(tree, key) for key in image_level.READS) or set(changed) & set(image_level.KINDS):
        found.append(image_level.FILE)
    return found


def device_name() -> str:
    """The GPU's name, or the processor's and how many threads of it are used."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    known = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in known.splitlines() if line.startswith("model name")), platform.machine())
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' * (threads > 1)}"
