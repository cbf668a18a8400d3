"""data/reproduction/published.csv: well formed, in agreement with what is known of the papers; matching and what differs in protocol."""

import csv
import re

import numpy as np
import pytest

from pipeline import params, published
from pipeline.files import InputError
from pipeline.published import FILE, PAPERS, SPLITS
from pipeline.rows import Row
from tests.conftest import ROOT

ROWS = list(csv.DictReader((ROOT / FILE).read_text(encoding="utf-8").splitlines()))
CIFAR = {
    "data.name": "cifar100",
    "data.imbalance": "exponential",
    "data.ratio": 100,
    "data.val": "none",
    "train.loss": "ce",
    "train.mix": "none",
    "train.reweight": "none",
    "train.sampler": "instance",
    "train.augment": "plain",
    "train.epochs": 200,
    "train.backbone.family": "cifar_resnet",
    "train.backbone.depth": 32,
    "train.backbone.width": 16,
    "evaluate.many": 100,
    "evaluate.few": 20,
}


def value(**wanted):
    (found,) = {row["value"] for row in ROWS if all(row[key] == text for key, text in wanted.items())}
    return float(found)


def test_readme_counts_them():
    papers = [row["paper"] for row in ROWS]
    of_three = sum(paper in ("mfw", "decoupling", "glag") for paper in papers)
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"the three papers' {of_three} numbers" in readme
    assert f"which has {len(ROWS) - of_three} of six later papers too" in readme and len(set(papers)) == 3 + 6


def test_a_number_of_another_method_says_whose_it_is():
    names = ("CB", "Focal", "Focal Loss", "Balanced Softmax")
    cited = [row for row in ROWS if row["method"] in names and row["data"].startswith("cifar") and not row["loss"]]
    assert len(cited) == 23
    assert all(re.search("Cui et al.'s table 2|LDAM's table 2|BALMS", row["note"]) for row in cited)


