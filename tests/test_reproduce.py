"""Running cells of the papers' tables, without DVC."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from scipy.special import softmax

from pipeline import backbone, cells, extract, features, ledger, outcomes, params, reproduce, stored
from pipeline.classifier import Classifier
from pipeline.files import InputError
from tests.conftest import ROOT
from tests.test_cifar import small  # noqa: F401
from tests.tiny_cells import project, write_cells, write_yaml  # noqa: F401


def rows():
    with ledger.FILE.open() as file:
        return list(csv.DictReader(file))


def test_compile_asks_for_it_in_every_training(project, monkeypatch):  # noqa: F811
    asked = []
    monkeypatch.setattr(reproduce, "make", lambda cell, seed, tree, full, options: asked.append(tree["train"]["compile"]))
    project("run", "cifar10-lt-2/plain/ce", "cifar10-lt-2/plain/focal")
    project("run", "cifar10-lt-2/plain/ce", "cifar10-lt-2/plain/focal", "--compile")
    assert asked == [False, False, True, True]


def test_a_machine_that_cannot_compile_is_told_before_anything_runs(project, monkeypatch):  # noqa: F811
    monkeypatch.setenv("CXX", "no-compiler")
    with pytest.raises(InputError, match="cells.yaml: cifar10-lt-2/plain/ce: train.compile: torch.compile needs a C"):
        project("run", "cifar10-lt-2/plain/ce", "--compile")
    assert not reproduce.WORK.exists()


def test_parameters_that_cells_may_leave_out_are_their_defaults(project, monkeypatch):  # noqa: F811
    known = params.read(cells.FILE)
    del known["common"]["train"]["compile"], known["common"]["evaluate"]["ensembles"]
    write_cells(known)
    asked = []
    monkeypatch.setattr(reproduce, "make", lambda cell, seed, tree, full, options: asked.append((tree, full)))
    project("run", "cifar10-lt-2/plain/ce")
    for tree in asked[0]:
        assert (tree["train"]["compile"], tree["evaluate"]["ensembles"]) == (False, {})


@pytest.mark.slow
def test_a_cell_runs_keeps_its_rows_and_is_not_made_again(project, small, capfd):  # noqa: F811
    project("run", "cifar10-lt-2/plain/ce", "--seed", "1")
    folder = reproduce.WORK / "cifar10-lt-2/plain/ce/seed-1"
    assert [row["head"] for row in rows()] == ["joint", "tau_val", "crt", "lws", "vote"]
    val = features.load(folder / extract.FILE, "val")["val"]
    scores = {name: Classifier.load(folder / f"data/heads/{name}.safetensors").scores(val.features) for name in ("joint", "crt", "lws")}
    scores["vote"] = softmax(scores["crt"], axis=1) + softmax(scores["lws"], axis=1)
    for row in rows():
        if row["head"] in scores:
            right = scores[row["head"]].argmax(1) == val.labels
            assert float(row["val"]) == pytest.approx(100 * np.mean([right[val.labels == k].mean() for k in range(10)]), abs=0.005)
        figures = json.loads((folder / f"data/results/heads/{row['head']}.json").read_text())
        assert float(row["all"]) == figures["all"]
        assert (row["cell"], row["seed"], row["selected_on"]) == ("cifar10-lt-2/plain/ce", "1", figures["selected_on"])
        assert float(row["train_seconds"]) > 0 and float(row["extract_seconds"]) > 0 and row["device"]
    assert rows()[1]["chosen"].startswith("tau=")
    capfd.readouterr()
    (folder / "data/heads/tau_val.safetensors").unlink()  # as if killed before it
    project("run", "cifar10-lt-2/plain/ce", "--seed", "1", "--images")
    ran = re.findall(r"seed-1: (\S+.*)", capfd.readouterr().out)
    assert ran == ["heads.tau tau_val", "evaluate", "image_level crt", "image_level lws"]
    assert [row["head"] for row in rows()] == ["joint", "tau_val", "crt", "lws", "vote", "crt_images", "lws_images"]
    assert all(float(row["seconds"]) >= 0 for row in rows() if row["head"] != "vote")
    project("run", "cifar10-lt-2/plain/ce", "--seed", "1", "--full")
    assert re.findall(r"seed-1/full: (\S+.*)", capfd.readouterr().out) == ["prepare", "extract", "heads.crt full", "evaluate"]
    assert [row["head"] for row in rows()][7:] == ["full"]
    with h5py.File(folder / "full/data/images.h5") as every, h5py.File(folder / "data/images.h5") as some:
        assert len(every["train/labels"]) > len(some["train/labels"])
        assert set(np.unique(every["train/labels"], return_counts=True)[1]) == {len(every["train/labels"]) // 10}
    project("run", "cifar10-lt-2/plain/ce", "--seed", "1")
    assert not re.search("seed-1(/full)?: ", capfd.readouterr().out)
    assert len(rows()) == 8
    known = params.read(cells.FILE)
    known["heads"]["crt"]["epochs"] = 3
    known["heads"]["ncm"] = {"kind": "ncm"}
    write_cells(known)
    project("run", "cifar10-lt-2/plain/ce", "--seed", "1", "--root", str(shutil.copytree(small[0], "elsewhere")))
    assert re.findall(r"seed-1: (\S+.*)", capfd.readouterr().out) == [
        *("heads.crt crt", "heads.ncm ncm", "evaluate"),
        *("image_level crt", "image_level lws"),  # whose rows are there, and which should stand beside the same heads
    ]
    assert [row["head"] for row in rows()] == ["joint", "tau_val", "crt", "lws", "ncm", "vote", "crt_images", "lws_images", "full"]


@pytest.mark.slow
def test_features_of_two_networks_go_side_by_side(project, capfd):  # noqa: F811
    both = "cifar10-lt-2/plain/ce+focal"
    project("run", "cifar10-lt-2/plain/focal+ce")
    cell = [row["cell"] for row in rows()]
    assert [cell.count(name) for name in ("cifar10-lt-2/plain/ce", "cifar10-lt-2/plain/focal", both)] == [5, 5, 5]
    folders = [reproduce.folder(*network) for network in (*cells.networks(both), (both, 0))]
    tests = [features.load(folder / extract.FILE, "test")["test"] for folder in folders[:2]]
    said = sum(test.classifier.scores(test.features) for test in tests).argmax(1)
    assert np.array_equal(outcomes.read(folders[2] / outcomes.FILE)[1]["joint"].predicted, said)
    right = [np.mean(said[tests[0].labels == k] == k) for k in range(10)]
    (joint,) = (row for row in rows() if (row["cell"], row["head"]) == (both, "joint"))
    assert float(joint["all"]) == pytest.approx(100 * np.mean(right), abs=0.005)
    spent = {row["cell"]: float(row["train_seconds"]) for row in rows()}
    assert spent[both] == pytest.approx(sum(spent[name] for name, _ in cells.networks(both)), abs=0.01)
    capfd.readouterr()
    project("run", both)
    assert not re.search("seed-0: ", capfd.readouterr().out)
    (folders[1] / extract.FILE).touch()  # as if extracted anew
    project("run", both)
    ran = re.findall(r"seed-0: (\S+)", capfd.readouterr().out)
    assert ran == ["concatenate", "heads.joint", "heads.tau", "heads.crt", "heads.lws", "evaluate"]
    project("table")
    assert capfd.readouterr().out.count(f"| {both} | ") == 2  # in the two tables of every head, and not beside the papers


@pytest.mark.slow
def test_features_of_two_seeds_go_side_by_side(project):  # noqa: F811
    """And a variant of one network's head is no head of both."""
    known, alone = params.read(cells.FILE), "cifar10-lt-2/plain/ce"
    known["variants"] = {alone: {"crt": {"slow": {"lr": 0.01}}}}
    write_cells(known)
    project("run", f"{alone}+ce")
    assert [(row["cell"], row["seed"]) for row in rows() if row["head"] == "joint"] == [(alone, "0"), (alone, "1"), (f"{alone}+ce", "0")]
    assert [row["cell"] for row in rows() if row["head"] == "crt-slow"] == [alone, alone]
    tests = [features.load(reproduce.folder(alone, seed) / extract.FILE, "test")["test"] for seed in (0, 1)]
    assert not np.allclose(tests[0].features, tests[1].features)
    said = sum(test.classifier.scores(test.features) for test in tests).argmax(1)
    assert np.array_equal(outcomes.read(reproduce.folder(f"{alone}+ce", 0) / outcomes.FILE)[1]["joint"].predicted, said)


