"""What several test files share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import images, params, prepare, recipe
from pipeline.classifier import Classifier
from pipeline.features import Features

ROOT = Path(__file__).parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # tests side by side, and the stages that they run: more threads than cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


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


def method(**changes):
    """The recipe of the current folder's params.yaml, cut to two epochs of larger batches, with changes to its `train` section."""
    tree = params.read()
    tree["train"] |= {"epochs": 2, "warmup_epochs": 1, "batch": 64, **changes}
    return recipe.read(tree)


def stage(*command, check=True):
    """Run `python -m pipeline.COMMAND` in the current folder, as DVC does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", f"pipeline.{command[0]}", *command[1:]], capture_output=True, text=True, env=environment)
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