def test_every_row_is_well_formed():
    packages = {"loss": "losses", "mix": "mixing", "reweight": "reweighting", "head": "heads"}
    known = {column: {"", *params.known(package)} for column, package in packages.items()}
    known["head"].add(published.FULL)
    for row, *lists in published.read(ROOT / FILE):
        assert row["paper"] in PAPERS and row["split"] in SPLITS and row["method"]
        assert row["imbalance"] in ("exponential", "step", "natural")
        assert row["ratio"] in ("", "10", "50", "100", "200")
        assert re.fullmatch(r"\d\d\.\d\d?|\d\.\d", row["value"]), row
        assert all(row[column] in names for column, names in known.items()), row
        assert row["sampler"] in ("", "instance", "class_balanced", "square_root", "progressive")
        assert all(re.fullmatch(r"(head|losses|mixing|train)\.[a-z_.0-9]+", key) for keys in lists for key in keys), row
        if row["head"]:
            assert all(row[column] for column in ("loss", "mix", "reweight", "sampler")), row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paper": "mine"}, "line 2: paper is one of mfw, "),
        ({"split": "every"}, "line 2: paper is one of mfw, .* and split one of all, many, "),
        ({"value": "65.6 %"}, "line 2: value is '65.6 %', expected a number"),
        ({"inferred": "train.epochs"}, "line 2: inferred is 'train.epochs', expected key=value;key=value"),
        ({"note": None}, "line 2: not as many values as columns, or without one of data, "),
        ({"note": "a,b"}, "line 2: not as many values as columns"),
    ],
)
def test_a_row_of_ones_own_that_is_not_as_the_others_is_a_line(tmp_path, changes, message):
    row = {**ROWS[0], "note": "", **changes}
    lines = [",".join(row), ",".join(value for value in row.values() if value is not None)]
    (tmp_path / "published.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        published.read(tmp_path / "published.csv")


def test_a_file_of_another_encoding_is_a_line(tmp_path):
    (tmp_path / "published.csv").write_bytes(b"data\n\xff\n")
    with pytest.raises(InputError, match="published.csv: not UTF-8"):
        published.read(tmp_path / "published.csv")


def test_no_number_stands_twice():
    keys = ("paper", "table", "data", "imbalance", "ratio", "method", "parameters", "split", "protocol", "inferred", "note")
    assert len({tuple(row[key] for key in keys) for row in ROWS}) == len(ROWS)


def test_the_tables_are_whole():
    """Cells of each table of the papers, without dashes."""
    count = {key: 0 for key in {(row["paper"], row["table"]) for row in ROWS}}
    for row in ROWS:
        count[row["paper"], row["table"]] += 1
    assert count[("mfw", "1")] == 14 * 12 - 44 and count[("mfw", "2")] == 7 * 8 and count[("mfw", "5")] == 6 * 4
    assert count[("decoupling", "7")] == count[("decoupling", "8")] == 5 * 3 * 2 * 4
    assert count[("glag", "6")] == 9 * 4 and count[("glag", "7")] == 7 * 4


@pytest.mark.parametrize("table", ["1", "7"])
def test_glags_groups_make_its_averages(table):
    """CIFAR-100-LT at ratio 100 has 35 many-, 35 medium- and 30 few-shot classes."""
    cells = {}
    for row in ROWS:
        if (row["paper"], row["table"]) == ("glag", table) and row["head"] not in ("", published.FULL):
            cells.setdefault((row["method"], row["parameters"]), {})[row["split"]] = float(row["value"])
    assert len(cells) == {"1": 6, "7": 7}[table]
    for name, cell in cells.items():
        mean = (35 * cell["many"] + 35 * cell["medium"] + 30 * cell["few"]) / 100
        assert cell["all"] == pytest.approx(mean, abs=0.1001), name


KANG = {"imagenet_lt": (385, 479, 136), "inaturalist2018": (842, 4076, 3224), "places_lt": (131, 163, 71)}  # many, medium, few: classes


@pytest.mark.parametrize("data", KANG)
def test_kangs_groups_make_its_means_but_for_a_misprint(data):
    """Medium-shot accuracy of ResNet-152's Joint in table 7 is printed as 27.7 where 37.7 would fit."""
    cells = {}
    for row in ROWS:
        if row["paper"] == "decoupling" and row["data"] == data and row["head"] and "cited" not in row["note"]:
            cells.setdefault((row["table"], row["method"], row["protocol"]), {})[row["split"]] = float(row["value"])
    whole = {name: [cell[split] for split in ("many", "medium", "few", "all")] for name, cell in cells.items() if len(cell) == 4}
    off = [name for name, (*groups, mean) in whole.items() if abs(mean - np.average(groups, weights=KANG[data])) > 0.1001]
    assert len(whole) >= 8
    assert [name[:2] for name in off] == ([("7", "Joint")] if data == "imagenet_lt" else [])


def test_known_numbers():
    assert value(paper="glag", table="2", method="GLAG", ratio="100") == 51.7
    assert value(paper="mfw", table="1", data="cifar10", imbalance="step", ratio="100", method="MFW w/ DRW") == 81.6
    assert value(paper="decoupling", table="4", method="τ-normalized", split="few") == 31.8
    assert value(paper="mfw", table="5", data="cifar100", imbalance="step", parameters="mixing.mfw.after=2") == 46.9
    assert value(paper="mfw", table="4", method="Remix-DRW", split="top5") == 87.3


class Fixed(Row):
    """A row whose figures are given."""

    def values(self, column):
        return {"all": np.array([39.0, 41.0]), "many": np.array([66.0])}.get(column, np.array([]))


def row(head, changes=(), **own):
    return Fixed(head, CIFAR | dict(changes) | {f"heads.{head}.{key}": value for key, value in own.items()}, [])


@pytest.fixture
def root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_a_counterpart_has_the_same_method_and_its_difference_is_shown(root):
    table, records = published.compare([row("joint", kind="joint")])
    ours = {(record["paper"], record["table"], record["split"]): record for record in records}
    assert ours["mfw", "1", "all"]["published"] == 40.1
    assert ours["mfw", "1", "all"]["difference"] == pytest.approx(-0.1)
    assert ours["glag", "1", "many"]["published"] == 75.2
    assert ours["glag", "1", "all"]["remarks"] == "augment plain ≠ autoaugment"
    assert all(record["method"] in ("ERM", "Cross-Entropy", "CE") for record in records)
    assert ["40.00 ± 1.41", "40.1"] in [[line[2].text, line[4].text] for line in table.rows]


def test_heads_are_matched_by_kind_and_parameters_by_default_too(root):
    _, records = published.compare([row("ours", {"train.loss": "graloss", "train.augment": "autoaugment"}, kind="afg", distill=False)])
    assert {(record["method"], record["published"]) for record in records} == {("GraLoss, AD", 51.4), ("GraLoss, AD", 64.3)}
    assert all(record["remarks"] == "" or "head" in record["remarks"] for record in records)
    _, records = published.compare([row("afg", {"train.loss": "graloss"}, kind="afg", beta=0.4)])  # distill and adaptive are the defaults
    assert {record["published"] for record in records} >= {51.7}
    assert all("head beta 0.4 ≠ 0.6" in record["remarks"] for record in records)


def test_what_differs_in_protocol_is_flagged(root):
    changes = {"train.epochs": 60, "train.backbone.width": 64, "data.val": "reserve", "data.val_per_class": 10, "evaluate.many": 50}
    _, records = published.compare([row("joint", changes, kind="joint")])
    remarks = {(record["paper"], record["table"], record["split"]): record["remarks"] for record in records}
    assert remarks["mfw", "1", "all"].startswith("width 64 ≠ 16?; epochs 60 ≠ 200?; 10 images a class kept from training")
    assert "many > 50, few < 20 ≠ 100, 20" in remarks["glag", "1", "many"]
    assert "many > 50" not in remarks["glag", "1", "all"]


def test_another_parameter_of_the_method_is_no_counterpart(root):
    def published_of(tau):
        _, records = published.compare([row("joint", {"train.loss": "logit_adjust", "losses.logit_adjust.tau": tau}, kind="joint")])
        return {record["published"] for record in records if (record["paper"], record["table"], record["split"]) == ("glag", "1", "all")}

    assert published_of(1.5) == {50.1} and published_of(1.0) == {50.7}


def test_without_a_counterpart_the_error_says_what_there_is(root):
    with pytest.raises(SystemExit, match="no counterpart of these runs.*cifar100 exponential 100"):
        published.compare([row("joint", {"data.name": "digits"}, kind="joint")])