@pytest.mark.slow
def test_some_heads_are_fitted_and_the_rows_of_others_stay(project, capfd):  # noqa: F811
    cell = "cifar10-lt-2/plain/ce"

    def ran(*arguments):
        capfd.readouterr()
        project("run", *arguments)
        return re.findall(r"seed-0: (\S+)", capfd.readouterr().out)

    ledger.keep(cell, 0, [dict.fromkeys(ledger.COLUMNS, "") | {"cell": cell, "seed": 0, "head": head} for head in ("vote", "joint", "crt")])
    assert ran(cell, "--heads", "crt") == ["prepare", "train", "extract", "heads.crt", "evaluate"]
    assert [(row["head"], bool(row["all"])) for row in rows()] == [("joint", False), ("crt", True), ("vote", False)]
    project("store", cell)
    shutil.rmtree(reproduce.WORK)
    assert ran("--stored", "--heads", "lws") == ["prepare", "backbone", "extract", "heads.lws", "evaluate"]
    assert [(row["head"], bool(row["all"])) for row in rows()] == [("joint", False), ("crt", True), ("lws", True), ("vote", False)]
    assert ran(cell) == ["heads.joint", "heads.tau", "heads.crt", "evaluate"]
    assert all(row["all"] for row in rows())
    fitted = reproduce.folder(cell, 0) / "data/heads/crt.safetensors"
    os.utime(fitted, (0, 0))  # as if pipeline/heads/crt.py had been edited since
    assert ran(cell, "--heads", "lws") == []
    assert ran(cell) == ["heads.crt", "evaluate"]


