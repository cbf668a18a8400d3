"""SIGKILL at random moments, twenty times in train, in extract and in each head: what is there in the end is what nobody disturbed."""

import random
import shutil
import time

import pytest

from pipeline import params
from tests.conftest import ROOT
from tests.forked import start

KILLS = 20
HEADS = list(params.read(ROOT / "params.yaml")["heads"])
TARGETS = {
    "train": ("data/backbone.safetensors", "data/training.csv", "data/training_classes.csv"),
    "extract": ("data/features.h5",),
    **{f"heads.{name} {name}": (f"data/heads/{name}.safetensors",) for name in HEADS},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A workspace in which every stage has run undisturbed."""
    workspace = tmp_path_factory.mktemp("whole")
    text = (ROOT / "params.yaml").read_text().replace("epochs: 60", "epochs: 20").replace("every: 5", "every: 3")
    (workspace / "params.yaml").write_text(text.replace("mix: none ", "mix: mfw ").replace("reweight: none ", "reweight: deferred "))
    for command in ("prepare", *TARGETS):
        process = start(workspace, *command.split())
        process.join()
        assert process.exitcode == 0, (workspace / "log").read_text()
    return workspace


@pytest.mark.slow
@pytest.mark.parametrize("command", TARGETS)
def test_killed_at_random_moments(whole, tmp_path, command):
    workspace, rng = tmp_path / "killed", random.Random(command)
    shutil.copytree(whole, workspace)
    expected = {target: (whole / target).read_bytes() for target in TARGETS[command]}

    begin = time.perf_counter()
    start(workspace, *command.split()).join()
    duration, kills, finished = time.perf_counter() - begin, 0, 0
    while kills < KILLS or not finished:
        for target in expected:
            (workspace / target).unlink(missing_ok=True)
        process = start(workspace, *command.split())
        process.join(rng.uniform(0, duration) if kills < KILLS else None)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        else:
            assert process.exitcode == 0, (workspace / "log").read_text()
            finished += 1
            assert all((workspace / target).exists() for target in expected)
        for target, content in expected.items():  # never half a file, never another
            assert not (workspace / target).exists() or (workspace / target).read_bytes() == content
    log = (workspace / "log").read_text()
    print(f"{command}: {kills} kills in runs of {duration:.2f} s, {finished} runs to the end, {log.count('goes on after epoch')} resumed")
    assert (command == "train") == ("train: goes on after epoch" in log)
