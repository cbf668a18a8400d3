"""What runs one head as a stage: `python -m pipeline.heads.KIND NAME`.

A head is a file `pipeline/heads/KIND.py` with a class `Head` (its parameters and `fit`) whose last line calls `main(Head)`, and an entry
under `heads:` in params.yaml. Nothing else knows of it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from pipeline import features, params
from pipeline.classifier import Classifier
from pipeline.files import InputError, in_a_line, interruptible, note_time

FOLDER = Path("data/heads")


@interruptible("head: stopped, nothing is written; run it again")
def main(head_class: Any) -> None:
    """Fit the head that the command line names on the cached features and save its classifier to data/heads/NAME.safetensors."""
    kind = sys.modules["__main__"].__spec__.name.rpartition(".")[2]  # of `python -m pipeline.heads.KIND`
    tree = params.read()
    name = asked_for(tree, kind)
    head = params.section(tree, f"heads.{name}", head_class, without=("kind",))
    seed = params.seed(tree, "heads")
    splits = features.load(params.features_file(tree), "train", "val")

    start = time.perf_counter()
    classifier = head.fit(splits["train"], splits["val"], seed)
    seconds = time.perf_counter() - start
    check(classifier, name, kind, splits["train"])
    target = FOLDER / f"{name}.safetensors"
    classifier.save(target)
    note_time(f"head@{name}", target, seconds)
    selected_on = classifier.record.get("selected_on", "nothing")
    chosen = "".join(f", {key} {value:g} chosen on {selected_on}" for key, value in classifier.record.get("chosen", {}).items())
    train = splits["train"]
    print(
        f"{name}: {len(train.labels):,} x {train.dim} features of {train.classes} classes, {train.source}, fitted in {seconds:.2f} s "
        f"on {place()}{chosen} -> {target}"
    )


def check(classifier: Any, name: str, kind: str, train: features.Features) -> None:
    """Refuse what a head must not return; nothing is written then.

    Raises
    ------
    InputError
        If it is no Classifier, does not fit the features and classes, is not finite, or notes what JSON cannot hold.
    """
    made = f"pipeline/heads/{kind}.py: fit"
    if not isinstance(classifier, Classifier):
        raise InputError(f"{made} returned {type(classifier).__name__}, expected a Classifier of pipeline/classifier.py")
    if problem := classifier.problem(train.dim, train.classes):
        raise InputError(f"{made}: {problem}")
    try:
        json.dumps(classifier.record)
    except (TypeError, ValueError) as error:
        raise InputError(f"{made}: the record is not plain JSON values ({in_a_line(error)}); `.item()` or `.tolist()` makes such") from None
    if not classifier.is_finite():
        raise InputError(
            f"params.yaml: heads.{name}: the fit ended in NaN or infinite weights; nothing is written. Lower its rate or power"
        )


def place() -> str:
    """Where the head was fitted: heads that take torch take the GPU, if there is one; the others never load it."""
    if "torch" not in sys.modules:
        return "cpu"
    from pipeline.device import device

    return str(device())


def asked_for(tree: dict[str, Any], kind: str) -> str:
    """The head's name from the command line, checked against params.yaml and the kind that runs."""
    names = params.head_names(tree)
    if len(sys.argv) != 2 or sys.argv[1] not in names:
        asked = f"no head {sys.argv[1]!r}" if len(sys.argv) == 2 else "which head?"
        raise InputError(f"params.yaml: heads: {asked}; known: {', '.join(names)}")
    name = sys.argv[1]
    entry = params.at(tree, f"heads.{name}.kind")
    if entry != kind:
        params.method("heads", entry, f"heads.{name}.kind")  # of an unknown kind that is the thing to say
        raise InputError(f"params.yaml: heads.{name}.kind: is {entry!r}; run `python -m pipeline.heads.{entry} {name}`")
    return name
