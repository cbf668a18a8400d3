"""Cells of the papers' tables: their names and parameters."""

import itertools

import pytest
from ruamel.yaml import YAML

from pipeline import beside, cells, check, published
from pipeline.files import InputError
from tests.conftest import ROOT

KNOWN = cells.Cells.model_validate(YAML(typ="safe").load((ROOT / cells.FILE).read_text()))


def compose(cell, seed=0):
    return cells.compose(cell, seed, "/data/cifar", KNOWN)


@pytest.mark.parametrize("parts", list(itertools.product(KNOWN.data, KNOWN.recipes, KNOWN.methods)), ids="/".join)
def test_every_cell_is_sound(parts):
    data, recipe, method = parts
    tree = compose(f"{data}-100/{recipe}/{method}", 2)
    check.check(tree)
    assert tree["seed"] == {"subset": 0, "train": 2, "heads": 2}
    assert tree["data"]["ratio"] == 100
    assert tree["train"]["backbone"] == {"family": "cifar_resnet", "depth": 32, "width": 64 if recipe == "autoaugment_wide" else 16}
    assert list(tree["heads"]) == list(KNOWN.heads_of(f"{data}-100/{recipe}/{method}"))


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
def test_cells_find_the_published_number(monkeypatch, cell, head, split, value):
    monkeypatch.chdir(ROOT)
    (row,) = [
        row
        for row in beside.by_setting([{"cell": cell, "seed": "0", "head": head, "many": "", "medium": "", "few": "50", "all": "50"}])
        if row.head == head
    ]
    found = [number.row for number in published.read(ROOT / published.FILE) if published.counterpart(row, number)]
    assert value in [each["value"] for each in found if each["split"] == split]


def test_every_published_cell_on_cifar_is_a_command(monkeypatch):
    """Each number that MFW and GLAG print of a method of ours, but for GraLoss's concave schedule, whose c GLAG does not say."""
    monkeypatch.chdir(ROOT)
    names = {("cifar100", "exponential"): "cifar100-lt", ("cifar100", "step"): "cifar100-step"}
    names |= {("cifar10", "exponential"): "cifar10-lt", ("cifar10", "step"): "cifar10-step"}
    numbers = [each for each in published.read() if each.row["paper"] in ("mfw", "glag") and each.row["split"] == "all"]
    numbers = [each for each in numbers if each.row["loss"] and each.row["head"] and (each.row["data"], each.row["imbalance"]) in names]
    data = {f"{names[each.row['data'], each.row['imbalance']]}-{each.row['ratio']}" for each in numbers}
    heads, nothing = [*KNOWN.heads, *KNOWN.full["heads"]], dict.fromkeys(("all", "many", "medium", "few"), "")
    cell = ("/".join(parts) for parts in itertools.product(data, ("plain", "autoaugment"), KNOWN.methods))
    rows = beside.by_setting([{"cell": each, "seed": "0", "head": head, **nothing} for each, head in itertools.product(cell, heads)])
    missing = [each.row["method"] for each in numbers if not any(beside.matches(row, each) for row in rows)]
    assert len(numbers) > 170 and missing == ["GraLoss concave"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("graloss", "data: no 'name' for 'graloss', which should be DATA-RATIO/RECIPE/METHOD; known: cifar100-lt, "),
        ("cifar100-lt-100/plane/ce", "recipes: no 'plane' for 'cifar100-lt-100/plane/ce', which should be"),
        ("cifar100-lt-100/plain/erm", "methods: no 'erm' for"),
        ("cifar100-lt-100/plain/", "methods: no 'name' for"),
        *(
            (f"cifar100-lt-{ratio}/plain/ce", f"cifar100-lt-{ratio}/plain/ce: expected a ratio, 1 or more, behind the data's name")
            for ratio in ("many", "nan", "inf", "0.5", "100.0", "1e2", "1_00")
        ),
    ],
)
def test_an_unknown_cell_is_a_line(cell, message):
    with pytest.raises(InputError) as error:
        compose(cell)
    assert str(error.value).startswith(f"data/reproduction/cells.yaml: {message}")


def test_a_seed_that_no_stage_takes_is_a_line():
    with pytest.raises(InputError, match=r"^data/reproduction/cells.yaml: cifar100-lt-100/plain/ce: seed.train: .* got -1$"):
        compose("cifar100-lt-100/plain/ce", -1)


def test_networks_side_by_side_have_one_name():
    assert cells.named("a-1/b/graloss+ce") == "a-1/b/ce+graloss"
    assert cells.networks("a-1/b/ce", 3) == [("a-1/b/ce", 3)]
    assert cells.networks("a-1/b/ce+graloss", 1) == [("a-1/b/ce", 1), ("a-1/b/graloss", 1)]


def test_networks_of_one_method_are_of_seeds_that_no_other_seed_of_the_cell_has():
    assert cells.networks("a-1/b/ce+ce+graloss") == [("a-1/b/ce", 0), ("a-1/b/ce", 1), ("a-1/b/graloss", 0)]
    every = [network for seed in range(5) for network in cells.networks("a-1/b/ce+ce+ce", seed)]
    assert every == [("a-1/b/ce", seed) for seed in range(15)]


def test_the_users_parameters_play_no_part(workspace):
    """With a params.yaml in which nothing makes sense, a cell has the same parameters."""
    before = compose("cifar100-lt-100/autoaugment/graloss")
    (workspace / "params.yaml").write_text("losses: {graloss: {c: 5}}\ntrain: {compile: true}\n")
    assert compose("cifar100-lt-100/autoaugment/graloss") == before


def test_variants_are_heads_of_their_cell_alone():
    known = KNOWN.model_copy(update={"variants": {"cifar100-lt-100/plain/ce": {"crt": {"slow": {"lr": 0.01}}}}})
    heads = cells.compose("cifar100-lt-100/plain/ce", 0, "", known)["heads"]
    assert heads["crt-slow"] == {**heads["crt"], "lr": 0.01}
    assert "crt-slow" not in cells.compose("cifar100-lt-100/autoaugment/ce", 0, "", known)["heads"]
    assert list(heads) == [*KNOWN.heads, "crt-slow"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nmethods:", "\nlosses:", "methods: Field required"),
        ("  ce: {train: {loss: ce, mix: none, reweight: none}}", "  ce: 5", "methods.ce: Input should be a valid dictionary"),
        ("  afg: {kind", "  afx: {kind", "variants.cifar100-lt-100/autoaugment/graloss.afg: no head of that name"),
        ("  cifar100-lt-100/autoaugment/ce:", "  cifar100-lt-100/autoaugment/cee:", "methods: no 'cee'"),
        ("    full: {kind", "    - {kind", "full.heads: expected a mapping"),
    ],
)
def test_a_damaged_file_is_a_line(workspace, old, new, message):
    text = (ROOT / cells.FILE).read_text()
    assert text.count(old) == 1
    cells.FILE.parent.mkdir(parents=True)
    cells.FILE.write_text(text.replace(old, new))
    with pytest.raises(InputError) as error:
        cells.read()
    assert str(error.value).startswith(f"data/reproduction/cells.yaml: {message}")
