"""Cells of the papers' tables: their parameters, a run without DVC, the rows that it keeps and the table that they make."""

import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from ruamel.yaml import YAML
from scipy.special import softmax

from pipeline import cells, check, extract, features, outcomes, params, published, reproduce, reproduced
from pipeline.classifier import Classifier
from pipeline.files import InputError
from tests.conftest import ROOT
from tests.test_cifar import small  # noqa: F401

KNOWN = params.read(ROOT / cells.FILE)
DEFAULT = params.read(ROOT / "params.yaml")


def compose(cell, seed=0):
    return cells.compose(cell, seed, "/data/cifar", KNOWN, DEFAULT)


@pytest.mark.parametrize("parts", list(itertools.product(KNOWN["data"], KNOWN["recipes"], KNOWN["methods"])), ids="/".join)
def test_every_cell_is_sound(parts):
    data, recipe, method = parts
    tree = compose(f"{data}-100/{recipe}/{method}", 2)
    check.check(tree)
    assert tree["seed"] == {"subset": 0, "train": 2, "heads": 2}
    assert tree["data"]["ratio"] == 100
    assert tree["train"]["backbone"] == {"family": "cifar_resnet", "depth": 32, "width": 16}
    assert list(tree["heads"]) == list(KNOWN["heads"])


@pytest.mark.parametrize(
    ("cell", "head", "split", "value"),
    [
        ("cifar100-lt-100/autoaugment/graloss", "afg", "all", "51.7"),  # GLAG, table 7
        ("cifar100-lt-100/autoaugment/graloss", "afg_ad", "few", "34.4"),
        ("cifar100-lt-200/autoaugment/ce", "crt", "all", "46.3"),  # GLAG, table 6
        ("cifar100-lt-100/plain/mfw_drw", "joint", "all", "46.0"),  # MFW, table 1
        ("cifar10-step-100/plain/mfw", "joint", "all", "80.1"),
        ("cifar100-lt-100/autoaugment/ce", "full", "all", "57.33"),  # GLAG, table 1
    ],
)
def test_cells_find_the_published_number(cell, head, split, value):
    (row,) = [
        row
        for row in reproduced.by_setting([{"cell": cell, "seed": "0", "head": head, "many": "", "medium": "", "few": "50", "all": "50"}])
        if row.head == head
    ]
    found = [number.row for number in published.read(ROOT / published.FILE) if published.counterpart(row, number)]
    assert value in [each["value"] for each in found if each["split"] == split]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("graloss", "data: no 'name' for 'graloss', which should be DATA-RATIO/RECIPE/METHOD; known: cifar100-lt, "),
        ("cifar100-lt-100/plane/ce", "recipes: no 'plane' for 'cifar100-lt-100/plane/ce', which should be"),
        ("cifar100-lt-100/plain/erm", "methods: no 'erm' for"),
        ("cifar100-lt-many/plain/ce", "cifar100-lt-many/plain/ce: expected a ratio behind cifar100-lt-, got 'many'"),
    ],
)
def test_an_unknown_cell_is_a_line(cell, message):
    with pytest.raises(InputError) as error:
        compose(cell)
    assert str(error.value).startswith(f"data/reproduction/cells.yaml: {message}")


@pytest.fixture
def project(workspace, small, monkeypatch):  # noqa: F811
    """A workspace whose cells are tiny, with a small CIFAR-10; a function that calls `reproduce`."""
    (workspace / "data/reproduction").mkdir(parents=True)
    shutil.copy(ROOT / published.FILE, published.FILE)
    tiny = {**KNOWN, "heads": {name: KNOWN["heads"][name] for name in ("joint", "tau_val", "crt", "lws")}}
    tiny["common"] = json.loads(json.dumps(KNOWN["common"]))
    tiny["common"]["train"] |= {"epochs": 2, "warmup_epochs": 0, "batch": 32}
    tiny["common"]["train"]["backbone"] |= {"depth": 8, "width": 4}
    tiny["common"]["extract"]["views"] = 1
    tiny["common"]["evaluate"]["ensembles"] = {"vote": ["crt", "lws"]}
    tiny["data"] = {"cifar10-lt": {"data": {"name": "cifar10", "imbalance": "exponential", "val": "reserve", "val_per_class": 1}}}
    with cells.FILE.open("w") as file:
        YAML().dump(tiny, file)
    monkeypatch.setenv("TAILCACHE_CIFAR", str(small[0]))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
        reproduce.main()

    return call


