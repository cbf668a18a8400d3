"""Each stage's declared code in dvc.yaml is what it imports, no less (a stale result) and no more (a needless run)."""

import ast
import contextlib
import importlib
import re
import sys

import pytest

from pipeline import params
from tests.conftest import ROOT

DVC = params.read(ROOT / "dvc.yaml")["stages"]
PARAMS = params.read(ROOT / "params.yaml")
CHOICES = {
    "data.name": "datasets",
    "train.backbone.family": "backbones",
    "train.loss": "losses",
    "train.mix": "mixing",
    "train.reweight": "reweighting",
}


def imported(path):
    """Files below pipeline/ that one file imports when it runs, wherever the import stands."""
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {file for module in modules if (ROOT / (file := module.replace(".", "/") + ".py")).is_file()}


def closure(*paths):
    """The files themselves and all that they import, over any number of steps."""
    found, waiting = set(), list(paths)
    while waiting:
        if (path := waiting.pop()) not in found:
            found.add(path)
            waiting += imported(path)
    return found


def declared(stage, **chosen):
    """The .py dependencies of a stage, its templates filled in from params.yaml or from what is chosen here."""
    fill = lambda match: chosen.get(match[1]) or str(params.at(PARAMS, match[1]))  # noqa: E731
    return {path for path in (re.sub(r"\$\{([\w.]+)\}", fill, dep) for dep in stage["deps"]) if path.endswith(".py")}


def test_the_closure_follows_imports():
    assert imported("pipeline/check.py") >= {"pipeline/recipe.py", "pipeline/files.py"}
    assert "pipeline/network.py" in imported("pipeline/backbone.py")  # inside of a function
    assert "pipeline/objective.py" not in imported("pipeline/inference.py")
    assert closure("pipeline/files.py") == {"pipeline/files.py"}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("prepare", ["data.name"]),
        ("train", ["train.backbone.family", "train.loss", "train.mix", "train.reweight"]),
        ("extract", ["train.backbone.family"]),
        ("deviation", []),
        ("evaluate", []),
    ],
)
def test_a_stage_declares_exactly_what_it_imports(name, keys):
    for key in keys or [None]:
        for method in params.known(CHOICES[key]) if key else [None]:
            chosen = {k: params.at(PARAMS, k) for k in keys} | ({key: method} if key else {})
            files = [f"pipeline/{CHOICES[k]}/{value}.py" for k, value in chosen.items()]
            assert declared(DVC[name], **chosen) == closure(f"pipeline/{name}.py", *files)


def test_a_head_declares_its_own_file_and_what_heads_share():
    kinds = params.known("heads")
    shared = set().union(*(closure(f"pipeline/heads/{kind}.py") - {f"pipeline/heads/{kind}.py"} for kind in kinds))
    assert not any(path.startswith("pipeline/heads/") for path in shared)
    for kind in kinds:
        assert declared(DVC["head"]["do"], **{"item.kind": kind}) == shared | {f"pipeline/heads/{kind}.py"}


def test_no_stage_imports_another_and_packages_are_empty():
    stages = {f"pipeline/{name}.py" for name in ("prepare", "train", "extract", "deviation", "evaluate")}
    for stage in stages:
        assert closure(stage) & stages == {stage}
    for init in ROOT.glob("pipeline/**/__init__.py"):
        assert init.read_text() == ""


def test_every_method_has_an_entry_in_params_yaml():
    for package in ("datasets", "losses", "mixing", "reweighting"):
        assert sorted(PARAMS[package]) == params.known(package)


def test_uncached_or_persistent_outputs_stand_only_where_the_run_cache_may_be_off():
    """Either turns DVC's run cache off for its stage, and going back to an earlier loss would train again."""
    for name in ("prepare", "train", "extract"):
        assert all(isinstance(out, str) for out in DVC[name]["outs"])
    assert all(isinstance(out, str) for out in DVC["head"]["do"]["outs"])


@pytest.mark.parametrize("name", ["prepare", "train", "extract", "deviation", "evaluate", "heads.tau", "heads.crt"])
def test_a_stage_declares_the_parameters_that_it_asks_for(workspace, monkeypatch, name):
    """All that it reads up to where it misses its images or features, which is behind the reading of parameters."""
    asked, at = set(), params.at

    def watched(tree, where):
        asked.add(where)
        return at(tree, where)

    monkeypatch.setattr(params, "at", watched)
    module, kind = importlib.import_module(f"pipeline.{name}"), name.removeprefix("heads.")
    is_head = kind != name
    monkeypatch.setattr(sys, "argv", [name, kind] if is_head else [name])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", module.__spec__)
    with contextlib.suppress(SystemExit):
        module.main(module.Head) if is_head else module.main()
    asked -= {"features"} | ({"heads"} if is_head else set())  # a path, which is a dependency; names, each of which is a stage
    if name == "extract":
        asked = {"train.augment" if where == "train" else where for where in asked}  # all that its StageOne takes of it
    fill = lambda match: kind if match[1] == "key" else str(params.find(PARAMS, match[1]))  # noqa: E731
    declared = [re.sub(r"\$\{([\w.]+)\}", fill, each) for each in (DVC["head"]["do"] if is_head else DVC[name])["params"]]
    assert asked
    assert {where for where in asked if not any(f"{where}.".startswith(f"{each}.") for each in declared)} == set()
