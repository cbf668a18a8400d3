"""A stage killed at any moment leaves its old file or none, and nothing that the next stage would accept."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT, edit, stage

KILLED = """
import os, runpy, signal, sys
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
os.{function} = die
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""

STAGES = {
    "prepare": ("data/images.h5", "train"),
    "train": ("data/backbone.safetensors", "extract"),
    "extract": ("data/features.h5", "heads.tau tau"),
    "heads.tau tau": ("data/heads/tau.safetensors", "evaluate"),
    "evaluate": ("data/predictions.h5", None),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workspace with one short run of all stages, heads joint and tau; gives a function that runs a command there."""
    workspace = tmp_path_factory.mktemp("run")
    (workspace / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    edit(workspace / "params.yaml", "epochs: 60", "epochs: 2")
    edit(workspace / "params.yaml", "warmup_epochs: 5", "warmup_epochs: 1")
    for name in ("crt", "lws", "ncm", "afg"):
        edit(workspace / "params.yaml", f"  {name}: {{kind", f"  #{name}: {{kind")
    before = os.getcwd()
    os.chdir(workspace)
    for name in ("prepare", "train", "extract", "heads.joint joint", "heads.tau tau", "evaluate"):
        stage(*name.split())
    yield workspace
    os.chdir(before)


def killed(command, function):
    """Run a stage that dies by SIGKILL when it is about to call an `os` function."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    module, *arguments = command.split()
    done = subprocess.run([sys.executable, "-c", KILLED.format(function=function), f"pipeline.{module}", *arguments], env=environment)
    return done.returncode


@pytest.mark.parametrize("command", STAGES)
def test_killed_before_the_rename_the_old_file_stands_or_none(run, command):
    target, reader = STAGES[command]
    whole = (run / target).read_bytes()
    assert killed(command, "replace") == -signal.SIGKILL
    assert (run / target).read_bytes() == whole

    (run / target).unlink()
    assert killed(command, "fsync") == -signal.SIGKILL
    assert not (run / target).exists()
    assert list((run / "data/.tmp").iterdir())  # what the killed run wrote
    if reader:
        refused = stage(*reader.split(), check=False)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"{target}: not found")

    stage(*command.split())
    assert (run / target).read_bytes() == whole
    assert not list((run / "data/.tmp").iterdir())
