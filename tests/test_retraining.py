"""What the heads that learn by SGD share: losses, batches, views, precision, and the options of each head."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS, LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from pipeline.classifier import Classifier, Transform
from pipeline.features import Features
from pipeline.heads import cosine, crt, lda, lws, mlp, ncm
from pipeline.losses import balanced_softmax, ce, logit_adjust
from pipeline.retraining import Batches, Retraining, transformed
from tests.conftest import make_features

LOGITS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(40) % 5
COUNTS = np.array([60, 25, 9, 3, 1])


def unbalanced(**options):
    return Retraining(sampler="instance", **options).criterion(COUNTS, torch.float64)(LOGITS, LABELS).item()


@pytest.mark.parametrize(
    ("options", "stage_ones"),
    [
        ({"loss": "ce"}, ce.Loss()),
        ({"loss": "balanced_softmax"}, balanced_softmax.Loss()),
        ({"loss": "logit_adjust", "tau": 0.5}, logit_adjust.Loss(tau=0.5)),
    ],
)
def test_losses_are_stage_ones(options, stage_ones):
    expected = stage_ones.build(torch.tensor(COUNTS))(LOGITS, LABELS, 0.0).mean()
    assert unbalanced(**options) == pytest.approx(expected.item(), rel=1e-6)


def test_the_class_balanced_loss_weighs_by_the_effective_number():
    weight = (1 - 0.9) / (1 - 0.9**COUNTS)
    each = torch.nn.functional.cross_entropy(LOGITS, LABELS, reduction="none").numpy()
    expected = np.average(each, weights=weight[LABELS])
    assert unbalanced(loss="class_balanced", beta=0.9) == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_spreads_the_target():
    log_p = LOGITS.log_softmax(1).numpy()
    target = 0.02 * np.eye(5)[LABELS] + 0.98 / 5
    assert unbalanced(label_smoothing=0.98) == pytest.approx(-(target * log_p).sum(1).mean(), rel=1e-6)


@pytest.mark.parametrize("loss", ["balanced_softmax", "logit_adjust", "class_balanced"])
def test_class_sizes_are_corrected_once(loss):
    with pytest.raises(ValueError, match="corrects for class sizes, as sampler class_balanced does already; set sampler: instance"):
        Retraining(loss=loss)


def numbered(n=23, views=None):
    """Features that name their own row, and each view of them, that and the view."""
    features = np.arange(n, dtype=np.float32)[:, None]
    labels = np.arange(n) // 8
    more = None if views is None else np.stack([features + 100 * (v + 1) for v in range(views)]).astype(np.float16)
    return Features(features, labels, 3, views=more)


def rows(features, sampler="instance", epochs=2, batch=5, views=True):
    batches = list(Batches(features, sampler, epochs, batch, 7, views, Transform()))
    return [x[:, 0].numpy() for x, _ in batches], [y.numpy() for _, y in batches]


def test_an_epoch_shows_every_sample_once_with_its_label():
    values, labels = rows(numbered())
    assert [len(batch) for batch in values] == [5, 5, 5, 5, 3] * 2
    for epoch in (slice(0, 5), slice(5, 10)):
        assert np.array_equal(np.sort(np.concatenate(values[epoch])), np.arange(23))
    assert np.array_equal(np.concatenate(values) // 8, np.concatenate(labels))
    assert not np.array_equal(np.concatenate(values[:5]), np.concatenate(values[5:]))


@pytest.mark.parametrize("sampler", ["class_balanced", "square_root", "progressive"])
def test_samplers_balance(sampler):
    features = Features(np.zeros((1000, 1), np.float32), np.repeat(np.arange(3), (900, 90, 10)), 3)
    _, labels = rows(features, sampler, epochs=20, batch=100)
    share = np.bincount(np.concatenate(labels), minlength=3) / 20_000
    expected = {"class_balanced": [1 / 3] * 3, "square_root": np.sqrt([900, 90, 10]) / np.sqrt([900, 90, 10]).sum()}
    halfway = (np.array([0.9, 0.09, 0.01]) + 1 / 3) / 2
    np.testing.assert_allclose(share, expected.get(sampler, halfway), atol=0.015)


def test_every_draw_takes_one_of_the_views():
    values, labels = rows(numbered(views=4), epochs=200)
    values, labels = np.concatenate(values), np.concatenate(labels)
    row, view = values % 100, values // 100
    assert np.array_equal(row // 8, labels)
    assert set(view) == {1, 2, 3, 4}  # and never the clean features
    np.testing.assert_allclose(np.bincount(view.astype(int))[1:] / len(view), 0.25, atol=0.02)
    assert np.array_equal(np.concatenate(rows(numbered(views=4), views=False)[0]), np.concatenate(rows(numbered())[0]))


def test_views_stay_in_their_file():
    features = numbered(views=4)
    assert Batches(features, "instance", 1, 5, 0, True, Transform()).source.data_ptr() == features.views.ctypes.data


@pytest.mark.parametrize("head", [crt.Head, lws.Head, mlp.Head, cosine.Head])
def test_every_head_that_learns_draws_views(train, val, head):
    noise = np.random.default_rng(0).normal(0, 0.5, (3, *train.features.shape))
    viewed = dataclasses.replace(train, views=(train.features + noise).astype(np.float32))
    plain, other, off = (
        head(epochs=2, batch=16, **options).fit(split, val, 0).scores(val.features)
        for split, options in ((train, {}), (viewed, {}), (viewed, {"views": False}))
    )
    assert np.array_equal(plain, off)
    assert not np.allclose(plain, other)


@pytest.mark.parametrize("transform", [Transform(), Transform(l2=True), Transform(np.ones(6, np.float32), 0.5, True)])
def test_tensors_are_transformed_as_arrays_are(transform):
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    np.testing.assert_allclose(transformed(torch.tensor(x), transform), transform(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", [crt.Head, lws.Head, mlp.Head, cosine.Head])
def test_half_precision_learns_nearly_the_same(train, val, head):
    """On features and a stage one whose logits are a few units, not hundreds that bfloat16 rounds to the next half."""
    stage_one = Classifier.linear(train.classifier.weight / 10, train.classifier.bias / 100)
    train, val = (dataclasses.replace(split, features=split.features / 10, classifier=stage_one) for split in (train, val))
    exact, half = (head(epochs=20, batch=16, lr=0.02, precision=p).fit(train, val, 0) for p in ("fp32", "bf16"))
    assert (exact.predict(val.features) == half.predict(val.features)).mean() >= 0.9
    assert not np.array_equal(exact.scores(val.features), half.scores(val.features))


def test_crt_may_start_from_stage_one(train, val):
    fitted = crt.Head(epochs=1, lr=1e-12, start="stage_one").fit(train, None, 0)
    np.testing.assert_allclose(fitted.scores(val.features), train.classifier.scores(val.features), rtol=1e-5)


def test_crt_may_start_from_class_means(train, val):
    """Which is a nearest-mean classifier."""
    fitted = crt.Head(epochs=1, lr=1e-12, start="class_means").fit(train, None, 0)
    nearest = ncm.Head(transform="raw").fit(train, None, 0)
    assert np.array_equal(fitted.predict(val.features), nearest.predict(val.features))


def test_max_norm_bounds_every_class(train):
    norms = np.linalg.norm(train.classifier.weight, axis=1)
    radius = norms.min() + 0.3 * (norms.max() - norms.min())
    fitted = crt.Head(epochs=1, lr=1e-12, start="stage_one", max_norm=0.3).fit(train, None, 0)
    np.testing.assert_allclose(np.linalg.norm(fitted.weight, axis=1), np.minimum(norms, radius), rtol=1e-5)
    trained = crt.Head(epochs=20, batch=16, lr=0.5, weight_decay=0.0, start="stage_one", max_norm=0.3).fit(train, None, 0)
    assert np.linalg.norm(trained.weight, axis=1).max() == pytest.approx(radius, rel=1e-5)


def test_one_layer_of_the_perceptron_is_crt(train, val):
    options = {"epochs": 3, "batch": 16}
    one = mlp.Head(layers=1, **options).fit(train, None, 4)
    np.testing.assert_array_equal(one.scores(val.features), crt.Head(**options).fit(train, None, 4).scores(val.features))


@pytest.mark.parametrize("layers", [2, 3])
def test_the_perceptron_computes_what_torchs_layers_do(train, val, layers):
    fitted = mlp.Head(layers=layers, hidden=7, epochs=3, batch=16).fit(train, None, 0)
    assert [weight.shape for weight, _ in fitted.layers] == [(7, 8), (7, 7), (5, 7)][:1] + [(7, 7)] * (layers - 2) + [(5, 7)]
    net = torch.nn.Sequential()
    for depth, (weight, bias) in enumerate(fitted.layers):
        layer = torch.nn.Linear(*weight.shape[::-1])
        layer.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
        net.extend([torch.nn.ReLU(), layer] if depth else [layer])
    np.testing.assert_allclose(net(torch.tensor(val.features)).detach(), fitted.scores(val.features), rtol=1e-4, atol=1e-4)


def test_the_cosine_head_gives_scaled_cosines(train, val):
    fitted = cosine.Head(epochs=5, batch=16, scale=12.0, learn_scale=False).fit(train, None, 0)
    np.testing.assert_allclose(np.linalg.norm(fitted.weight, axis=1), 12, rtol=1e-5)
    x = val.features / np.linalg.norm(val.features, axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.scores(val.features), x @ fitted.weight.T, rtol=1e-4, atol=1e-4)
    learned = np.linalg.norm(cosine.Head(epochs=5, batch=16, scale=12.0).fit(train, None, 0).weight, axis=1)
    assert np.ptp(learned) < 1e-3
    assert abs(learned[0] - 12) > 0.01


def test_the_cosine_head_may_start_from_class_means(train):
    fitted = cosine.Head(epochs=1, lr=1e-12, start="class_means").fit(train, None, 0)
    x = train.features / np.linalg.norm(train.features, axis=1, keepdims=True)
    for k in range(5):
        mean = x[train.labels == k].mean(0)
        np.testing.assert_allclose(fitted.weight[k], 10 * mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-5)


def test_the_cosine_head_takes_features_before_the_relu(train):
    before = dataclasses.replace(train, features=train.features - 3)
    both = dataclasses.replace(train, pre_relu=before.features.astype(np.float32))
    fitted = cosine.Head(tap="pre_relu", epochs=2, batch=16).fit(both, None, 0)
    assert fitted.tap == "pre_relu"
    assert np.array_equal(fitted.weight, cosine.Head(epochs=2, batch=16).fit(before, None, 0).weight)


@pytest.mark.parametrize("transform", ["raw", "l2"])
def test_renormalised_means_have_unit_length(train, transform):
    fitted = ncm.Head(transform=transform, renormalise=True).fit(train, None, 0)
    plain = ncm.Head(transform=transform).fit(train, None, 0)
    np.testing.assert_allclose(fitted.means, plain.means / np.linalg.norm(plain.means, axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(("name", "estimator"), [("ledoit_wolf", LedoitWolf), ("oas", OAS)])
def test_lda_is_bayes_rule_of_the_pooled_covariance(train, val, name, estimator):
    x = train.features.astype(float)
    means = np.array([x[train.labels == k].mean(0) for k in range(5)])
    covariance = estimator(assume_centered=True).fit(x - means[train.labels]).covariance_
    difference = val.features[:, None].astype(float) - means  # (n, c, d)
    distance = np.einsum("ncd,de,nce->nc", difference, np.linalg.inv(covariance), difference)
    scores = lda.Head(shrinkage=name).fit(train, None, 0).scores(val.features).astype(float)
    ratios = scores - scores[:, :1] + (distance - distance[:, :1]) / 2  # a log-likelihood ratio is half a difference of distances
    np.testing.assert_allclose(ratios, 0, atol=1e-3 * np.abs(distance).max())


def test_lda_of_equal_classes_is_scikit_learns(val):
    """With classes of equal size and no shrinkage to speak of, pooling and averaging covariances are the same."""
    many = make_features((4000,) * 5)
    oracle = LinearDiscriminantAnalysis(solver="lsqr").fit(many.features.astype(float), many.labels)
    fitted = lda.Head().fit(many, None, 0)
    assert fitted.record["shrinkage"] < 1
    assert (fitted.predict(val.features) == oracle.predict(val.features)).mean() >= 0.98


def test_lda_of_many_samples_estimates_its_shrinkage_from_a_part(train, monkeypatch):
    whole = lda.Head().fit(train, None, 0)
    monkeypatch.setattr(lda, "SAMPLES", 60)
    monkeypatch.setattr(lda, "BLOCK", 7)
    part = lda.Head().fit(train, None, 0)
    assert part.record["shrinkage"] != whole.record["shrinkage"]
    assert part.record["shrinkage"] == pytest.approx(whole.record["shrinkage"], abs=0.35)
