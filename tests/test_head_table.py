"""README's table of heads: each row's line is a head that fits, and every kind of head has a row."""

import dataclasses
import re

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline import params
from pipeline.classifier import Classifier
from tests.conftest import ROOT
from tests.test_contract import QUICK

README = (ROOT / "README.md").read_text()


def rows():
    """Name and parameters of each row's line."""
    text = re.search(r"<!-- heads -->\n.*\n\|---.*\n((?:\|.*\n)+)", README)[1]
    lines = [re.search(r"`([^`]*\{.*\})`", line)[1] for line in text.splitlines()]
    return {name: entry for line in lines for name, entry in YAML(typ="safe").load(line).items()}


@pytest.mark.parametrize("name", rows())
def test_a_row_fits_through_its_flags(train, val, name):
    options = dict(rows()[name])
    kind = options.pop("kind")
    brief = {"epochs": 2, "batch": 16, "lr": 0.01} if kind in QUICK else {}
    head = params.section({"heads": {name: options | brief}}, f"heads.{name}", params.method("heads", kind, "").Head)
    fitted = head.fit(dataclasses.replace(train, pre_relu=train.features - 1), val, 0)
    assert isinstance(fitted, Classifier)
    assert fitted.is_finite()
    assert len(np.unique(fitted.predict(val.features))) > 1


def test_every_kind_has_a_row():
    assert {entry["kind"] for entry in rows().values()} == set(params.known("heads"))


def test_the_default_heads_are_those_of_the_papers_and_logit_adjustment():
    kinds = [entry["kind"] for entry in params.read(ROOT / "params.yaml")["heads"].values()]
    assert sorted(kinds) == ["afg", "crt", "joint", "logit_adjust", "lws", "ncm", "tau"]
