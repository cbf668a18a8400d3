"""What a user may rely on whatever the head: one contract for every file of pipeline/heads, a new one included."""

import dataclasses
import functools
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pipeline import head as head_stage
from pipeline import params
from pipeline.classifier import Classifier
from pipeline.files import InputError
from tests.conftest import ROOT, edit, make_features

KINDS = params.known("heads")
CLOSED_FORM = {"joint", "tau", "logit_adjust", "ncm", "lda"}  # the others draw their batches, and agree in what they predict
SHORT = {"epochs": 100, "batch": 16, "lr": 0.05}
QUICK = {
    "crt": SHORT,
    "lws": SHORT | {"epochs": 20},
    "mlp": SHORT | {"hidden": 32, "lr": 0.01},
    "cosine": SHORT | {"lr": 1.0},
    "afg": {"epochs": 2, "batch": 64, "head": 20, "lr": 0.005},
}
COUNTS = (60, 25, 9, 3, 1)


def head(kind, **others):
    return params.method("heads", kind, "").Head(**QUICK.get(kind, {}), **others)


@functools.cache
def plain(kind):
    """The head fitted on the fixtures' features, with seed 0."""
    return head(kind).fit(make_features(COUNTS), make_features((10,) * 5), 0)


def permuted(features, order):
    """The same samples under other class numbers: class k becomes order[k]."""
    inverse, stage_one = np.argsort(order), features.classifier
    classifier = Classifier.linear(stage_one.weight[inverse], stage_one.bias[inverse])
    return dataclasses.replace(features, labels=order[features.labels], classifier=classifier)


def shuffled(features, seed=0):
    rows = np.random.default_rng(seed).permutation(len(features.labels))
    return dataclasses.replace(features, features=features.features[rows], labels=features.labels[rows])


def assert_same(kind, scores, others):
    """Equal scores of a closed form; of a head that draws, nearly always the same winner."""
    if kind in CLOSED_FORM:
        np.testing.assert_allclose(scores, others, rtol=1e-3, atol=1e-3)
    else:
        assert (scores.argmax(1) == others.argmax(1)).mean() >= 0.88


@pytest.mark.parametrize("kind", KINDS)
class TestEveryHead:
    def test_is_deterministic(self, kind, train, val):
        first, again = (head(kind).fit(train, val, 5) for _ in range(2))
        assert np.array_equal(first.scores(val.features), again.scores(val.features))

    def test_has_no_favourite_class_number(self, kind, train, val):
        order = np.array([3, 0, 4, 2, 1])
        other = head(kind).fit(permuted(train, order), permuted(val, order), 0)
        assert_same(kind, plain(kind).scores(val.features), other.scores(val.features)[:, order])

    def test_does_not_depend_on_the_order_of_samples(self, kind, train, val):
        other = head(kind).fit(shuffled(train), shuffled(val), 0)
        assert_same(kind, plain(kind).scores(val.features), other.scores(val.features))

    def test_single_precision_is_enough(self, kind, train, val):
        """The fit in float64, with the same draws, is the oracle."""
        double = (dataclasses.replace(split, features=split.features.astype(float)) for split in (train, val))
        expected = head(kind).fit(*double, 0).scores(val.features)
        np.testing.assert_allclose(plain(kind).scores(val.features), expected, rtol=2e-3, atol=2e-3)

    def test_does_not_change_its_input(self, kind, train, val):
        before = train.features.copy(), train.labels.copy(), train.classifier.weight.copy(), val.features.copy()
        head(kind).fit(train, val, 0)
        after = train.features, train.labels, train.classifier.weight, val.features
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    @pytest.mark.filterwarnings("error")
    def test_takes_read_only_input(self, kind, train, val):
        for array in (train.features, train.labels, train.classifier.weight, train.classifier.bias):
            array.setflags(write=False)
        head(kind).fit(train, val, 0)

    def test_saves_and_loads(self, kind, val, workspace):
        fitted = plain(kind)
        fitted.save(workspace / "a.safetensors")
        loaded = Classifier.load(workspace / "a.safetensors")
        assert np.array_equal(loaded.scores(val.features), fitted.scores(val.features))
        assert (loaded.record, loaded.tap) == (fitted.record, fitted.tap)
        loaded.save(workspace / "b.safetensors")
        assert (workspace / "a.safetensors").read_bytes() == (workspace / "b.safetensors").read_bytes()

    def test_works_without_validation_and_says_what_it_was_selected_on(self, kind, train, val):
        without = head(kind).fit(train, None, 0)
        assert without.record.get("selected_on", "nothing") in {"nothing", "train"}
        assert plain(kind).record.get("selected_on", "nothing") in {"nothing", "val"}

    def test_never_predicts_a_class_without_training_samples(self, kind, val):
        train = make_features((60, 25, 0, 3, 1))
        if kind == "joint":
            pytest.skip("joint is what stage one made of it")
        fitted = head(kind).fit(train, val, 0)
        assert fitted.is_finite()
        assert 2 not in fitted.predict(val.features)

    def test_takes_signed_features(self, kind):
        train, val = (make_features(counts, nonnegative=False) for counts in (COUNTS, (10,) * 5))
        fitted = head(kind).fit(train, val, 0)
        assert fitted.is_finite()
        assert (fitted.predict(val.features) == val.labels).mean() > 0.6

    def test_takes_features_that_are_all_zero(self, kind, train, val):
        """As of a network whose last ReLU has died."""
        dead = dataclasses.replace(train, features=np.zeros_like(train.features))
        assert head(kind).fit(dead, val, 0).is_finite()

    def test_learns_something(self, kind, val):
        assert (plain(kind).predict(val.features) == val.labels).mean() > 0.6

    def test_gives_single_precision(self, kind, val):
        fitted = plain(kind)
        assert fitted.scores(val.features).dtype == np.float32
        assert all(array.dtype == np.float32 for pair in fitted.layers for array in pair)


