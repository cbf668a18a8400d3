"""Finished runs to compare: experiments and commits of this repository, or folders in which the pipeline has run.

Of an experiment, git holds dvc.lock and the small results, and DVC's cache the predictions. Experiments are read from git's references
`refs/exps/BASELINE/NAME`, where DVC documents that it keeps them, with one `git cat-file` for all: `dvc exp show` takes seconds and does
not say which stage used which parameter, `dvc.lock` does.
"""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML, YAMLError

from pipeline import evaluate, outcomes, params
from pipeline.files import InputError, md5, parse_json, read_json

RESULTS = (evaluate.RESULTS / "heads").as_posix()
PROVENANCE = evaluate.PROVENANCE.as_posix()
PREDICTIONS = outcomes.FILE.as_posix()
AGAIN = "run `dvc repro evaluate` in its folder"


class Run(NamedTuple):
    """One pass through the pipeline.

    name : of the experiment, branch or folder
    lock : content of dvc.lock, which holds what each stage used; None where DVC did not run it
    tree : content of params.yaml where there is no lock
    figures : content of data/results/heads/NAME.json by head, in the order of params.yaml
    classifiers : md5 of the classifier behind each head's figures; empty for runs of a time when that was not written down
    predictions : the file that holds them, which may be missing
    """

    name: str
    lock: dict[str, Any] | None
    tree: dict[str, Any] | None
    figures: dict[str, dict[str, Any]]
    classifiers: dict[str, str]
    predictions: Path


def find(wanted: list[str]) -> list[Run]:
    """The runs that the command line names: folders, experiments (`ce-*`) or commits; all experiments, HEAD and the workspace if none.

    Raises
    ------
    InputError
        If a name fits nothing, a folder or commit has no results, or there is no run at all.
    """
    if not wanted:
        return everything()
    found: dict[str, Run] = {}
    for name in wanted:
        if Path(name).is_dir():
            found[name] = folder(Path(name))
        else:
            fitting = from_git(matching(name))
            if not fitting:
                raise InputError(f"{name}: has no results in git ({RESULTS}); run `dvc repro` there and commit")
            found |= {run.name: run for run in fitting}
    return list(found.values())


def everything() -> list[Run]:
    """All experiments in the order they were made, the current commit, and the workspace where it has results."""
    found = []
    if git("rev-parse", "--verify", "--quiet", "HEAD"):
        found = from_git(experiments() | {git("rev-parse", "--abbrev-ref", "HEAD").strip(): "HEAD"})
    if any(Path(RESULTS).glob("*.json")):
        found.append(folder(Path()))
    if not found:
        raise InputError("no results to compare: `dvc repro` makes the first, `dvc exp run -S train.loss=graloss` more; or name folders")
    return found


def matching(pattern: str) -> dict[str, str]:
    """Commits by name: the experiments that a name or a pattern like `ce-*` fits, or else the commit that git knows by it."""
    known = experiments()
    fitting = {name: commit for name, commit in known.items() if fnmatchcase(name, pattern)}
    if not fitting and git("rev-parse", "--verify", "--quiet", f"{pattern}^{{commit}}"):
        fitting = {pattern: pattern}
    if not fitting:
        raise InputError(f"{pattern}: no such folder, experiment or commit; experiments: {', '.join(known) or 'none'}")
    return fitting


def experiments() -> dict[str, str]:
    """Commit of each experiment by its name, oldest first; of two with one name (from two commits) both, the later as NAME@BASELINE."""
    found: dict[str, str] = {}
    for line in git("for-each-ref", "--sort=creatordate", "--format=%(objectname) %(refname)", "refs/exps").splitlines():
        if match := re.fullmatch(r"(\w+) refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)", line):  # others are DVC's own bookkeeping
            commit, start, rest, name = match.groups()
            found[name if name not in found else f"{name}@{(start + rest)[:7]}"] = commit
    return found


def from_git(commits: dict[str, str]) -> list[Run]:
    """Runs at commits, given by name; a commit without results is left out."""
    texts = blobs([f"{commit}:./dvc.lock" for commit in commits.values()])
    locks = {name: lock for name, text in zip(commits, texts, strict=True) if (lock := parse(text, f"dvc.lock of {name}"))}
    where = [(name, head) for name, lock in locks.items() for head in head_names(lock)]
    texts = blobs([f"{commits[name]}:./{RESULTS}/{head}.json" for name, head in where])
    figures: dict[str, dict[str, Any]] = {name: {} for name in locks}
    for (name, head), text in zip(where, texts, strict=True):
        if text:
            figures[name][head] = parse_json(text, f"{RESULTS}/{head}.json of {name}", AGAIN)
    texts = blobs([f"{commits[name]}:./{PROVENANCE}" for name in locks])
    known = {
        name: parse_json(text, f"{PROVENANCE} of {name}", AGAIN).get("classifiers", {}) if text else {}
        for name, text in zip(locks, texts, strict=True)
    }
    return [Run(name, lock, None, figures[name], known[name], cached(lock)) for name, lock in locks.items() if figures[name]]


