"""A project whose cells are tiny, for the tests of reproduction."""

import json
import shutil
import sys

import pytest
from ruamel.yaml import YAML

from pipeline import cells, published, reproduce
from tests.conftest import ROOT
from tests.test_cifar import small  # noqa: F401

KNOWN = YAML(typ="safe").load((ROOT / cells.FILE).read_text())


def write_yaml(path, content):
    """A YAML file."""
    with path.open("w") as file:
        YAML().dump(content, file)


def write_cells(known):
    """cells.yaml."""
    write_yaml(cells.FILE, known)


@pytest.fixture
def project(workspace, small, monkeypatch):  # noqa: F811
    """A workspace of tiny cells, with a small CIFAR-10; a function that calls `reproduce`."""
    (workspace / "data/reproduction").mkdir(parents=True)
    shutil.copy(ROOT / published.FILE, published.FILE)
    tiny = {**KNOWN, "heads": {name: KNOWN["heads"][name] for name in ("joint", "tau_val", "crt", "lws")}}
    tiny["common"] = json.loads(json.dumps(KNOWN["common"]))
    tiny["common"]["train"] |= {"epochs": 2, "warmup_epochs": 0, "batch": 32}
    tiny["common"]["train"]["backbone"] |= {"depth": 8, "width": 4}
    tiny["common"]["extract"]["views"] = 1
    tiny["common"]["evaluate"]["ensembles"] = {"vote": ["crt", "lws"]}
    tiny.pop("variants", None)
    tiny["data"] = {"cifar10-lt": {"data": {"name": "cifar10", "imbalance": "exponential", "val": "reserve", "val_per_class": 1}}}
    write_cells(tiny)
    monkeypatch.setenv("TAILCACHE_CIFAR", str(small[0]))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
        reproduce.main()

    return call
