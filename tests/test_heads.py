"""Closed-form and trained heads against oracles; one contract for every head there is."""

import dataclasses
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from pipeline import features, params, sgd
from pipeline import head as head_module
from pipeline.classifier import Classifier, Transform
from pipeline.files import InputError
from pipeline.heads import crt, joint, lws, ncm, tau
from tests.conftest import ROOT, edit, stage
from tests.test_contract import head


def test_joint_is_stage_one(train):
    assert joint.Head().fit(train, None, 0) is train.classifier


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0, 2.0])
def test_tau_rescales_each_row_by_its_norm(train, t):
    fitted = tau.Head(tau=t).fit(train, None, 0)
    expected = [[w / sum(v**2 for v in row) ** (t / 2) for w in row] for row in train.classifier.weight.astype(float).tolist()]
    np.testing.assert_allclose(fitted.weight, expected, rtol=1e-5)
    assert not fitted.bias.any()


def test_tau_one_gives_unit_norms(train):
    np.testing.assert_allclose(np.linalg.norm(tau.Head(tau=1.0).fit(train, None, 0).weight, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("transform", ["raw", "l2", "centred_l2"])
def test_ncm_is_scikit_learns_nearest_centroid(train, val, transform):
    def prepared(x):
        x = x.astype(float)
        if transform == "centred_l2":
            x = x - train.features.astype(float).mean(0)
        return x if transform == "raw" else normalize(x)

    oracle = NearestCentroid().fit(prepared(train.features), train.labels)
    fitted = ncm.Head(transform=transform).fit(train, None, 0)
    np.testing.assert_allclose(fitted.means, oracle.centroids_, rtol=1e-4, atol=1e-5)
    assert np.array_equal(fitted.predict(val.features), oracle.predict(prepared(val.features)))


def test_centred_ncm_ignores_a_constant_added_to_all_features(train, val):
    moved = dataclasses.replace(train, features=train.features + 3)
    plain, shifted = ncm.Head().fit(train, None, 0), ncm.Head().fit(moved, None, 0)
    assert np.array_equal(plain.predict(val.features), shifted.predict(val.features + 3))


def test_crt_finds_the_class_balanced_optimum(train):
    """A long run of SGD ends at the minimum that scikit-learn's class-weighted logistic regression finds.

    Weight decay λ on the mean loss is scikit-learn's C = 1 / (λ n); cRT decays the bias too, so there it is one more column.
    """
    weight_decay = 0.02
    fitted = crt.Head(epochs=1000, batch=98, lr=0.02, weight_decay=weight_decay).fit(train, None, 0)
    oracle = LogisticRegression(C=1 / (weight_decay * len(train.labels)), class_weight="balanced", fit_intercept=False, max_iter=10_000)
    oracle.fit(np.column_stack([train.features, np.ones(len(train.labels))]).astype(float), train.labels)
    found = np.column_stack([fitted.weight, fitted.bias])
    assert np.linalg.norm(found - oracle.coef_) < 0.05 * np.linalg.norm(oracle.coef_)


def test_lws_without_training_is_stage_one(train, val):
    fitted = lws.Head(epochs=1, lr=1e-12).fit(train, None, 0)
    np.testing.assert_allclose(fitted.scores(val.features), train.classifier.scores(val.features), rtol=1e-5)


def test_lws_scales_whole_rows_with_their_bias(train):
    fitted = lws.Head(epochs=5, batch=16).fit(train, None, 0)
    ratio = fitted.weight / train.classifier.weight
    np.testing.assert_allclose(ratio, ratio[:, :1].repeat(8, 1), rtol=1e-4)
    np.testing.assert_allclose(fitted.bias / train.classifier.bias, ratio[:, 0], rtol=1e-4)
    assert np.ptp(ratio[:, 0]) > 0.01


@pytest.fixture
def cosine(train):
    """The same features with the cosine classifier of an LDAM stage one."""
    weight = 30 * normalize(np.random.default_rng(1).normal(size=train.classifier.weight.shape))
    classifier = Classifier.linear(weight, np.zeros(train.classes), transform=Transform(l2=True))
    return dataclasses.replace(train, classifier=classifier)


@pytest.mark.parametrize("kind", ["joint", "tau", "lws", "afg"])
def test_heads_of_a_cosine_classifier_see_directions_alone(cosine, val, kind):
    fitted = head(kind).fit(cosine, val, 0)
    longer = val.features * np.random.default_rng(2).uniform(0.1, 10, (len(val.features), 1)).astype(np.float32)
    np.testing.assert_allclose(fitted.scores(longer), fitted.scores(val.features), rtol=1e-3, atol=1e-3)
    scaled = dataclasses.replace(cosine, features=cosine.features * np.float32(7))
    np.testing.assert_allclose(head(kind).fit(scaled, val, 0).weight, fitted.weight, rtol=1e-3, atol=1e-3)


def test_tau_does_not_change_what_a_cosine_classifier_predicts(cosine, val):
    for t in (0.0, 0.7, 1.0):
        assert np.array_equal(tau.Head(tau=t).fit(cosine, None, 0).predict(val.features), cosine.classifier.predict(val.features))


def test_lws_without_training_is_a_cosine_stage_one(cosine, val):
    fitted = lws.Head(epochs=1, lr=1e-12, weight_decay=0.0).fit(cosine, None, 0)
    np.testing.assert_allclose(fitted.scores(val.features), cosine.classifier.scores(val.features), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["lws", "crt"])
def test_the_first_step_is_sgd_by_hand(train, kind):
    """One step of momentum SGD from the start is lr (gradient + weight decay · parameter), in float64."""
    from pipeline.sampling import class_balanced
    from pipeline.sgd import new_linear

    n = len(train.labels)
    lr, wd = 0.1, 0.01
    fitted = {"lws": lws, "crt": crt}[kind].Head(epochs=1, batch=n, lr=lr, weight_decay=wd).fit(train, None, 3)
    rows = class_balanced(train.labels, 0, n, 3)
    x, y = train.features[rows].astype(float), train.labels[rows]
    w, b = (train.classifier.weight, train.classifier.bias) if kind == "lws" else (t.detach().numpy() for t in new_linear(5, 8, 3))
    z = x @ w.astype(float).T + b
    p = np.exp(z - z.max(1, keepdims=True))
    error = (p / p.sum(1, keepdims=True) - np.eye(5)[y]) / n
    if kind == "lws":
        factors = 1 - lr * ((error * z).sum(0) + wd)
        expected = w * factors[:, None], b * factors
    else:
        expected = w - lr * (error.T @ x + wd * w), b - lr * (error.sum(0) + wd * b)
    np.testing.assert_allclose(fitted.weight, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted.bias, expected[1], rtol=1e-4, atol=1e-5)


def test_the_optimiser_is_torchs_sgd():
    """The same path as torch.optim.SGD with torch's own cosine, step by step."""
    x, y = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3

    def start():
        return [tensor.requires_grad_() for tensor in (torch.full((3, 6), 0.1), torch.zeros(3))]

    mine, theirs = start(), start()
    losses = (torch.nn.functional.cross_entropy(x @ mine[0].T + mine[1], y) for _ in range(40))
    sgd.minimise(mine, losses, 40, lr=0.5, weight_decay=0.01, name="test")
    optimiser = torch.optim.SGD(theirs, lr=0.5, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 40)
    for _ in range(40):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(x @ theirs[0].T + theirs[1], y).backward()
        optimiser.step()
        schedule.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_torch_is_imported_only_by_the_heads_that_train():
    code = (
        "import sys; from pipeline.heads import {0}; from tests.conftest import make_features; {0}.Head().fit(make_features(), None, 0); "
    )
    for kind in ("joint", "tau", "ncm", "logit_adjust", "lda"):
        subprocess.run([sys.executable, "-c", code.format(kind) + "assert 'torch' not in sys.modules"], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("arguments", "change", "message"),
    [
        (("tau", "tau"), ("kind: tau,", "kind: tao,"), "params.yaml: heads.tau.kind: no 'tao' in pipeline/heads/; known: afg, cosine, crt"),
        (
            ("tau", "tau"),
            ("features: data/features.h5", "features: 3"),
            "params.yaml: features: expected the path of a features file, got 3",
        ),
        (
            ("tau", "tau"),
            ("features: data/features.h5", "features:"),
            "params.yaml: features: expected the path of a features file, got {}",
        ),
        (("tau", "tau"), ("  tau: {kind", "  1: {kind"), "params.yaml: heads.1: a head's name has letters, digits, _ and -"),
        (("tau",), None, "params.yaml: heads: which head?; known: joint, logit_adjust, crt, lws, tau, ncm, afg"),
        (("tau", "tauu"), None, "params.yaml: heads: no head 'tauu'; known: joint, logit_adjust"),
        (("tau", "crt"), None, "params.yaml: heads.crt.kind: is 'crt'; run `python -m pipeline.heads.crt crt`"),
        (("tau", "tau"), ("tau: 0.7", "tau: -0.7"), "params.yaml: heads.tau.tau: input should be greater than or equal to 0, got -0.7"),
        (("tau", "tau"), ("tau: 0.7", "tav: 0.7"), "params.yaml: heads.tau.tav: unknown key; known here: tau, select"),
        (("ncm", "ncm"), ("euclidean", "euclid"), "params.yaml: heads.ncm.distance: input should be 'euclidean' or 'cosine', got 'euclid'"),
        (("afg", "afg"), ("beta: 0.4", "support: 0"), "params.yaml: heads.afg.support: input should be greater than or equal to 1, got 0"),
        (("afg", "afg"), ("beta: 0.4", "beta: 1.4"), "params.yaml: heads.afg.beta: input should be less than or equal to 1, got 1.4"),
        (("tau", "tau"), None, "data/features.h5: not found; run `dvc repro extract`"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(workspace, arguments, change, message):
    if change:
        edit(workspace / "params.yaml", *change)
    done = stage(f"heads.{arguments[0]}", *arguments[1:], check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not (workspace / "data/heads").exists()


def test_a_fit_that_ends_in_nan_is_refused(workspace, train):
    with h5py.File("features.h5", "w") as file:
        file.attrs.update({"schema": features.SCHEMA, "dim": 8, "classes": 5, "class_counts": train.class_counts})
        file["train/features"], file["train/labels"] = train.features, train.labels
        file["classifier/weight"], file["classifier/bias"] = train.classifier.weight, train.classifier.bias
    edit("params.yaml", "features: data/features.h5", "features: features.h5")
    edit("params.yaml", "lr: 0.05", "lr: 1.0e+30")
    done = stage("heads.crt", "crt", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("params.yaml: heads.crt: the fit ended in NaN or infinite weights; nothing is written.")
    assert not (workspace / "data/heads").exists()


def test_a_head_may_build_on_another(workspace, train, monkeypatch):
    """A class that inherits `fit` runs under its own module's name."""
    monkeypatch.setattr(sys, "argv", ["mine.py", "tau"])
    edit("params.yaml", "kind: tau,", "kind: ncm,")
    tree = params.read()
    assert head_module.asked_for(tree, "ncm") == "tau"
    with pytest.raises(InputError, match="is 'ncm'; run `python -m pipeline.heads.ncm tau`"):
        head_module.asked_for(tree, "tau")


def test_a_head_without_stage_one_says_so(train):
    bare = dataclasses.replace(train, classifier=None)
    for kind in ("joint", "tau", "lws", "afg"):
        with pytest.raises(InputError, match=f"no stage-one classifier .* which the head '{kind}' starts from"):
            head(kind).fit(bare, None, 0)
    assert isinstance(crt.Head(epochs=1).fit(bare, None, 0), Classifier)


def test_a_head_gets_both_splits_and_the_seed_of_heads(workspace, train, val, monkeypatch):
    edit("params.yaml", "seed: {subset: 0, train: 0, heads: 0}", "seed: {subset: 1, train: 2, heads: 3}")
    monkeypatch.setattr(features, "load", lambda path, *names: {"train": train, "val": val})
    asked = []

    class Head(crt.Head):
        def fit(self, *arguments):
            asked.append(arguments)
            return train.classifier

    monkeypatch.setattr(sys, "argv", ["crt", "crt"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", crt.__spec__)
    head_module.main(Head)
    ((first, second, seed),) = asked
    assert first is train and second is val and seed == 3
