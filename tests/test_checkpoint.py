"""A training that is cut off goes on and ends with the same bytes; a checkpoint that is not its own is left alone."""

import ast
import contextlib
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import backbone, checkpoint, extract, images, params, prepare, recipe, stage_one, train
from pipeline.checkpoint import Checkpoint
from pipeline.files import InputError
from tests import conftest
from tests.conftest import ROOT, edit, notices, process
from tests.test_dag import DVC, declared


def method(**changes):
    return conftest.method(**{"epochs": 4, "watch": {"images": 60, "every": 1, "after": 2}, **changes})


@pytest.fixture
def short(workspace):
    """A workspace in which `train` takes three short epochs."""
    edit("params.yaml", "epochs: 60", "epochs: 3")
    edit("params.yaml", "warmup_epochs: 5", "warmup_epochs: 1")
    prepare.main()
    return workspace


OUTPUTS = ("data/backbone.safetensors", "data/training.csv", "data/training_classes.csv")


class CutOff(Checkpoint):
    """A checkpoint after whose n-th epoch the training is over."""

    def __init__(self, identity, epochs):
        super().__init__(identity)
        self.last = epochs

    def save(self, state):
        super().save(state)
        if state.epochs == self.last:
            raise KeyboardInterrupt


def cut_off(chosen, data, epochs):
    saved = CutOff(checkpoint.identity(chosen, 0, images.FILE), epochs)
    with pytest.raises(KeyboardInterrupt):
        stage_one.fit(chosen, data, 0, saved)
    return saved


def fresh(chosen):
    return Checkpoint(checkpoint.identity(chosen, 0, images.FILE))


CHOICES = [
    {},
    {"loss": "graloss", "mix": "mfw", "reweight": "deferred", "sampler": "progressive", "augment": "plain"},
    {"loss": "ldam", "mix": "manifold_mixup", "sampler": "class_balanced", "precision": "bf16", "schedule": "step"},
    {"loss": "cdt", "mix": "remix", "sampler": "square_root", "augment": "large"},
]


@pytest.mark.parametrize("choices", CHOICES)
def test_going_on_after_any_epoch_gives_the_same_bytes(digits, choices, capsys):
    """Cut off after every epoch, each time after going on from the one before."""
    chosen = method(**{"epochs": 3, **choices})
    whole = stage_one.fit(chosen, digits, 0)
    kept = [cut_off(chosen, digits, epochs).path.read_bytes() for epochs in (1, 2, 3)]
    for epochs, content in enumerate(kept, 1):
        saved = fresh(chosen)
        saved.path.write_bytes(content)
        capsys.readouterr()
        resumed = stage_one.fit(chosen, digits, 0, saved)
        assert saved.resumed == epochs
        assert notices(capsys.readouterr().out)[-1] == f"train: goes on after epoch {epochs}, from {saved.path}"
        for name, tensor in whole.network.state_dict().items():
            assert torch.equal(tensor, resumed.network.state_dict()[name]), name
        assert whole.curve == resumed.curve
        assert whole.classes == resumed.classes
        for one, other in ((whole.curve, resumed.curve), (whole.classes, resumed.classes)):
            assert [list(row) for row in one] == [list(row) for row in other]
            assert [[type(x) for x in row.values()] for row in one] == [[type(x) for x in row.values()] for row in other]  # rounded alike


def test_momentum_goes_on_too(digits):
    """Weights alone would not do: without its velocities the training ends elsewhere."""
    chosen = method()
    whole = stage_one.fit(chosen, digits, 0)
    saved = cut_off(chosen, digits, 2)
    tensors = load_file(saved.path)
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if name.startswith("velocity."))
    state = saved.load()
    for name in state.tensors:
        if name.startswith("velocity."):
            state.tensors[name].zero_()
    Checkpoint.save(saved, state)
    resumed = stage_one.fit(chosen, digits, 0, fresh(chosen))
    assert not torch.equal(whole.network.classifier.weight, resumed.network.classifier.weight)


@pytest.mark.parametrize("kept", [0, 7, 100, 5_000, -1])
def test_a_truncated_one_is_ignored_with_one_line(digits, kept, capsys):
    chosen = method()
    whole = stage_one.fit(chosen, digits, 0)
    path = cut_off(chosen, digits, 2).path
    path.write_bytes(path.read_bytes()[:kept])
    capsys.readouterr()
    again = stage_one.fit(chosen, digits, 0, fresh(chosen))
    (line,) = notices(capsys.readouterr().out)
    assert line.startswith(f"train: {path}: not a complete checkpoint (")
    assert line.endswith("; ignored, training starts with the first epoch")
    assert torch.equal(whole.network.classifier.weight, again.network.classifier.weight)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("write", [lambda path: path.write_bytes(pickle.dumps(Bomb())), lambda path: torch.save({"w": Bomb()}, path)])
def test_a_planted_pickle_is_never_run(short, write, capsys):
    """In the place of the checkpoint and of the backbone; the same file does explode when it is loaded as a pickle."""
    tree = params.read()
    path = Checkpoint(checkpoint.identity(recipe.read(tree), params.seed(tree, "train"), images.FILE)).path
    path.parent.mkdir()
    write(path)
    train.main()
    assert f"train: {path}: not a complete checkpoint (" in capsys.readouterr().out
    write(backbone.FILE)
    with pytest.raises(InputError, match="data/backbone.safetensors: not a complete backbone"):
        extract.main()
    assert not (short / "exploded").exists()

    write(short / "bomb")
    with contextlib.suppress(Exception):
        torch.load("bomb", weights_only=False)
    assert (short / "exploded").exists()


