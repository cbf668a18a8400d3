"""Scores and predictions against plain NumPy, faiss and scikit-learn; files."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.metrics import pairwise_distances

from pipeline.classifier import SCHEMA, Classifier, Transform
from pipeline.files import InputError, pack_metadata

RNG = np.random.default_rng(0)
X = RNG.normal(size=(9000, 6)).astype(np.float32)  # more than two blocks


def linear(**others):
    rng = np.random.default_rng(1)
    return Classifier.linear(rng.normal(size=(5, 6)), rng.normal(size=5), **others)


def test_linear_scores():
    classifier = linear()
    np.testing.assert_allclose(classifier.scores(X), X @ classifier.weight.T + classifier.bias, rtol=1e-5, atol=1e-5)
    assert np.array_equal(classifier.predict(X), (X @ classifier.weight.T + classifier.bias).argmax(1))
    assert (classifier.classes, classifier.dim) == (5, 6)


def test_layers_have_relu_between_them():
    rng = np.random.default_rng(1)
    (a, b), (c, d) = layers = tuple((rng.normal(size=s).astype("f4"), rng.normal(size=s[0]).astype("f4")) for s in ((7, 6), (5, 7)))
    np.testing.assert_allclose(Classifier(layers=layers).scores(X), np.maximum(X @ a.T + b, 0) @ c.T + d, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("distance", "metric"), [("euclidean", "sqeuclidean"), ("cosine", "cosine")])
@pytest.mark.parametrize("absent", [None, np.array([False, True, False, False, False])])
def test_nearest_means_are_scikit_learns(distance, metric, absent):
    means = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    classifier = Classifier(means=means, distance=distance, absent=absent)
    expected = pairwise_distances(X.astype(float), means, metric=metric)
    scores = -expected if distance == "euclidean" else 1 - expected
    if absent is not None:
        scores[:, absent] = -np.inf
    np.testing.assert_allclose(classifier.scores(X), scores, rtol=1e-4, atol=1e-4)
    assert (classifier.predict(X) == scores.argmax(1)).mean() > 0.999  # but for ties in float32


def test_absent_classes_are_never_predicted():
    absent = np.array([True, False, False, True, False])
    classifier = linear(absent=absent)
    assert np.isneginf(classifier.scores(X)[:, absent]).all()
    assert set(classifier.predict(X)) == {1, 2, 4}


def test_transforms():
    centre = RNG.normal(size=6).astype(np.float32)
    expected = np.array([[np.sign(v) * abs(v) ** 0.5 for v in row] for row in (X[:50] - centre).tolist()])
    expected /= np.sqrt((expected**2).sum(1, keepdims=True))
    np.testing.assert_allclose(Transform(centre, 0.5, True)(X[:50]), expected, rtol=1e-4, atol=1e-6)
    assert Transform()(X) is X
    assert np.isfinite(Transform(l2=True)(np.zeros((1, 6), np.float32))).all()


@pytest.mark.parametrize(
    "classifier",
    [
        linear(record={"selected_on": "val", "beta": [[0.1]]}),
        linear(absent=np.array([True, False, False, True, False])),
        Classifier(means=X[:4], distance="cosine", transform=Transform(X[5], 0.5, True)),
        Classifier(layers=((X[:7], X[0, :1].repeat(7)), (X[:3, :1].repeat(7, 1), X[0, :3]))),
    ],
)
def test_what_is_saved_comes_back_and_is_the_same_bytes(workspace, classifier):
    for name in ("a", "b"):
        classifier.save(workspace / name)
    assert (workspace / "a").read_bytes() == (workspace / "b").read_bytes()
    loaded = Classifier.load(workspace / "a")
    assert np.array_equal(loaded.scores(X), classifier.scores(X))
    assert np.array_equal(loaded.predict(X), classifier.predict(X))
    assert loaded.record == classifier.record


def test_a_damaged_file_is_one_line(workspace):
    path = workspace / "c.safetensors"
    with pytest.raises(InputError, match="c.safetensors: not found; run `dvc repro`, or `dvc pull` first"):
        Classifier.load(path)
    linear().save(path)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="not a complete classifier"):
            Classifier.load(path)
    save_file({"w": np.zeros(1)}, path, {"tailcache": "{"})
    with pytest.raises(InputError, match="not a complete classifier"):
        Classifier.load(path)
    save_file({"w": np.zeros(1)}, path, pack_metadata({"schema": SCHEMA}))
    with pytest.raises(InputError, match="c.safetensors: not a complete classifier .it has no 'distance'.; run `dvc repro`"):
        Classifier.load(path)
    save_file({"w": np.zeros(1)}, path, {"tailcache": "[]"})
    with pytest.raises(InputError, match="schema is 'missing'"):
        Classifier.load(path)


def test_no_rows_give_no_predictions():
    assert linear().predict(X[:0]).shape == (0,)
