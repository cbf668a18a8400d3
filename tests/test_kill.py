"""A stage killed at any moment leaves its old file or none, and nothing that the next stage would accept."""

import signal

import pytest

from tests.conftest import ROOT, edit, notices
from tests.forked import start

STAGES = {
    "prepare": ("data/images.h5", "train"),
    "train": ("data/backbone.safetensors", "extract"),
    "extract": ("data/features.h5", "heads.tau tau"),
    "heads.tau tau": ("data/heads/tau.safetensors", "evaluate"),
    "evaluate": ("data/predictions.h5", None),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A workspace with one short run of all stages, heads joint and tau."""
    workspace = tmp_path_factory.mktemp("whole")
    (workspace / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    edit(workspace / "params.yaml", "epochs: 60", "epochs: 2")
    edit(workspace / "params.yaml", "warmup_epochs: 5", "warmup_epochs: 1")
    for name in ("logit_adjust", "crt", "lws", "ncm", "afg"):
        edit(workspace / "params.yaml", f"  {name}: {{kind", f"  #{name}: {{kind")
    for command in ("prepare", "train", "extract", "heads.joint joint", "heads.tau tau", "evaluate"):
        assert run(workspace, command) == 0
    return workspace


def run(workspace, command, dies_at=None):
    """Run a stage to its end, or to where it dies, and give its exit code."""
    process = start(workspace, *command.split(), dies_at=dies_at)
    process.join()
    return process.exitcode


@pytest.mark.parametrize("command", STAGES)
def test_killed_before_the_rename_the_old_file_stands_or_none(whole, command):
    target, reader = STAGES[command]
    before = (whole / target).read_bytes()
    assert run(whole, command, ("replace", 1)) == -signal.SIGKILL
    assert (whole / target).read_bytes() == before

    (whole / target).unlink()
    assert run(whole, command, ("fsync", 1)) == -signal.SIGKILL
    assert not (whole / target).exists()
    assert list((whole / "data/.tmp").iterdir())  # what the killed run wrote
    if reader:
        (whole / "log").unlink()
        assert run(whole, reader) == 1
        assert (whole / "log").read_text().startswith(f"{target}: not found")

    assert run(whole, command) == 0
    assert (whole / target).read_bytes() == before
    assert not list((whole / "data/.tmp").iterdir())


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
def test_training_killed_while_it_writes_goes_on_to_the_same_bytes(whole, function, call):
    """Two checkpoints, then three outputs: it dies before and after each of the five is whole on disk."""
    outputs = [whole / name for name in ("data/backbone.safetensors", "data/training.csv", "data/training_classes.csv")]
    before = [output.read_bytes() for output in outputs]
    for output in outputs:
        output.unlink()
    assert run(whole, "train", (function, call)) == -signal.SIGKILL
    (whole / "log").unlink()
    assert run(whole, "train") == 0
    done, said = min(call - 1, 2), notices((whole / "log").read_text())[0]  # epochs whose checkpoint was whole
    assert said.startswith(f"train: goes on after epoch {done}," if done else "train: ce")
    assert [output.read_bytes() for output in outputs] == before
    assert not list((whole / "data/.tmp").iterdir())
    assert not list((whole / "data/.checkpoints").iterdir())