def test_no_module_reads_a_pickle():
    """Weights come from safetensors only; NumPy's reader is told to refuse pickles wherever it is called."""
    for path in (ROOT / "pipeline").rglob("*.py"):
        names = set()
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) == "np.load":
                assert "allow_pickle=False" in [ast.unparse(keyword) for keyword in call.keywords], path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Attribute):
                names.add(ast.unparse(node))
        readers = {
            "pickle",
            "dill",
            "joblib",
            "shelve",
            "marshal",
            "torch.load",
            "numpy.load",
            "torch.hub",
            "torch.serialization",
        }
        assert not names & readers, path


@pytest.mark.parametrize("metadata", ["[]", '{"schema": "tailcache-backbone-2"}', "no JSON"])
def test_any_other_file_of_its_format_is_ignored(digits, metadata, capsys):
    """Under its own name, and beside it."""
    chosen = method()
    for path in (fresh(chosen).path, checkpoint.FOLDER / "other.safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"x": torch.zeros(1)}, path, {"tailcache": metadata})
        assert fresh(chosen).load() is None
        (line,) = notices(capsys.readouterr().out)[-1:]
        assert str(path) in line and "ignore" in line
        path.unlink()


def test_one_of_other_parameters_is_named_and_kept(digits, capsys):
    other = cut_off(method(lr=0.3), digits, 2)
    capsys.readouterr()
    chosen = method()
    whole = stage_one.fit(chosen, digits, 0)
    trained = stage_one.fit(chosen, digits, 0, fresh(chosen))
    (line,) = notices(capsys.readouterr().out)
    reason = "epoch 2 of a training with other parameters (train.lr)"
    assert line == f"train: ignores {other.path} ({reason}); delete it, or keep it to go back"
    assert torch.equal(whole.network.classifier.weight, trained.network.classifier.weight)
    assert other.path.exists()


def test_other_images_and_other_code_are_other_trainings(digits):
    chosen = method()
    ours = checkpoint.identity(chosen, 0, images.FILE)
    edit("params.yaml", "subset: 0", "subset: 1")
    prepare.main()
    theirs = checkpoint.identity(chosen, 0, images.FILE)
    assert checkpoint.differences(ours, theirs) == "images (data/images.h5)"
    theirs["code"] = ours["code"] | {"stage_one.py": "another"}
    assert checkpoint.differences(ours, theirs) == "images (data/images.h5), code (stage_one.py)"
    assert Checkpoint(ours).path != Checkpoint(theirs).path


def test_every_parameter_makes_another_training(digits):
    ours = checkpoint.identity(method(loss="graloss", mix="mfw"), 0, images.FILE)
    edit("params.yaml", "graloss: {c: 2.0", "graloss: {c: 4.0")
    edit("params.yaml", "mfw: {after: 2, alpha: 2.0", "mfw: {after: 2, alpha: 1.0")
    theirs = checkpoint.identity(method(loss="graloss", mix="mfw", backbone={"family": "cifar_resnet", "depth": 14}), 5, images.FILE)
    changed = "losses.graloss, mixing.mfw, seed.train, train.backbone"
    assert checkpoint.differences(ours, theirs) == f"parameters ({changed})"


def test_one_under_its_name_but_of_another_training_is_ignored(digits, capsys):
    chosen = method()
    other, ours = cut_off(method(lr=0.3), digits, 2), fresh(chosen)
    shutil.copy(other.path, ours.path)
    assert ours.load() is None
    assert "made with other parameters (train.lr); ignored" in capsys.readouterr().out


def test_going_on_elsewhere_says_that_bytes_may_differ(digits, monkeypatch, capsys):
    chosen = method()
    cut_off(chosen, digits, 2)
    here = checkpoint.machine()
    monkeypatch.setattr(checkpoint, "machine", lambda: "another machine")
    cut_off(chosen, digits, 3)
    assert f"train: ran on {here}; then on another machine: other bytes than on one alone" in capsys.readouterr().out
    assert fresh(chosen).load().epochs == 3
    assert f"train: ran on {here}; then on another machine: other" in capsys.readouterr().out  # said again


def test_it_goes_when_the_stage_succeeds_and_the_stage_says_what_it_did(short, capsys):
    train.main()
    assert "train: ce, mix none, re-weighting none: 3 epochs of 314 images in " in capsys.readouterr().out
    assert list((short / "data/.checkpoints").iterdir()) == []


INTERRUPTED = """
import sys, runpy
from pipeline import checkpoint
save = checkpoint.Checkpoint.save
def once(self, state):
    save(self, state)
    raise KeyboardInterrupt
checkpoint.Checkpoint.save = once
runpy.run_module("pipeline.train", run_name="__main__", alter_sys=True)
"""


def test_ctrl_c_ends_with_a_line_on_how_to_go_on(short):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, env=environment)
    assert done.returncode == 130
    assert done.stderr.strip() == "train: stopped; run it again, and it goes on after its last whole epoch"
    assert not any((short / output).exists() for output in OUTPUTS)
    (path,) = (short / "data/.checkpoints").iterdir()
    about, _ = checkpoint._read(path)
    assert {f"pipeline/{name}" for name in about["identity"]["code"]} == declared(DVC["train"])  # no more and no less
    assert notices(process("train").stdout)[0].startswith("train: goes on after epoch 1, from data/.checkpoints/")


def test_what_fails_after_the_last_epoch_costs_no_training(short, monkeypatch, capsys):
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(train, "note_time", lambda *_: 1 / 0)
        train.main()
    train.main()
    assert "goes on after epoch 3" in capsys.readouterr().out
    assert not list(checkpoint.FOLDER.glob("*"))
