"""Errors in params.yaml are one line with the yaml path."""

import pytest
from dvc.utils.serialize import load_yaml
from pydantic import Field

from pipeline import params
from pipeline.files import InputError


class Model(params.Params):
    rate: float = Field(ge=0)
    steps: int = 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("s: {rate: bad}", "params.yaml: s.rate: input should be a valid number, got 'bad'"),
        ("s: {rate: '0.5'}", "params.yaml: s.rate: input should be a valid number, got '0.5'"),
        ("s: {rate: -1}", "params.yaml: s.rate: input should be greater than or equal to 0, got -1"),
        ("s: {rate: .inf}", "params.yaml: s.rate: input should be a finite number, got inf"),
        ("s: {rate: 1, steps: 2.5}", "params.yaml: s.steps: input should be a valid integer, got 2.5"),
        ("s: {rate: 1, stepz: 2}", "params.yaml: s.stepz: unknown key; known here: rate, steps"),
        ("s: {steps: 2}", "params.yaml: s.rate: missing"),
        ("s: 3", "params.yaml: s: expected a mapping, got 3"),
        ("t: {}", "params.yaml: s: missing"),
        ("s: {", "params.yaml: not valid YAML: .*"),
        ("s: {rate: 1}\ns: {rate: 2}", "params.yaml: not valid YAML: .*duplicate key.*"),
        ("- s", "params.yaml: expected a mapping of sections at the top level"),
    ],
)
def test_errors_name_the_yaml_path(workspace, content, message):
    (workspace / "params.yaml").write_text(content)
    with pytest.raises(InputError, match=f"^{message}$") as caught:
        params.section(params.read(), "s", Model)
    assert "\n" not in str(caught.value)


def test_numbers_are_those_that_dvc_reads(workspace):
    (workspace / "params.yaml").write_text("s: {rate: 5e-4, steps: 010}")
    assert params.section(params.read(), "s", Model) == Model(rate=0.0005, steps=10)
    assert load_yaml(workspace / "params.yaml") == {"s": {"rate": 0.0005, "steps": 10}}


def test_a_key_without_a_value_is_an_empty_mapping(workspace):
    (workspace / "params.yaml").write_text("s:\n  a:\n")
    assert params.at(params.read(), "s.a") == {}


def test_unknown_method_lists_the_known_ones():
    with pytest.raises(InputError, match=r"params.yaml: train.loss: no 'cee' in pipeline/losses/; known: balanced_softmax, cdt, ce, "):
        params.method("losses", "cee", "train.loss")


@pytest.mark.parametrize("value", ["-1", "1.5", "x", "true"])
def test_seeds_are_whole_numbers(workspace, value):
    (workspace / "params.yaml").write_text(f"seed: {{train: {value}}}")
    with pytest.raises(InputError, match=r"^params.yaml: seed.train: "):
        params.seed(params.read(), "train")


def test_missing_file_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="run from the repository's root"):
        params.read()
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(InputError, match="params.yaml: cannot be read"):
        params.read()
