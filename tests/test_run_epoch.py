"""One epoch's steps: where they stop when they diverge, that they wait for no device, and what compiling changes."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from pipeline import augment, backbone, checkpoint, device, images, optimiser, params, stage_one, train
from pipeline.feed import Feed
from pipeline.files import InputError
from pipeline.objective import Objective
from tests.conftest import edit, method
from tests.test_checkpoint import CutOff


def test_a_diverging_loss_stops_at_its_step_with_what_to_try(digits, monkeypatch):
    """The third loss of the second epoch is the first that is not finite, wherever it is noticed."""
    original, calls = Objective.__call__, []

    def poisoned(*arguments):
        calls.append(0)
        return original(*arguments) * (float("inf") if len(calls) >= 8 else 1)

    monkeypatch.setattr(Objective, "__call__", poisoned)
    for together in (1, 50):
        monkeypatch.setattr(stage_one, "LOSSES_ASKED_FOR", {"cpu": together, "cuda": together})
        calls.clear()
        with pytest.raises(InputError) as stopped:
            stage_one.fit(method(), digits, 0)
        assert str(stopped.value) == (
            "train: the loss is inf at step 3 of 5 in epoch 2, at a learning rate of 0.05; no result is written. "
            "Lower train.lr or raise train.warmup_epochs in params.yaml"
        )
        assert len(calls) == (8 if together == 1 else 10)


def test_a_rate_far_too_high_diverges(digits):
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step \d of 5 in epoch \d, at a learning rate of \S+e\+08;"):
        stage_one.fit(method(lr=1e9, warmup_epochs=0, epochs=5), digits, 0)


def test_weights_that_the_last_step_of_an_epoch_spoils_are_noticed(digits, monkeypatch):
    """One step an epoch: its loss is finite, what the step leaves is not."""
    original = optimiser.SGD.step

    def spoiling(sgd, loss, lr):
        original(sgd, loss, lr)
        sgd.parameters[3].detach()[0] = float("inf")

    monkeypatch.setattr(optimiser.SGD, "step", spoiling)
    with pytest.raises(InputError, match="weights are NaN or infinite at step 1 of 1 in epoch 1, at a learning rate of 0.05; no result is"):
        stage_one.fit(method(warmup_epochs=0, epochs=1, batch=400), digits, 0)


def test_what_diverges_overwrites_nothing(digits):
    edit("params.yaml", "epochs: 60", "epochs: 2")
    edit("params.yaml", "warmup_epochs: 5", "warmup_epochs: 0")
    train.main()
    before = {path: path.read_bytes() for path in (backbone.FILE, train.CURVE, train.CLASSES)}
    edit("params.yaml", "lr: 0.1\n", "lr: 1.0e+9\n")
    with pytest.raises(InputError, match="train: the loss is "):
        train.main()
    assert before == {path: path.read_bytes() for path in before}


class Questions(TorchDispatchMode):
    """Counts what makes a GPU wait: a number asked for, a tensor fetched, a size that only the data decides."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        for name in ("item", "tolist", "cpu", "numpy"):  # on the CPU these need no operation that could be seen
            monkeypatch.setattr(torch.Tensor, name, self.counted(getattr(torch.Tensor, name)))

    def counted(self, original):
        def call(*arguments, **keywords):
            self.count += 1
            return original(*arguments, **keywords)

        return call

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        operation = function.overloadpacket
        self.count += operation in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)
        if operation is torch.ops.aten.index:
            self.count += any(index is not None and index.dtype == torch.bool for index in arguments[1])
        return function(*arguments, **(keywords or {}))