def rows():
    with reproduced.FILE.open() as file:
        return list(csv.DictReader(file))


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
    cells.FILE.unlink()
    with cells.FILE.open("w") as file:
        YAML().dump(known, file)
    project("run", "cifar10-lt-2/plain/ce", "--seed", "1", "--root", str(shutil.copytree(small[0], "elsewhere")))
    assert re.findall(r"seed-1: (\S+.*)", capfd.readouterr().out) == ["heads.crt crt", "heads.ncm ncm", "evaluate"]
    assert [row["head"] for row in rows()] == ["joint", "tau_val", "crt", "lws", "ncm", "vote", "crt_images", "lws_images", "full"]


@pytest.mark.slow
def test_features_of_two_networks_go_side_by_side(project, capfd):
    both = "cifar10-lt-2/plain/ce+focal"
    project("run", both)
    cell = [row["cell"] for row in rows()]
    assert [cell.count(name) for name in ("cifar10-lt-2/plain/ce", "cifar10-lt-2/plain/focal", both)] == [5, 5, 5]
    folders = [reproduce.WORK / name / "seed-0" for name in (*cells.networks(both), both)]
    tests = [features.load(folder / extract.FILE, "test")["test"] for folder in folders[:2]]
    said = sum(test.classifier.scores(test.features) for test in tests).argmax(1)
    assert np.array_equal(outcomes.read(folders[2] / outcomes.FILE)[1]["joint"].predicted, said)
    right = [np.mean(said[tests[0].labels == k] == k) for k in range(10)]
    (joint,) = (row for row in rows() if (row["cell"], row["head"]) == (both, "joint"))
    assert float(joint["all"]) == pytest.approx(100 * np.mean(right), abs=0.005)
    spent = {row["cell"]: float(row["train_seconds"]) for row in rows()}
    assert spent[both] == pytest.approx(sum(spent[name] for name in cells.networks(both)), abs=0.01)
    capfd.readouterr()
    project("run", both)
    assert not re.search("seed-0: ", capfd.readouterr().out)
    (folders[1] / extract.FILE).touch()  # as if extracted anew
    project("run", both)
    ran = re.findall(r"seed-0: (\S+)", capfd.readouterr().out)
    assert ran == ["concatenate", "heads.joint", "heads.tau", "heads.crt", "heads.lws", "evaluate"]
    project("table")
    assert len(lines(capfd.readouterr().out, both)) == 2  # in the two tables of every head, and not beside the papers


@pytest.mark.slow
def test_a_terminated_run_takes_its_stage_with_it(project):
    known = params.read(cells.FILE)
    known["common"]["train"]["epochs"] = 10_000
    with cells.FILE.open("w") as file:
        YAML().dump(known, file)
    command = [sys.executable, "-m", "pipeline.reproduce", "run", "cifar10-lt-2/plain/ce"]
    run = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert any("train: epoch 1/" in line for line in run.stdout)
    run.terminate()
    said, _ = run.communicate(timeout=60)  # until no process holds the pipe
    assert run.returncode == 130
    assert "run it again, and it goes on" in said


def write_rows(*rows):
    """runs.csv with these rows; what a row does not say is empty."""
    names = ["cell", "seed", "head", *reproduced.FIGURES, "val"]
    with reproduced.FILE.open("w") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def lines(text, *cells):
    """The rows of a Markdown table that begin with these cells, as lists."""
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [row for row in found if row[: len(cells)] == list(cells)]


def test_ours_stands_beside_the_paper(project, capsys):
    cell, values = "cifar10-lt-100/plain/ce", [70.0, 72.0, 74.0]
    write_rows(
        *({"cell": cell, "seed": seed, "head": "joint", "all": value, "few": value - 50} for seed, value in enumerate(values)),
        {"cell": cell, "seed": 0, "head": "tau_val", "all": 75.5, "few": 20},
    )
    project("table")
    printed = capsys.readouterr().out
    spread = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    (erm,) = lines(printed, cell, "joint", spread)
    assert erm[3:6] == ["3", "71.1", "+0.90"]  # ERM, 71.1 in MFW's tables 1 and 5
    assert erm[8] == "ERM: MFW, tables 1 and 5"
    assert erm[6] == "– / – / 22.0"
    best = [row for row in lines(printed, cell) if row[1] == spread]
    assert best == [[cell, spread, "**75.50**"]]
    assert [cell, "**22.00 ± 2.00**", "20.00"] in lines(printed, cell)
    page = reproduce.Path("page.md")
    page.write_text(f"before\n{reproduce.MARKERS[0]}old\n{reproduce.MARKERS[1]}after\n")
    for _ in range(2):
        project("table", "--write", "page.md")
    assert page.read_text() == f"before\n{reproduce.MARKERS[0]}\n{printed.rstrip()}\n\n{reproduce.MARKERS[1]}after\n"
    page.write_text("nothing\n")
    with pytest.raises(InputError, match="page.md: has no lines <!-- reproduction --> and"):
        project("table", "--write", "page.md")


