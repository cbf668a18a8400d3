"""Where results come from: hashes of the artefacts, versions, durations, and whether params.yaml and dvc.lock still say the same."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import backbone, evaluate, extract, images, outcomes, params, runs, timings
from pipeline.files import InputError, md5

if TYPE_CHECKING:
    from pipeline.results import Results

LOCK = Path("dvc.lock")
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "faiss-cpu", "h5py", "matplotlib", "dvc")


class Artefact(NamedTuple):
    """A file: the stage that makes it, path, MD5, bytes, and how long the run that made these very bytes took.

    seconds : None where that was not measured
    """

    stage: str
    path: str
    md5: str
    size: int
    seconds: float | None


class Provenance(NamedTuple):
    """What a reader needs to make the same again, and `warnings` where the parts do not belong together."""

    artefacts: list[Artefact]
    versions: dict[str, str]
    revision: str
    warnings: list[str]


def read(found: Results) -> Provenance:
    """Look at every artefact behind the results; hashing takes about two seconds a gigabyte."""
    files = {
        "prepare": images.FILE,
        "train": backbone.FILE,
        "extract": params.features_file(found.tree),
        **{f"head@{name}": evaluate.HEADS / f"{name}.safetensors" for name in found.heads},
        "evaluate": outcomes.FILE,
    }
    if files["extract"] != extract.FILE:  # imported: images and backbone, if there are any, have nothing to do with it
        files = {stage: path for stage, path in files.items() if stage not in ("prepare", "train")}
    times = durations()
    artefacts = []
    for stage, path in files.items():
        if path.exists():
            found_md5 = md5(path)
            artefacts.append(Artefact(stage, path.as_posix(), found_md5, path.stat().st_size, times.get((stage, found_md5))))
    return Provenance(artefacts, versions(), revision(), warnings(found.tree, artefacts))


def durations() -> dict[tuple[str, str | None], float]:
    """Seconds by stage and MD5 of what it made, the latest run of each."""
    return {(line["stage"], line.get("md5")): line["seconds"] for line in timings.read()}


def versions() -> dict[str, str]:
    """Of Python, its packages and the machine."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"machine": f"{platform.system()} {platform.machine()}"}


def revision(*paths: str) -> str:
    """The commit, with `-dirty` behind it where files differ from it, of `paths` only if there are any; empty where this is no git
    repository.
    """
    try:
        commit = git("describe", "--always", "--abbrev=10")
        differs = git("diff", "--quiet", "HEAD", "--", *paths).returncode == 1
    except FileNotFoundError:
        return ""
    return commit.stdout.strip() + "-dirty" * differs


def git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)


def warnings(tree: dict[str, Any], artefacts: list[Artefact]) -> list[str]:
    """What speaks against it that the results were made with params.yaml as it is and with the files as they are, a line each."""
    judged = json.loads(evaluate.PROVENANCE.read_text(encoding="utf-8"))["classifiers"]
    now = {artefact.stage: artefact.md5 for artefact in artefacts}
    refitted = [f"head@{name}: fitted again since its results were written" for name in judged if now.get(f"head@{name}") != judged[name]]
    if not LOCK.exists():
        return [*refitted, "no dvc.lock here, so nothing tells which parameters these results were made with"]
    try:
        lock = runs.load(LOCK.read_text(encoding="utf-8"), LOCK.as_posix())
    except InputError as error:
        return [*refitted, str(error)]
    return [*refitted, *differences(params.find(lock, "stages") or {}, tree, artefacts)]


def differences(stages: dict[str, Any], tree: dict[str, Any], artefacts: list[Artefact]) -> list[str]:
    """What params.yaml or the files say otherwise than dvc.lock, which knows what the results were made with; a line each."""
    found = []
    for stage, entry in stages.items():
        if stage.startswith("head@") and stage.removeprefix("head@") not in tree["heads"]:
            continue
        for section, used in entry.get("params", {}).get("params.yaml", {}).items():
            for key, then, now in changed(section, used, params.find(tree, section)):
                found.append(f"params.yaml: {key} was {then} when {stage} ran and is {now} now")
    locked = {out["path"]: out.get("md5") for entry in stages.values() for out in entry.get("outs", [])}
    for artefact in artefacts:
        if artefact.path in locked and locked[artefact.path] != artefact.md5:
            found.append(f"{artefact.path}: not the file that dvc.lock names")
    return found


def changed(key: str, then: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """The dotted paths below `key` at which two trees of parameters differ, with both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*then, *now]):
            yield from changed(f"{key}.{name}", then.get(name, "missing"), now.get(name, "missing"))
    elif then != now:
        yield key, then, now
