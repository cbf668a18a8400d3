"""What a head's result depends on.

A head's result depends on the stages that lead to it and on no other head. Both the parameters and the code of these stages count, as
dvc.lock records them; of `evaluate` only what makes the groups of classes. A run without dvc.lock has its params.yaml, of which the chosen
data set, loss, mixing and re-weighting count; its code is taken to be that of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pipeline import extract, methods, params
from pipeline.evaluate import Evaluate
from pipeline.files import InputError
from pipeline.runs import Run

OWN = extract.FILE.as_posix()  # the features that `extract` writes, and not imported ones
THRESHOLDS = {f"evaluate.{name}": Evaluate.model_fields[name].default for name in ("many", "few")}


class Result(NamedTuple):
    """One head of one run.

    parameters : by dotted name, without seeds
    seeds : those that it depends on, by name
    inputs : md5 of the code and raw data that it depends on, by path; None where nothing recorded them
    fitted : what tells classifiers apart: their md5, or the seeds
    """

    run: Run
    head: str
    parameters: dict[str, Any]
    seeds: dict[str, int]
    inputs: dict[str, str] | None
    fitted: tuple[Any, ...]

    def figure(self, column: str) -> float | None:
        """A figure by its dotted name in data/results/heads/NAME.json; None where there is none, as for a group without classes."""
        node = params.find(self.run.figures[self.head], column)
        return None if node is None or isinstance(node, str | dict | list) else float(node)


def results(run: Run, columns: Sequence[str] = ()) -> Iterator[Result]:
    """Every head and ensemble of a run; `columns` are the figures to be shown, of which those of a user's group depend on its classes.

    Raises
    ------
    InputError
        If a params.yaml lacks what made the results.
    """
    groups = {part for column in columns for part in column.split(".")}
    for head in run.figures:
        used = from_lock(run, head, groups) if run.lock else from_tree(run, head, groups)
        if used is None:
            continue
        parameters, inputs, fitted = used
        seeds = {name: value for name, value in parameters.items() if name.startswith("seed.")}
        parameters = {name: value for name, value in parameters.items() if name not in seeds and name != "data.root"}
        yield Result(run, head, parameters, seeds, inputs, fitted or tuple(sorted(seeds.items())))


def from_lock(run: Run, head: str, groups: set[str]) -> tuple[dict[str, Any], dict[str, str], tuple[Any, ...]] | None:
    """Parameters, inputs and fitted classifiers of a head or an ensemble, from the stages that lead to it.

    None where a stage has run without those after it, as in a run under way: the result is then not what these parameters give.
    """
    stages = run.lock["stages"]
    makers = {out["path"]: (name, out["md5"]) for name, stage in stages.items() for out in stage.get("outs", [])}
    used = {name: stage.get("params", {}).get("params.yaml", {}) for name, stage in stages.items()}
    judged, voters = used["evaluate"]["evaluate"], voters_of(used["evaluate"]["evaluate"], head)
    if any(used.get(f"head@{voter}", {}).get(f"heads.{voter}") != used["evaluate"]["heads"][voter] for voter in voters):
        return None
    fitted = {voter: stages[f"head@{voter}"]["outs"][0]["md5"] for voter in voters}
    if any(run.classifiers.get(voter, digest) != digest for voter, digest in fitted.items()):
        return None
    parameters, inputs = judging(judged, head, groups), {}
    pending, done = ["evaluate", *(f"head@{voter}" for voter in voters)], set()
    while pending:
        name = pending.pop()
        done.add(name)
        parameters |= flat(used[name]) if name != "evaluate" else {}
        for dep in stages[name]["deps"]:
            path, digest = dep["path"], dep["md5"]
            if path in makers:
                maker, written = makers[path]
                if written != digest:
                    return None
                pending += [maker] if maker not in done else []
            elif path != "data/heads":
                inputs["data.root" if name == "prepare" and not path.startswith("pipeline/") else path] = digest
    sources = [next(dep for dep in stages[f"head@{voter}"]["deps"] if not dep["path"].startswith("pipeline/")) for voter in voters]
    parameters["features"] = sources[0]["path"]
    return parameters, inputs, (sources[0]["md5"], *fitted.values())


def from_tree(run: Run, head: str, groups: set[str]) -> tuple[dict[str, Any], None, tuple[Any, ...]]:
    """The same from a params.yaml."""
    tree = run.tree or {}

    def at(where: str) -> Any:
        value = params.find(tree, where)
        if value is None:
            raise InputError(f"{run.name}: its params.yaml has no {where}, so what made its results is unknown")
        return value

    source, judged = tree.get("features", OWN), tree.get("evaluate") or {}
    parameters = judging(judged, head, groups) | {"features": source, "seed.heads": at("seed.heads")}
    if source == OWN:
        parameters |= flat({name: at(name) for name in ("data", "train", "extract")})
        chosen = [f"{section}.{at(of.chosen_by)}" for section, of in methods.SECTIONS.items()]
        parameters |= flat({name: params.find(tree, name) for name in chosen})
        parameters |= {f"seed.{name}": at(f"seed.{name}") for name in ("subset", "train")}
    parameters |= flat({f"heads.{voter}": at(f"heads.{voter}") for voter in voters_of(judged, head)})
    return parameters, None, ()


def voters_of(judged: dict[str, Any], head: str) -> list[str]:
    """The heads that vote in an ensemble; a head's own name for a head."""
    return (judged.get("ensembles") or {}).get(head, [head])


def judging(judged: dict[str, Any], head: str, groups: set[str]) -> dict[str, Any]:
    """What a head's or an ensemble's result depends on of the section `evaluate`, defaults included."""
    voters = voters_of(judged, head)
    ensemble = {f"evaluate.ensembles.{head}": ", ".join(voters)} if voters != [head] else {}
    own = {f"evaluate.groups.{name}": str(group) for name, group in (judged.get("groups") or {}).items() if name in groups}
    return {name: judged.get(name.removeprefix("evaluate."), default) for name, default in THRESHOLDS.items()} | own | ensemble


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted name; a list is its text, an empty section nothing."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            leaves[f"{prefix}{key}"] = str(value) if isinstance(value, list) else value
    return leaves