def an_epoch(n, loss="ce", mix="none"):
    """A function that trains an epoch on n images in batches of ten."""
    rng, labels = np.random.default_rng(0), np.arange(n) % 3
    split = images.Images(rng.integers(0, 256, (n, 8, 8, 3), np.uint8), labels)
    data = images.ImageSet(split, None, split, n // 3 + np.array([9, 4, 0]), list("abc"), np.full(3, 0.5), np.full(3, 0.2), 8)
    chosen = method(loss=loss, mix=mix, reweight="deferred", augment="plain", batch=10)
    network = stage_one.new_network(chosen, data, 0)
    objective = Objective(network, data.class_counts, chosen.loss, chosen.mixing, chosen.reweighting, False)
    feed, sgd = Feed(data, augment.plain, objective.device), optimiser.SGD(network.parameters(), 0)
    order = stage_one.batches(np.arange(n), 10)
    return lambda: stage_one.run_epoch(0, order, chosen.train, objective, sgd, feed, 0, tqdm(disable=True))


def questions_of(epoch, monkeypatch):
    """How many questions it asks."""
    with Questions(monkeypatch) as questions:
        epoch()
    return questions.count


@pytest.mark.parametrize("loss", params.known("losses"))
@pytest.mark.parametrize("mix", params.known("mixing"))
def test_no_step_waits_for_the_device(workspace, monkeypatch, loss, mix):
    """An epoch asks as few questions with 12 steps as with 3: for its losses, and whether its weights are finite."""
    monkeypatch.setattr(stage_one, "LOSSES_ASKED_FOR", {"cpu": 50, "cuda": 50})
    few, many = (questions_of(an_epoch(n, loss, mix), monkeypatch) for n in (30, 120))
    assert 0 < few == many <= 3


def test_a_question_at_every_step_would_be_noticed(workspace, monkeypatch):
    monkeypatch.setattr(stage_one, "LOSSES_ASKED_FOR", {"cpu": 1, "cuda": 1})
    few, many = (questions_of(an_epoch(n), monkeypatch) for n in (30, 120))
    assert many >= few + 9


def test_a_gpu_keeps_float32_whole_and_repeats_unless_told_otherwise(monkeypatch):
    """By PyTorch's switches, which can be set without one."""
    asked = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda wanted, warn_only: asked.append(wanted))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    for repeatable in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        device.arithmetic(torch.device("cuda"), repeatable)
        assert not torch.backends.cudnn.allow_tf32
    assert asked == [True, False]


def waits_of(epoch):
    """Where it waits for the GPU, as CUDA's debug mode tells: a line of a file each time."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{each.filename}:{each.lineno}" for each in caught if "called a synchronizing CUDA operation" in str(each.message)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mix", params.known("mixing"))
def test_no_step_waits_for_a_gpu(workspace, mix):
    """As above by CUDA's own account, which also sees what operations do inside; the first epoch loads what the others have."""
    _, few, many = (waits_of(an_epoch(n, mix=mix)) for n in (30, 30, 120))
    assert len(many) <= len(few), many


def fit_compiled(chosen, data, saved=None):
    """As in a new process, which knows of nothing compiled before."""
    torch._dynamo.reset()
    return stage_one.fit(chosen, data, 0, saved)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_learns_the_same_and_repeats_to_the_byte(digits):
    """MFW and manifold mixup go through the compiled part, and the last batch is smaller than the others."""
    for mix in ("none", "mfw", "manifold_mixup"):
        plain = stage_one.fit(method(mix=mix), digits, 0)
        fused, again = fit_compiled(method(mix=mix, compile=True), digits), fit_compiled(method(mix=mix, compile=True), digits)
        assert [row["loss"] for row in fused.curve] == pytest.approx([row["loss"] for row in plain.curve], rel=0.02)
        assert fused.curve == again.curve
        for a, b in zip(fused.network.state_dict().values(), again.network.state_dict().values(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_training_goes_on_to_the_same_bytes(digits):
    chosen = method(compile=True, mix="manifold_mixup", epochs=3)
    identity, whole = checkpoint.identity(chosen, 0, images.FILE), fit_compiled(chosen, digits)
    for epochs in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            fit_compiled(chosen, digits, CutOff(identity, epochs))
    resumed = fit_compiled(chosen, digits, checkpoint.Checkpoint(identity))
    assert resumed.curve == whole.curve
    for a, b in zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_compiling_without_a_compiler_is_one_line(workspace, monkeypatch):
    monkeypatch.setenv("CXX", str(workspace / "no compiler"))
    with pytest.raises(InputError, match=r"params.yaml: train.compile: torch.compile needs a C\+\+ compiler, g\+\+ or what CXX names, and"):
        method(compile=True)
