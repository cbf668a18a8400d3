"""The state of a training under way, written after every epoch, from which a killed one goes on and ends with the same bytes.

Order, augmentation and mixing are functions of (seed, epoch), so all there is to keep is weights, BatchNorm's statistics, momentum and the
tables so far. A checkpoint is named after what determines the result: parameters, images and code. One of any other name is never
read into a training; it stays where it is, for whoever goes back to those parameters. It is no output of the DAG, so DVC neither
removes nor caches it, and the stage removes its own once all its outputs are written.

The format is safetensors: reading it runs no code. A kill leaves the last whole one, since it is written beside and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from pipeline.files import InputError, in_a_line, write_tensors
from pipeline.inference import bf16_pays

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

FOLDER = Path("data/.checkpoints")
SCHEMA = "tailcache-checkpoint-1"

Identity = dict[str, dict[str, Any]]


class State(NamedTuple):
    """Where a training stands: `epochs` whole ones are done."""

    epochs: int
    tensors: dict[str, torch.Tensor]
    record: dict[str, Any]  # what JSON can hold


class Checkpoint:
    """The checkpoint of the training with this identity; `resumed` is how many epochs of it an earlier run has done."""

    def __init__(self, identity: Identity) -> None:
        text = json.dumps(identity, sort_keys=True)
        self.identity, self.resumed, self.machines = json.loads(text), 0, [machine()]  # the identity as it comes back from a file
        key = hashlib.sha256(text.encode()).hexdigest()
        self.path = FOLDER / f"{key[:16]}.safetensors"

    def save(self, state: State) -> None:
        """Put this state in the place of the last one."""
        about = {"schema": SCHEMA, "identity": self.identity, "machines": self.machines, "epochs": state.epochs, "record": state.record}
        text = json.dumps(about)  # not sorted: the keys of the tables' rows are their columns, in this order
        write_tensors(self.path, "torch", {name: tensor.contiguous() for name, tensor in state.tensors.items()}, {"tailcache": text})

    def load(self) -> State | None:
        """The last state, None where there is none that can be used.

        Prints a line on what it found: what it goes on from, whether another machine wrote that, or what it ignores and why.
        """
        if not self.path.exists():
            self._mention_others()
            return None
        try:
            about, tensors = _read(self.path)
        except InputError as error:
            print(f"train: {error}; ignored, training starts with the first epoch", flush=True)
            return None
        if about["identity"] != self.identity:
            print(f"train: {self.path}: made with other {differences(self.identity, about['identity'])}; ignored", flush=True)
            return None
        self.resumed = about["epochs"]
        print(f"train: goes on after epoch {self.resumed}, from {self.path}", flush=True)
        self.machines = about["machines"] + [here for here in self.machines if here != about["machines"][-1]]
        if len(self.machines) > 1:
            print(f"train: ran on {'; then on '.join(self.machines)}: other bytes than on one alone", flush=True)
        return State(self.resumed, tensors, about["record"])

    def remove(self) -> None:
        """Training is over and its outputs are written."""
        self.path.unlink(missing_ok=True)

    def _mention_others(self) -> None:
        """One line on the latest checkpoint of another training: why it is not used, and that it is still there."""
        others = sorted(FOLDER.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        if not others:
            return
        try:
            about, _ = _read(others[-1])
            reason = f"epoch {about['epochs']} of a training with other {differences(self.identity, about['identity'])}"
        except InputError as error:
            reason = str(error).partition(": ")[2]
        print(f"train: ignores {others[-1]} ({reason}); delete it, or keep it to go back", flush=True)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What `Checkpoint.save` wrote: the metadata and the tensors.

    Raises
    ------
    InputError
        If the file is truncated or something else.
    """
    try:
        with safe_open(path, "torch") as file:
            about = json.loads((file.metadata() or {}).get("tailcache", "{}"))
            if not isinstance(about, dict) or about.get("schema") != SCHEMA:
                raise InputError(f"{path}: no checkpoint of this version")
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a complete checkpoint ({in_a_line(error)})") from None


def identity(recipe: Recipe, seed: int, images: Path) -> Identity:
    """What determines the result of a training but for the machine: parameters, the images' file, the code that is loaded."""
    train = recipe.train
    parameters = {"seed.train": seed, **{f"train.{key}": value for key, value in train.model_dump().items()}}
    parameters["train.backbone"] = {"family": train.backbone["family"], **recipe.backbone.model_dump()}
    parameters[f"losses.{train.loss}"] = recipe.loss.model_dump()
    parameters[f"mixing.{train.mix}"] = recipe.mixing.model_dump()
    parameters[f"reweighting.{train.reweight}"] = recipe.reweighting.model_dump()
    return {"parameters": parameters, "images": {str(images): _hash(images)}, "code": code()}


def code() -> dict[str, str]:
    """A hash of every file of the project that this process has imported, by its name in `pipeline/`."""
    here = Path(__file__).parent
    everywhere = {str(getattr(module, "__file__", None)) for module in list(sys.modules.values())}
    files = [Path(file) for file in everywhere if file.startswith(f"{here}{os.sep}")]  # as text: with paths, 1,300 modules take 0.1 s
    return {file.relative_to(here).as_posix(): _hash(file) for file in files if file.stat().st_size}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(ours: Identity, theirs: Identity) -> str:
    """What differs between two identities: `parameters (train.lr), code (stage_one.py)`."""
    found = []
    for part in ours:
        mine, other = ours[part], theirs.get(part, {})
        names = [name for name in sorted(mine.keys() | other.keys()) if mine.get(name) != other.get(name)]
        if names:
            found.append(f"{part} ({', '.join(names)})")
    return ", ".join(found)


def machine() -> str:
    """What else the last bits of a result depend on."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    precision = ", bf16" if bf16_pays(32, torch.device("cpu")) else ""
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}{precision}, {torch.get_num_threads()} threads, torch {torch.__version__}"