WRONG = [
    (None, "returned NoneType, expected a Classifier"),
    (np.zeros(3), "returned ndarray, expected a Classifier"),
    (Classifier(), "has layers and means, or neither"),
    (
        Classifier.linear(np.zeros((8, 5)), np.zeros(5)),
        r"weight and bias are \(8, 5\) and \(5,\), expected",
    ),
    (Classifier.linear(np.zeros((4, 8)), np.zeros(4)), r"weight and bias are \(4, 8\)"),
    (Classifier.linear(np.zeros((5, 8)), np.zeros((5, 1))), r"weight and bias are \(5, 8\) and \(5, 1\)"),
    (Classifier.linear(np.zeros((5, 8)), np.float32(0)), r"weight and bias are \(5, 8\) and \(\)"),
    (Classifier(means=np.zeros((5, 7))), r"means are \(5, 7\), expected \(5, 8\)"),
    (Classifier(layers=((np.zeros((3, 8)), np.zeros(3)), (np.zeros((5, 4)), np.zeros(5)))), r"weight and bias of layer 1 are \(5, 4\)"),
    (Classifier.linear(np.zeros((5, 8)), np.zeros(5), record={"c": np.float32(1)}), "the record is not plain JSON values"),
]


@pytest.mark.parametrize(("returned", "message"), WRONG)
def test_what_a_head_must_not_return_is_a_line(returned, message, train):
    with pytest.raises(InputError, match=rf"^pipeline/heads/mine.py: fit:? {message}"):
        head_stage.check(returned, "mine", "mine", train)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class Ridge: ...\nmain(Head)", "expected a class Head of its parameters, derived from pipeline.params.Params"),
        ("class Head: ...\nif 0: main(Head)", "expected a class Head of its parameters"),
        ("from pipeline.params import Params\nclass Head(Params): ...", "should end in `if __name__"),
    ],
)
def test_a_file_that_is_no_head_is_a_line(tmp_path, code, message):
    said = checked_with(tmp_path, "heads", code.replace("main(Head)", "pass  # main(Head)"), ("heads:\n", "heads:\n  mine: {kind: mine}\n"))
    assert said.startswith("pipeline/heads/mine.py: ") and message in said


def test_a_file_that_is_no_loss_is_a_line(tmp_path):
    said = checked_with(tmp_path, "losses", "class Mine: ...", ("  loss: ce ", "  loss: mine "), ("  ce: {}\n", "  ce: {}\n  mine: {}\n"))
    assert said.startswith("pipeline/losses/mine.py: expected a class Loss of its parameters")


def test_a_file_that_is_no_data_set_is_a_line(tmp_path):
    edits = ("  name: digits ", "  name: mine "), ("  digits: {test_per_class: 50}\n", "  digits: {test_per_class: 50}\n  mine: {}\n")
    said = checked_with(tmp_path, "datasets", "class Mine: ...", *edits)
    assert said.startswith("pipeline/datasets/mine.py: expected a class Dataset of its parameters")


def checked_with(workspace, package, code, *edits):
    """The one line that `check` says of params.yaml with these edits, in a copy of the code with a file `mine.py` in that package."""
    shutil.copytree(ROOT / "pipeline", workspace / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (workspace / f"pipeline/{package}/mine.py").write_text(f"{code}\n")
    shutil.copy(ROOT / "params.yaml", workspace)
    for old, new in edits:
        edit(workspace / "params.yaml", old, new)
    done = subprocess.run([sys.executable, "-m", "pipeline.check"], cwd=workspace, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    return done.stderr
