"""Results that differ in seeds alone make a row; the parameters in which rows differ get a name.

Code that changed is a difference too, unless it is shown to make none: where two versions gave the same bytes of a classifier and the same
accuracy under the same parameters and seeds, they are one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.settings import Result

SECTIONS = ("data", "datasets", "train", "losses", "mixing", "reweighting", "extract", "features", "heads", "evaluate", "code")
Version = tuple[tuple[str, str], ...]


@dataclass
class Row:
    """A head under one setting.

    parameters : all that it depends on; versioned : files of its code of which there are several versions
    results : by seeds, in the order found
    """

    head: str
    parameters: dict[str, Any]
    versioned: list[str]
    results: dict[tuple[tuple[str, int], ...], Result] = field(default_factory=dict)

    def distinct(self) -> list[Result]:
        """One result for each classifier: τ-norm under three values of `seed.heads` is one classifier, not three."""
        return list({result.fitted: result for result in self.results.values()}.values())

    def values(self, column: str) -> np.ndarray:
        """The figures (n,) of a column."""
        found = (result.figure(column) for result in self.distinct())
        return np.array([value for value in found if value is not None])


def group(found: list[Result]) -> list[Row]:
    """Rows: results of one head that differ in nothing but seeds. The same seeds met twice count once, by the result with more figures.

    Code and raw data become parameters where they differ: `code` is a number, `data.root` the beginning of an md5.
    """
    several = contested(found)
    versions = settled([(bucket(result), version(result, several), proof(result)) for result in found])
    codes = {head: list(dict.fromkeys(v for r, v in zip(found, versions, strict=True) if r.head == head)) for head in several}
    rows: dict[Any, Row] = {}
    for result, own in zip(found, versions, strict=True):
        parameters = dict(result.parameters)
        if "data.root" in several[result.head]:
            parameters["data.root"] = (result.inputs or {}).get("data.root", "unknown")[:7]
        if len(codes[result.head]) > 1:
            parameters["code"] = codes[result.head].index(own) + 1
        files = [path for path, _ in own] if "code" in parameters else []
        row = rows.setdefault((result.head, frozenset(parameters.items())), Row(result.head, parameters, files))
        seeds = tuple(sorted(result.seeds.items()))
        if seeds not in row.results or len(result.run.figures[result.head]) > len(row.results[seeds].run.figures[result.head]):
            row.results[seeds] = result
    places = {head: place for place, head in enumerate(several)}
    settings = {key: place for place, key in enumerate(dict.fromkeys(map(stage_one, rows.values())))}
    return sorted(rows.values(), key=lambda row: (settings[stage_one(row)], places[row.head]))


def contested(found: list[Result]) -> dict[str, list[str]]:
    """For each head, paths of its code and raw data of which there are several versions."""
    seen: dict[str, dict[str, set[str]]] = {}
    for result in found:
        versions = seen.setdefault(result.head, {})
        for path, digest in (result.inputs or {}).items():
            versions.setdefault(path, set()).add(digest)
    return {head: sorted(path for path, digests in versions.items() if len(digests) > 1) for head, versions in seen.items()}


def version(result: Result, several: dict[str, list[str]]) -> Version:
    """md5 of those files of a result's code of which there are several versions."""
    return tuple((path, (result.inputs or {}).get(path, "unknown")) for path in several[result.head] if path != "data.root")


def bucket(result: Result) -> tuple[str, frozenset[tuple[str, Any]]]:
    """Head and parameters: what code can be shown to be equal for."""
    return result.head, frozenset(result.parameters.items())


def proof(result: Result) -> tuple[Any, ...]:
    """What is equal only if code made no difference."""
    return tuple(sorted(result.seeds.items())), result.fitted, result.figure("all")


def settled(found: list[tuple[Any, Version, tuple[Any, ...]]]) -> list[Version]:
    """For each bucket, version and proof the version that stands for it: the first of those that share a proof, in one step or several
    (disjoint sets, whose nodes are versions and proofs).
    """
    parent: dict[Any, Any] = {}

    def root(node: Any) -> Any:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for place, own, shown in found:
        parent[root((place, "proof", shown))] = root((place, "version", own))
    first: dict[Any, Version] = {}
    return [first.setdefault(root((place, "version", own)), own) for place, own, _ in found]


def stage_one(row: Row) -> frozenset[tuple[str, Any]]:
    """What a row has in common with other heads of the same runs."""
    return frozenset((name, value) for name, value in row.parameters.items() if name.split(".")[0] not in ("heads", "code", "evaluate"))


def tested(row: Row) -> frozenset[tuple[str, Any]]:
    """What makes the test images and the groups of classes: among rows where this is equal, one is the best."""
    return frozenset(
        (name, value)
        for name, value in row.parameters.items()
        if name.startswith(("data.", "datasets.", "features", "evaluate.many", "evaluate.few", "evaluate.groups."))
    )


def differing(rows: list[Row]) -> list[str]:
    """Names of the parameters that have two values or more among the rows that have them, in the order of params.yaml.

    Where that leaves two rows of a head alike (one was run when a parameter did not exist yet), what one has and the other lacks as well.
    """
    values: dict[str, set[Any]] = {}
    for row in rows:
        for name, value in row.parameters.items():
            values.setdefault(name, set()).add(value)
    names = {name for name, several in values.items() if len(several) > 1}
    alike: dict[Any, list[Row]] = {}
    for row in rows:
        alike.setdefault((row.head, tuple(row.parameters.get(name) for name in sorted(names))), []).append(row)
    for twins in alike.values():
        names |= {name for twin in twins for name in twin.parameters if len({other.parameters.get(name) for other in twins}) > 1}
    first = {name: place for place, name in enumerate(values)}
    return sorted(names, key=lambda name: (SECTIONS.index(name.split(".")[0]), first[name]))