def folder(path: Path) -> Run:
    """The run whose files lie in a folder.

    dvc.lock tells its parameters, if these results are those that it records, and else params.yaml: somebody ran stages by hand.
    """
    name = "workspace" if path == Path() else path.as_posix().rstrip("/")
    found = {file.stem: read_json(file, AGAIN) for file in sorted((path / RESULTS).glob("*.json"))}
    if not found:
        raise InputError(f"{name}: has no {RESULTS}/*.json; it should be a folder in which `evaluate` has run")
    if not (path / PROVENANCE).exists():
        raise InputError(f"{name}: has no {PROVENANCE}, which `evaluate` writes last; run `dvc repro evaluate` there")
    file = path / "dvc.lock"
    lock = parse(file.read_text(encoding="utf-8"), file.as_posix()) if file.exists() else None
    if lock and not recorded(lock, path):
        lock = None
    tree = None if lock else params.read(path / "params.yaml")
    judged = lock["stages"]["evaluate"]["params"]["params.yaml"] if lock else tree
    names = [*(judged.get("heads") or {}), *((judged.get("evaluate") or {}).get("ensembles") or {})]
    figures = {head: found[head] for head in names if head in found}
    if not figures:
        raise InputError(f"{name}: has no results of the heads in its params.yaml; run `dvc repro` there")
    predictions = path / PREDICTIONS
    if lock and predictions.exists() and md5(predictions) != outs(lock).get(PREDICTIONS):
        predictions = cached(lock)  # git brought other results back, and DVC not yet what belongs to them
    return Run(name, lock, tree, figures, read_json(path / PROVENANCE, AGAIN).get("classifiers", {}), predictions)


def head_names(lock: dict[str, Any]) -> list[str]:
    """Names of the heads and ensembles that `evaluate` judged."""
    used = lock["stages"]["evaluate"]["params"]["params.yaml"]
    return [*used["heads"], *(used["evaluate"].get("ensembles") or {})]


def load(text: str, name: str) -> dict[str, Any] | None:
    """Content of a dvc.lock.

    Raises
    ------
    InputError
        If it is no YAML: the line calls it `name`.
    """
    try:
        return YAML(typ="safe").load(text)
    except YAMLError:
        raise InputError(f"{name}: not valid YAML, perhaps a merge conflict; resolve it, then `dvc repro`") from None


def parse(text: str | None, name: str) -> dict[str, Any] | None:
    """Content of a dvc.lock; None for one in which `evaluate` has not run."""
    content = load(text, name) if text else None
    stages = content.get("stages") if isinstance(content, dict) else None
    judged = (stages.get("evaluate") or {}) if isinstance(stages, dict) else {}
    return content if {"evaluate", "heads"} <= judged.get("params", {}).get("params.yaml", {}).keys() else None


def outs(lock: dict[str, Any]) -> dict[str, str]:
    """md5 of what `evaluate` wrote, by path."""
    return {out["path"]: out["md5"] for out in lock["stages"]["evaluate"]["outs"]}


def recorded(lock: dict[str, Any], path: Path) -> bool:
    """Whether the results in a folder are those that its dvc.lock records, and not made by hand since."""
    tables = {file: digest for file, digest in outs(lock).items() if file.startswith("data/results/") and not digest.endswith(".dir")}
    return all((path / file).exists() and md5(path / file) == digest for file, digest in tables.items())


def cached(lock: dict[str, Any]) -> Path:
    """Where DVC's cache keeps the predictions that a dvc.lock records."""
    digest = outs(lock).get(PREDICTIONS, "missing")
    return cache_folder() / "files" / "md5" / digest[:2] / digest[2:]


@cache
def cache_folder() -> Path:
    """DVC's cache, which a user may have put anywhere: only DVC itself knows."""
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True)
    return Path(done.stdout.strip() or ".dvc/cache")


def git(*command: str) -> str:
    """What a git command prints; nothing where it fails, as outside a repository."""
    try:
        return subprocess.run(["git", *command], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return ""


def blobs(names: list[str]) -> list[str | None]:
    """Texts of files in git, named `COMMIT:./PATH`; None for one that is not there."""
    if not names:
        return []
    output = subprocess.run(["git", "cat-file", "--batch"], input="\n".join(names).encode() + b"\n", capture_output=True, check=True).stdout
    texts: list[str | None] = []
    for _ in names:
        header, _, output = output.partition(b"\n")
        if header.endswith(b" missing"):
            texts.append(None)
            continue
        size = int(header.rsplit(b" ", 1)[1])
        texts.append(output[:size].decode())
        output = output[size + 1 :]
    return texts
