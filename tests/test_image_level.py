"""cRT and LWS over images, against a loop with torch's own layers and optimiser."""

import json
import math

import numpy as np
import pytest
import torch

from pipeline import backbone, image_level, stage_one
from pipeline.heads import crt, lws
from pipeline.sampling import class_balanced
from tests.conftest import edit, method, stage

EPOCHS, BATCH = 2, 64


def loop(name, data, network, head, seed):
    """The reference's training, without augmentation: the backbone in training mode, its weights fixed."""
    if name == "crt":
        bound = 1 / math.sqrt(64)
        generator = torch.Generator().manual_seed(seed)
        weight = torch.empty(data.classes, 64).uniform_(-bound, bound, generator=generator).requires_grad_()
        bias = torch.empty(data.classes).uniform_(-bound, bound, generator=generator).requires_grad_()
        learned, logits = [weight, bias], lambda x: x @ weight.T + bias
    else:
        factors = torch.ones(data.classes, requires_grad=True)
        learned, logits = [factors], lambda x: factors * (x @ network.classifier.weight.T + network.classifier.bias)
    optimiser = torch.optim.SGD(learned, head.lr, momentum=0.9, weight_decay=head.weight_decay)
    n, step = len(data.train.labels), 0
    steps = EPOCHS * math.ceil(n / BATCH)
    mean, std = torch.tensor(data.mean).float(), torch.tensor(data.std).float()
    network.train()
    for epoch in range(EPOCHS):
        rows = class_balanced(data.train.labels, epoch * n, (epoch + 1) * n, seed)
        for start in range(0, n, BATCH):
            some = rows[start : start + BATCH]
            pixels = (torch.tensor(np.array(data.train.images[some])).float() / 255 - mean) / std
            with torch.no_grad():
                x = network.features(pixels.permute(0, 3, 1, 2))
            optimiser.param_groups[0]["lr"] = head.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits(x), torch.tensor(data.train.labels[some])).backward()
            optimiser.step()
            step += 1
    return learned


@pytest.mark.parametrize(("name", "kind"), [("crt", crt), ("lws", lws)])
def test_it_is_the_reference_s_loop(digits, name, kind):
    head = kind.Head(epochs=EPOCHS, batch=BATCH)
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(stage_one.new_network(method(), digits, 0).requires_grad_(False))
    found = image_level.fit(name, head, digits, networks[0], "none", 3)
    for mine, theirs in zip(found.learned, loop(name, digits, networks[1], head, 3), strict=True):
        torch.testing.assert_close(mine.detach(), theirs.detach(), rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(networks[0].state_dict().values(), networks[1].state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)  # BatchNorm has drifted alike


def test_its_figures_stand_in_a_file_and_stage_one_stays(digits):
    network = stage_one.new_network(method(), digits, 0)
    backbone.save(network.eval(), "cifar_resnet", {"depth": 8, "width": 16}, digits.channels)
    before = backbone.FILE.read_bytes()
    edit("params.yaml", "crt: {kind: crt, epochs: 10,", "crt: {kind: crt, epochs: 1,")
    for name in ("crt", "lws"):
        assert f"{name}, " in stage("image_level", name).stdout
    known = json.loads(image_level.FILE.read_text())
    assert list(known) == ["crt", "lws"]
    assert known["crt"]["seconds"] > 0
    drifted = backbone.load(digits.channels, digits.classes)
    student = image_level.fit("lws", lws.Head(epochs=5, lr=0.2, batch=32, weight_decay=5e-4), digits, drifted, "shift", 0)
    pixels = (torch.tensor(np.array(digits.test.images)).float() / 255 - torch.tensor(digits.mean)) / torch.tensor(digits.std)
    with torch.no_grad():
        said = student(drifted.eval().features(pixels.float().permute(0, 3, 1, 2))).argmax(1).numpy()
    right = [100 * np.mean(said[digits.test.labels == k] == k) for k in range(10)]
    assert known["lws"]["all"] == pytest.approx(np.mean(right), abs=1)
    assert backbone.FILE.read_bytes() == before
    edit("params.yaml", "lws: {kind: lws,", "lws: {kind: lws, label_smoothing: 0.1,")
    done = stage("image_level", "lws", check=False)
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "params.yaml: heads.lws.label_smoothing: over images only its default is known, got 0.1",
    )
    done = stage("image_level", "tau", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("image_level: name a head of params.yaml that is called as its kind: crt or lws")