@pytest.mark.slow
def test_a_terminated_run_takes_its_stage_with_it(project):  # noqa: F811
    known = params.read(cells.FILE)
    known["common"]["train"]["epochs"] = 10_000
    write_cells(known)
    command = [sys.executable, "-m", "pipeline.reproduce", "run", "cifar10-lt-2/plain/ce"]
    run = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert any("train: epoch 1/" in line for line in run.stdout)
    run.terminate()
    said, _ = run.communicate(timeout=60)  # until no process holds the pipe
    assert run.returncode == 130
    assert "run it again, and it goes on" in said


def test_a_folder_of_other_parameters_is_left_alone(project):  # noqa: F811
    folder = reproduce.WORK / "cifar10-lt-2/plain/ce/seed-0"
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text("seed: {}\n")
    with pytest.raises(InputError, match="of an earlier cells.yaml; remove .* to train it anew"):
        project("run", "cifar10-lt-2/plain/ce")
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "params.yaml"]


def test_a_backbone_of_other_parameters_is_not_stored(project):  # noqa: F811
    cell = "cifar10-lt-2/plain/ce"
    folder, tree = reproduce.folder(cell, 0), cells.compose(cell, 0, "", cells.read())
    tree["train"]["lr"] = 0.7
    (folder / backbone.FILE).parent.mkdir(parents=True)
    (folder / backbone.FILE).touch()
    write_yaml(folder / params.FILE, tree)
    with pytest.raises(InputError, match="params.yaml: of an earlier cells.yaml"):
        project("store", cell)
    assert not stored.FOLDER.exists()


def test_without_rows_or_data_there_is_a_line(project, monkeypatch):  # noqa: F811
    with pytest.raises(InputError, match="runs.csv: no rows"):
        project("table")
    with pytest.raises(InputError, match="page.md: cannot be read"):
        ledger.FILE.write_text(f"{','.join(ledger.COLUMNS)}\ncifar10-lt-2/plain/ce,0,joint,,,,,,,,,,,,\n")
        project("table", "--write", "page.md")
    reproduce.Path("page.md").write_bytes(b"\xff")
    with pytest.raises(InputError, match="page.md: cannot be read"):
        project("table", "--write", "page.md")
    with pytest.raises(InputError, match="cells.yaml: methods: no 'cee'"):
        project("store", "cifar10-lt-2/plain/cee")
    for command in ("run", "store"):
        with pytest.raises(InputError, match="reproduce: which cells"):
            project(command)
    with pytest.raises(InputError, match="cells.yaml: heads: no 'afq'; known: joint, tau_val, crt, lws"):
        project("run", "cifar10-lt-2/plain/ce", "--heads", "afq")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        project("run", "cifar10-lt-2/plain/ce", "--root", "nowhere")
    assert not reproduce.WORK.exists() and not reproduce.Path("nowhere").exists()
    monkeypatch.delenv("TAILCACHE_CIFAR")
    with pytest.raises(InputError, match="name the folder of the data set"):
        project("run", "cifar10-lt-2/plain/ce")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar10-lt-2/plain/ce", "--seed", "0", "-1"], "data/reproduction/cells.yaml: cifar10-lt-2/plain/ce: seed.train: "),
        (["cifar10-lt-2/plain/ce", "cifar10-lt-2/plain/erm"], "data/reproduction/cells.yaml: methods: no 'erm'"),
        (["cifar10-lt-2/plain/ldam_drw", "--images"], "reproduce: cifar10-lt-2/plain/ldam_drw has a cosine classifier"),
        (["cifar10-lt-2/plain/ce", "--heads", "tau_val", "--images"], "reproduce: --images takes its parameters from crt and lws"),
        (["cifar10-lt-2/plain/ce+ldam_drw"], "reproduce: cifar10-lt-2/plain/ldam_drw has a cosine classifier"),
    ],
)
def test_what_cannot_end_well_does_not_begin(project, arguments, message):  # noqa: F811
    with pytest.raises(InputError) as error:
        project("run", *arguments)
    assert str(error.value).startswith(message)
    assert not reproduce.WORK.exists()


def test_a_damaged_file_of_rows_is_noticed_before_anything_runs(project):  # noqa: F811
    ledger.FILE.write_text("<<<<<<< HEAD\n")
    with pytest.raises(InputError, match="data/reproduction/runs.csv: line 1: expected the columns cell,seed,head"):
        project("run", "cifar10-lt-2/plain/ce")
    assert not reproduce.WORK.exists()


def test_two_runs_of_a_cell_do_not_work_in_one_folder(project):  # noqa: F811
    with reproduce.place("cifar10-lt-2/plain/ce", 0), pytest.raises(InputError, match="seed-0: another run is at work there"):
        project("run", "cifar10-lt-2/plain/ce")
