"""The quantities of MFW's figures 1, 3 and 4 against loops over images; which images are watched."""

import numpy as np
import pytest
import torch

from pipeline import backbone, inference
from pipeline.images import Images, ImageSet
from pipeline.losses import ce, graloss, ldam
from pipeline.measure import measure, summary, watched

COUNTS = np.array([40, 12, 5])


@pytest.fixture
def data():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], COUNTS))
    pixels = np.random.default_rng(1).integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
    split = Images(pixels, labels)
    return ImageSet(split, None, split, COUNTS, list("abc"), np.full(3, 0.5), np.full(3, 0.2), 8)


def network(cosine_scale=None):
    torch.manual_seed(0)
    return backbone.build("cifar_resnet", {"depth": 8, "width": 4}, 3, 3, cosine_scale)


@pytest.mark.parametrize("after", [0, 2, 4])
@pytest.mark.parametrize("loss", [ce.Loss(), graloss.Loss(), ldam.Loss()])
def test_every_quantity_is_its_definition(data, loss, after):
    net = network(getattr(loss, "cosine_scale", None))
    loss_of = loss.build(torch.tensor(COUNTS, dtype=torch.float32))
    found = measure(net, data, np.arange(57), lambda z, y: loss_of(z, y, 0.7), 10, False, after)

    net.eval()
    x = inference.normalise(torch.from_numpy(data.train.images), torch.full((3,), 0.5), torch.full((3,), 0.2))
    right, into, norms = np.zeros(3), np.zeros(3), np.zeros(3)
    for image, label in zip(x, torch.from_numpy(data.train.labels), strict=True):
        g = image[None]
        for group in net.groups[:after]:
            g = group(g)
        g = g.detach().requires_grad_()
        h = g
        for group in net.groups[after:]:
            h = group(h)
        z = net.classifier(h.mean((2, 3)))
        loss_of(z, label[None], 0.7).sum().backward()
        guess = z.argmax().item()
        right[label] += guess == label
        into[guess] += 1
        norms[label] += g.grad.norm().item()
    np.testing.assert_allclose(found.accuracy, right / COUNTS)
    np.testing.assert_allclose(found.ratio, into / COUNTS)
    np.testing.assert_allclose(found.gradient_norm, norms / COUNTS, rtol=1e-4)
    assert found.total == pytest.approx(right.sum() / 57)


def test_the_gradient_of_cross_entropy_is_the_papers(data):
    """Behind the last group h is the pool: the norm of Eq. 7 for many classes, |Σ_k (p_k - 1{k = y}) w_k|, over the root of its pixels."""
    net = network()
    found = measure(net, data, np.arange(57), lambda z, y: ce.Loss().build(None)(z, y, 0.0), 64, False, 4)
    features = torch.cat(list(inference.feature_blocks(net, data.train, data, 64)))
    errors = net.classifier(features).softmax(1) - torch.eye(3)[data.train.labels]
    norms = (errors @ net.classifier.weight).norm(dim=1).detach().numpy() / 2  # maps of 2 x 2
    np.testing.assert_allclose(found.gradient_norm, [norms[data.train.labels == k].mean() for k in range(3)], rtol=1e-4)


def test_without_gradients_the_rest_is_the_same(data):
    net, loss_of = network(), lambda z, y: ce.Loss().build(None)(z, y, 0.0)
    full, quick = (measure(net, data, np.arange(57), loss_of, 16, False, after) for after in (2, None))
    assert full.total == quick.total
    assert np.array_equal(full.accuracy, quick.accuracy) and np.array_equal(full.ratio, quick.ratio)
    assert full.gradient_norm.all() and not quick.gradient_norm.any()


def test_measuring_leaves_the_network_as_it_was(data):
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    measure(net, data, np.arange(57), lambda z, y: ce.Loss().build(None)(z, y, 0.0), 16, False, 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("images", "expected"), [(57, [40, 12, 5]), (1000, [40, 12, 5]), (29, [12, 12, 5]), (17, [6, 6, 5]), (1, [1, 1, 1])]
)
def test_watched_images_are_as_many_of_each_class_and_all_of_a_smaller_one(data, images, expected):
    rows = watched(data.train.labels, images, 0)
    assert np.bincount(data.train.labels[rows]).tolist() == expected
    assert len(set(rows)) == len(rows)
    assert np.array_equal(rows, watched(data.train.labels, images, 0))


def test_a_sample_is_not_biased_towards_small_classes():
    """Over many samples, the mean of what they say is what all images say."""
    rng = np.random.default_rng(0)
    counts = np.array([400, 60, 6])
    labels = np.repeat([0, 1, 2], counts)
    predicted, norms = rng.integers(0, 3, 466), rng.random(466)
    truth = summary(labels, predicted, norms, counts)
    samples = [watched(labels, 90, seed) for seed in range(400)]
    estimates = [summary(labels[rows], predicted[rows], norms[rows], counts) for rows in samples]
    for got, expected in zip(zip(*estimates, strict=True), truth, strict=True):
        np.testing.assert_allclose(np.mean(got, axis=0), expected, rtol=0.06)
    assert all(estimate.accuracy[2] == truth.accuracy[2] for estimate in estimates)  # exact for a class that is watched whole
