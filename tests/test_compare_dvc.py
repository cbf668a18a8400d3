"""`compare` on experiments that DVC ran: two seeds of two losses, figures against numpy."""

import csv
import io
import json
import sys

import numpy as np
import pytest

from tests.test_dvc import clone, commit, run, without_heads

HEADS = ("joint", "crt", "tau", "ncm")
LOSSES = ("ce", "graloss")
SEEDS = (0, 1)


@pytest.mark.slow
def test_two_seeds_of_two_losses(tmp_path):
    project = clone(tmp_path)
    without_heads(project, "lws", "afg", "logit_adjust")
    run(project, "dvc", "repro")
    commit(project)
    for loss in LOSSES:
        for seed in SEEDS:
            seeds = [part for name in ("subset", "train", "heads") for part in ("-S", f"seed.{name}={seed}")]
            run(project, "dvc", "exp", "run", "-n", f"{loss}-{seed}", "-S", f"train.loss={loss}", *seeds)
    lines = run(project, "git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
    commits = {line.split()[0].rsplit("/", 1)[1]: line.split()[1] for line in lines}

    rows = list(csv.DictReader(io.StringIO(run(project, sys.executable, "-m", "pipeline.compare", "--format", "csv"))))
    assert [(row["train.loss"], row["head"]) for row in rows] == [(loss, head) for loss in LOSSES for head in HEADS]
    for row in rows:
        names = [f"{row['train.loss']}-{seed}" for seed in SEEDS]
        assert row["runs"] == " ".join(names)  # the workspace and the first run are among these, and count once
        files = [f"{commits[name]}:data/results/heads/{row['head']}.json" for name in names]
        found = [json.loads(run(project, "git", "show", file)) for file in files]
        for column in ("many", "medium", "few", "all"):
            values = [figures[column] for figures in found]
            assert float(row[f"{column}_mean"]) == pytest.approx(np.mean(values), abs=1e-4)
            assert float(row[f"{column}_std"]) == pytest.approx(np.std(values, ddof=1), abs=1e-4)
        if row["head"] != "joint":
            assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])  # predictions come from DVC's cache

    printed = run(project, sys.executable, "-m", "pipeline.compare", "*-1", "--heads", "crt").splitlines()
    assert len(printed) == 2 + len(LOSSES) and "±" not in "".join(printed)
