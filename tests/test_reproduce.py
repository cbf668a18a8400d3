"""Cells of the papers' tables: their parameters, a run without DVC, the rows that it keeps and the table that they make."""

import csv
import itertools
import json
import re
import shutil
import sys

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline import cells, check, params, published, reproduce
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
    ],
)
def test_cells_find_the_published_number(cell, head, split, value):
    (row,) = [
        row
        for row in reproduce.settings_of([{"cell": cell, "seed": "0", "head": head, "many": "", "medium": "", "few": "50", "all": "50"}])
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
    tiny["data"] = {"cifar10-lt": {"data": {"name": "cifar10", "imbalance": "exponential", "val": "reserve", "val_per_class": 1}}}
    with cells.FILE.open("w") as file:
        YAML().dump(tiny, file)
    monkeypatch.setenv("TAILCACHE_CIFAR", str(small[0]))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
        reproduce.main()

    return call


def rows():
    with reproduce.RUNS.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_cell_runs_keeps_its_rows_and_is_not_made_again(project, capfd):
    project("run", "cifar10-lt-2/plain/ce", "--seed", "1")
    folder = reproduce.WORK / "cifar10-lt-2/plain/ce/seed-1"
    assert [row["head"] for row in rows()] == ["joint", "tau_val", "crt", "lws"]
    for row in rows():
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
    assert [row["head"] for row in rows()] == ["joint", "tau_val", "crt", "lws", "crt_images", "lws_images"]
    assert all(float(row["seconds"]) >= 0 for row in rows())
    project("run", "cifar10-lt-2/plain/ce", "--seed", "1")
    assert "image_level" not in capfd.readouterr().out
    assert len(rows()) == 6


def test_the_table_is_of_all_runs(project, capsys):
    with reproduce.RUNS.open("w") as file:
        file.write("cell,seed,head,many,medium,few,all,selected_on,chosen\n")
        for seed, value in enumerate((70.0, 72.0, 74.0)):
            file.write(f"cifar10-lt-100/plain/ce,{seed},joint,,,,{value},nothing,\n")
        file.write("cifar10-lt-100/plain/ce,0,tau_val,,,,75.5,val,tau=0.7\n")
    project("table")
    printed = capsys.readouterr().out
    spread = f"{np.mean([70, 72, 74]):.2f} ± {np.std([70, 72, 74], ddof=1):.2f}"
    line = next(line for line in printed.splitlines() if line.startswith("| joint") and "table 1" in line)
    assert spread in line and "| 71.1 |" in line and "+0.90" in line  # ERM of MFW's table 1
    assert f"| cifar10-lt-100/plain/ce | joint | 3 | – | – | – | {spread} | nothing |" in printed
    assert "| 75.50 | val |" in printed
    page = reproduce.Path("page.md")
    page.write_text(f"before\n{reproduce.MARKERS[0]}old\n{reproduce.MARKERS[1]}after\n")
    for _ in range(2):
        project("table", "--write", "page.md")
    assert page.read_text() == f"before\n{reproduce.MARKERS[0]}\n{printed.rstrip()}\n\n{reproduce.MARKERS[1]}after\n"
    page.write_text("nothing\n")
    with pytest.raises(InputError, match="page.md: has no lines <!-- reproduction --> and"):
        project("table", "--write", "page.md")


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
