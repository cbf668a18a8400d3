"""The tables of what was reproduced."""

import csv

import numpy as np
import pytest

from pipeline import beside, cells, ledger, params, reproduce, reproduced
from pipeline.files import InputError
from tests.conftest import ROOT
from tests.test_cifar import small  # noqa: F401
from tests.tiny_cells import project, write_cells  # noqa: F401


def write_rows(*rows):
    """runs.csv with these rows; what a row does not say is empty."""
    with ledger.FILE.open("w") as file:
        writer = csv.DictWriter(file, ledger.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def lines(text, *cells):
    """The rows of a Markdown table that begin with these cells, as lists."""
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [row for row in found if row[: len(cells)] == list(cells)]


def test_ours_stands_beside_the_paper(project, capsys):  # noqa: F811
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
    best = [row for row in lines(printed, cell) if row[1] == f"**{spread}**"]
    assert best == [[cell, f"**{spread}**", "75.50 (n = 1)"]]  # one seed is another network than the mean of three
    folded = printed.partition("<details><summary>Every head, over few-shot classes")[2].partition("</details>")[0]
    assert lines(folded, cell) == [[cell, "**22.00 ± 2.00**", "20.00 (n = 1)"]]
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
        table = beside.at_length([{**row, "cell": f"cifar100-lt-100/{recipe}/ce"}])
        assert {line[4].text for line in table.rows} == wanted
    assert not beside.at_length([{**row, "cell": "cifar100-lt-100/autoaugment_wide/ce"}]).rows  # the papers' networks are smaller
    glag = next(line for line in table.rows if line[4].text == "46.6")
    assert [cell.text for cell in glag[6:9]] == ["70.0 / 45.0 / 15.0", "75.2 / 46.0 / 13.9", "Cross-Entropy: GLAG, table 1"]


def test_in_short_a_cell_is_a_row(monkeypatch):
    monkeypatch.chdir(ROOT)
    made = [("joint", "0", 44), ("joint", "1", 45), ("crt", "0", 48.69), ("lws", "0", 48.9), ("tau_val", "0", 47), ("crt_images", "0", 9)]
    nothing = {"cell": "cifar100-lt-100/autoaugment/ce", "many": "", "medium": "", "few": "", "seconds": ""}
    table = beside.in_short([{**nothing, "head": head, "seed": seed, "all": str(value)} for head, seed, value in made])
    assert table.columns == ["cell", "n", "joint", "crt", "lws"]  # no paper has τ-norm on it, and heads over images have their own table
    ((cell, n, *heads),) = table.rows
    assert (cell.text, n.text) == ("cifar100-lt-100/autoaugment/ce", "1 to 2")
    assert [tuple(head) for head in heads] == [
        ("44.5 ± 0.7 (46.6, 45.3)", False),  # near to the second
        ("48.7 (50.2)", True),  # 1.51 points
        ("48.9 (50.4)", False),  # 1.5
    ]


def test_the_readme_has_the_tables_of_the_committed_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    between = (ROOT / "README.md").read_text(encoding="utf-8").split(reproduce.MARKERS[0])[1].split(reproduce.MARKERS[1])[0]
    assert between.strip() == reproduced.every_table()


def test_graloss_of_one_form_is_not_set_beside_others(monkeypatch):
    monkeypatch.chdir(ROOT)
    row = {"cell": "cifar100-lt-100/autoaugment/graloss", "seed": "0", "head": "full", "all": "56", "many": "56", "medium": "", "few": ""}
    (line,) = beside.at_length([row]).rows
    assert line[4].text == "57.69"  # convex, c = 2


def test_heads_over_images_stand_beside_cached_ones_of_the_same_seeds():
    made = [("crt", "0", 40), ("crt", "1", 60), ("crt_views", "0", 41), ("crt_images", "0", 42)]
    table = reproduced.over_images(
        [{"cell": "a/b/c", "seed": s, "head": h, "seconds": "1500", **dict.fromkeys(ledger.FIGURES, str(v))} for h, s, v in made]
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

    thin, wide = (f"cifar_resnet, depth 32, width {width}" for width in (16, 64))
    table = reproduced.best(
        [
            *(made("ce", "crt", seed, "50", "40") for seed in "012"),
            *(made("ce", "lws", seed, val, "52") for seed, val in zip("012", ("47", "48", "49"), strict=True)),
            made("graloss", "crt", "0", "60", "60"),
            made("ce", "crt_images", "0", "", "70"),
            made("ce+graloss", "lws", "0", "51", "54.5"),
            {**made("", "lws", "0", "51", "50"), "cell": "cifar100-lt-7/autoaugment/ce"},
            {**made("", "lws", "0", "46", "46"), "cell": "cifar100-lt-200/autoaugment/ce"},
            {**made("", "lws", "0", "55", "55"), "cell": "cifar100-lt-100/autoaugment_wide/ce"},
        ]
    )
    assert [[cell.text for cell in row[:10]] for row in table.rows] == [
        ["cifar100-lt-100", "1", thin, "autoaugment/ce", "crt", "50.00 ± 0.00", "40.00 ± 0.00", "3", "53.0", "−13.00"],
        ["cifar100-lt-100", "1", wide, "autoaugment_wide/ce", "lws", "55.00", "55.00", "1", "61.33", "−6.33"],
        ["cifar100-lt-100", "2", thin, "autoaugment/ce+graloss", "lws", "51.00", "54.50", "1", "53.0", "+1.50"],  # not of 400 epochs
        ["cifar100-lt-200", "1", thin, "autoaugment/ce", "lws", "46.00", "46.00", "1", "46.9", "−0.90"],
        ["cifar100-lt-7", "1", thin, "autoaugment/ce", "lws", "51.00", "50.00", "1", "–", "–"],  # a ratio of no paper
    ]
    assert [cell.text for cell in table.rows[3][10:]] == ["GLAG: GLAG, table 2", "its epochs are not stated"]


def test_a_network_of_another_family_stands_beside_no_number(project, capsys):  # noqa: F811
    known, cell = params.read(cells.FILE), "cifar10-lt-100/torchvision/ce"
    known["recipes"]["torchvision"] = {"train": {**known["recipes"]["plain"]["train"], "backbone": {"family": "resnet", "depth": 18}}}
    write_cells(known)
    write_rows({"cell": cell, "seed": 0, "head": "joint", "all": 70, "val": 70})
    project("table")
    printed = capsys.readouterr().out
    assert "Ours beside" not in printed
    ((*_, published, difference, _, _),) = [row for row in lines(printed, "cifar10-lt-100") if "torchvision/ce" in row]
    assert (published, difference) == ("–", "–")


def test_what_a_row_lacks_is_a_dash(project, capsys):  # noqa: F811
    """CIFAR-10-LT at 100 has no few-shot class, and a kill may leave a head without its seconds."""
    cell = "cifar10-lt-100/plain/ce"
    write_rows(*({"cell": cell, "seed": 0, "head": head, "all": value, "val": 70} for head, value in (("crt", 70), ("crt_images", 71))))
    project("table")
    printed = capsys.readouterr().out
    assert [row for row in lines(printed, cell) if len(row) == 9] == [
        [cell, "crt", "cached", "1", "70.00", "–", "–", "–", "–"],
        [cell, "crt", "over images", "1", "71.00", "–", "–", "–", "–"],
    ]
    assert [cell, "–", "–"] in lines(printed, cell)


def test_a_head_that_cells_yaml_has_no_more_is_left_out(project, capsys):  # noqa: F811
    cell = "cifar10-lt-100/plain/ce"
    write_rows(*({"cell": cell, "seed": 0, "head": head, "all": 70, "few": 20, "val": 70} for head in ("joint", "oldhead")))
    project("table")
    assert "oldhead" not in capsys.readouterr().out


def test_variants_stand_beside_their_head_and_nowhere_else(project, capsys):  # noqa: F811
    cell = "cifar10-lt-100/plain/ce"
    known = params.read(cells.FILE)
    write_cells({**known, "variants": {cell: {"crt": {"slow": {"lr": 0.01}, "never-run": {"epochs": 1}}, "lws": {"slow": {"lr": 0.01}}}}})
    write_rows(
        *({"cell": cell, "seed": 0, "head": head, "all": value, "val": 70} for head, value in (("crt", 70), ("crt-slow", 71), ("lws", 72)))
    )
    project("table")
    printed = capsys.readouterr().out
    assert [row[1:] for row in lines(printed, cell, "crt") if len(row) == 9] == [
        ["crt", "as above", "1", "70.00", "70.00", "–", "–", "–"],
        ["crt", "lr 0.01", "1", "70.00", "71.00", "–", "–", "–"],
        ["crt", "epochs 1", "0", "–", "–", "–", "–", "–"],
    ]
    assert "crt-slow" not in printed