def test_only_numbers_of_the_same_augmentation_stand_beside_ours(monkeypatch):
    monkeypatch.chdir(ROOT)
    row = {"seed": "0", "head": "joint", "all": "45", "many": "70", "medium": "45", "few": "15", "seconds": ""}
    for recipe, wanted in (("plain", {"40.1", "39.8"}), ("autoaugment", {"46.6", "45.3"})):
        table = reproduced.beside([{**row, "cell": f"cifar100-lt-100/{recipe}/ce"}])
        assert {line[4].text for line in table.rows} == wanted
    glag = next(line for line in table.rows if line[4].text == "46.6")
    assert [cell.text for cell in glag[6:9]] == ["70.0 / 45.0 / 15.0", "75.2 / 46.0 / 13.9", "Cross-Entropy: GLAG, table 1"]


def test_the_readme_has_the_tables_of_the_committed_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    between = (ROOT / "README.md").read_text(encoding="utf-8").split(reproduce.MARKERS[0])[1].split(reproduce.MARKERS[1])[0]
    assert between.strip() == reproduced.every_table()


def test_graloss_of_one_form_is_not_set_beside_others(monkeypatch):
    monkeypatch.chdir(ROOT)
    row = {"cell": "cifar100-lt-100/autoaugment/graloss", "seed": "0", "head": "full", "all": "56", "many": "56", "medium": "", "few": ""}
    (line,) = reproduced.beside([row]).rows
    assert line[4].text == "57.69"  # convex, c = 2


def test_heads_over_images_stand_beside_cached_ones_of_the_same_seeds():
    made = [("crt", "0", 40), ("crt", "1", 60), ("crt_views", "0", 41), ("crt_images", "0", 42)]
    table = reproduced.over_images(
        [{"cell": "a/b/c", "seed": s, "head": h, "seconds": "1500", **dict.fromkeys(reproduced.FIGURES, str(v))} for h, s, v in made]
    )
    assert [[cell.text for cell in (*row[1:5], row[-1])] for row in table.rows] == [
        ["crt", "cached", "1", "40.00", "1,500.0"],
        ["crt", "cached, with views", "1", "41.00", "1,500.0"],
        ["crt", "over images", "1", "42.00", "1,500.0"],
    ]


def test_the_best_is_chosen_on_validation_among_cells_of_most_seeds(monkeypatch):
    monkeypatch.chdir(ROOT)

    def made(cell, head, seed, val, test):
        return {"cell": f"cifar100-lt-100/autoaugment/{cell}", "head": head, "seed": seed, "val": val, "all": test}

    table = reproduced.best(
        [
            *(made("ce", "crt", seed, "50", "40") for seed in "012"),
            *(made("ce", "lws", seed, val, "52") for seed, val in zip("012", ("47", "48", "49"), strict=True)),
            made("graloss", "crt", "0", "60", "60"),
            made("ce", "crt_images", "0", "", "70"),
            made("ce+graloss", "lws", "0", "51", "54.5"),
            {**made("", "lws", "0", "51", "50"), "cell": "cifar100-lt-7/autoaugment/ce"},
        ]
    )
    assert [[cell.text for cell in row[:9]] for row in table.rows] == [
        ["cifar100-lt-100", "1", "autoaugment/ce", "crt", "50.00 ± 0.00", "40.00 ± 0.00", "3", "53.0", "−13.00"],
        ["cifar100-lt-100", "2", "autoaugment/ce+graloss", "lws", "51.00", "54.50", "1", "53.0", "+1.50"],  # not the 54.2 of 400 epochs
        ["cifar100-lt-7", "1", "autoaugment/ce", "lws", "51.00", "50.00", "1", "–", "–"],  # a ratio of no paper
    ]


def test_a_folder_of_other_parameters_is_left_alone(project):
    folder = reproduce.WORK / "cifar10-lt-2/plain/ce/seed-0"
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text("seed: {}\n")
    with pytest.raises(InputError, match="of an earlier cells.yaml or params.yaml; remove .* to start over"):
        project("run", "cifar10-lt-2/plain/ce")
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


def test_without_rows_or_data_there_is_a_line(project, monkeypatch):
    with pytest.raises(InputError, match="runs.csv: no rows"):
        project("table")
    monkeypatch.delenv("TAILCACHE_CIFAR")
    with pytest.raises(InputError, match="name the folder of the data set"):
        project("run", "cifar10-lt-2/plain/ce")
