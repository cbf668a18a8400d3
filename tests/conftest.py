"""What several test files share."""

from __future__ import annotations

import copy
import functools
import io
import os
import runpy
import subprocess
import sys
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from pipeline import images, params, prepare, recipe
from pipeline.classifier import Classifier
from pipeline.features import Features

ROOT = Path(__file__).parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # tests side by side, and the stages that they run: more threads than cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """test_dvc.py takes longest and begins, then the files of many tests, so that two processes end together."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name != "test_dvc.py", -tests[item.path], item.path))


def make_features(counts=(60, 25, 9, 3, 1), dim=8, seed=0, spread=2.5, nonnegative=True):
    """A long-tailed training split around random class means; stage one's classifier is Bayes' rule for it, prior included."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, spread, (len(counts), dim)) + (4 if nonnegative else 0)
    labels = np.repeat(np.arange(len(counts)), counts)
    x = means[labels] + rng.normal(size=(len(labels), dim))
    x = np.maximum(x, 0) if nonnegative else x
    stage_one = Classifier.linear(means, -0.5 * (means**2).sum(1) + np.log(np.maximum(counts, 1)))
    return Features(x.astype(np.float32), labels.astype(np.int64), len(counts), stage_one)


@pytest.fixture
def train():
    """Features of five classes with 60, 25, 9, 3 and 1 samples."""
    return make_features()


@pytest.fixture
def val():
    """Ten more samples of each of the same classes."""
    return make_features((10,) * 5, seed=0)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty folder as the current one, with the project's params.yaml; stages run here find their code in the repository."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def digits(workspace):
    """The prepared digits, in an empty workspace."""
    prepare.main()
    return images.load()


@functools.cache
def tree_of(text):
    """The parameters of the current folder, whose params.yaml has this text."""
    return params.read()


def method(**changes):
    """The recipe of the current folder's params.yaml, cut to two epochs of larger batches, with changes to its `train` section."""
    tree = copy.deepcopy(tree_of(Path("params.yaml").read_text()))
    tree["train"] |= {"epochs": 2, "warmup_epochs": 1, "batch": 64, **changes}
    return recipe.read(tree)


def stage(*command, check=True):
    """Run `python -m pipeline.COMMAND` in the current folder and in this process, which has imported what takes seconds to import."""
    said, errors, status = io.StringIO(), io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(errors), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'pipeline.* found in sys.modules", RuntimeWarning)  # it may be another copy than tests import
        patch.setattr(sys, "argv", list(command))
        try:
            runpy.run_module(f"pipeline.{command[0]}", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code
    if isinstance(status, str):
        print(status, file=errors)
        status = 1
    return checked(subprocess.CompletedProcess(command, status or 0, said.getvalue(), errors.getvalue()), check)


def process(*command, check=True):
    """The same in a process of its own, as DVC has it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"pipeline.{command[0]}", *command[1:]]
    return checked(subprocess.run(command, capture_output=True, text=True, env=environment), check)


def checked(done, check):
    assert not check or done.returncode == 0, done.stderr
    return done


def notices(said):
    """What `train` said, without its line about the data and those of epochs."""
    return [line for line in said.splitlines() if " training images on " not in line and not line.startswith("train: epoch ")]


def edit(path, old, new):
    """Replace a text that stands exactly once in a file."""
    text = Path(path).read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
    Path(path).write_text(text.replace(old, new))
