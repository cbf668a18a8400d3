"""Figures of runs.csv and published.csv (percent), and what README compares of them."""

import csv

import numpy as np

from tests.conftest import ROOT

RUNS, PUBLISHED = (list(csv.DictReader((ROOT / f"data/reproduction/{name}.csv").open(encoding="utf-8"))) for name in ("runs", "published"))
CE, GRALOSS, ADJUST, MFW = (f"autoaugment/{method}" for method in ("ce", "graloss", "logit_adjust", "mfw"))
WIDE = "autoaugment_wide/graloss"
LONG_CE, LONG_GRALOSS = "balanced_softmax/ce", "balanced_softmax/graloss"
NAMES = {CE: "CE", GRALOSS: "GraLoss", ADJUST: "LogitLoss", LONG_CE: "CE", LONG_GRALOSS: "GraLoss"}  # in GLAG's table 6
TITLES = {"crt": "cRT", "lws": "LWS"}
RETRAINED = ("crt", "lws", "crt_views", "lws_views")


def each(cell, head="joint", column="all", ratio=100, data="cifar100-lt"):
    """A figure of every seed (percent, or seconds), in their order."""
    rows = [row for row in RUNS if (row["cell"], row["head"]) == (f"{data}-{ratio}/{cell}", head)]
    assert rows, (cell, head)
    return np.array([float(row[column]) for row in sorted(rows, key=lambda row: int(row["seed"]))])


def ours(*which, **where):
    return each(*which, **where).mean()


def heads(cell):
    """All heads of a cell but variants and those over images."""
    found = {row["head"] for row in RUNS if row["cell"] == f"cifar100-lt-100/{cell}"}
    return [head for head in found if "-" not in head and not head.endswith("_images")]


def beyond(cell, *names, column="all", than="joint"):
    """By how much heads beat another one on the same networks."""
    return [ours(cell, name, column) - ours(cell, than, column) for name in names]


def paper(method, table, split="all", head=None, ratio=100, name="glag", data="cifar100", imbalance="exponential"):
    """A published accuracy (percent)."""
    wanted = {"paper": name, "table": str(table), "method": method, "split": split, "data": data, "imbalance": imbalance}
    wanted |= {"ratio": str(ratio)} | ({"head": head} if head else {})
    (value,) = {row["value"] for row in PUBLISHED if wanted.items() <= row.items()}
    return float(value)


def mfw_has(method, data="cifar100", imbalance="exponential"):
    """What MFW's table 1 prints at ratio 100 (percent)."""
    return paper(method, 1, name="mfw", data=data, imbalance=imbalance)


def printed(*protocol, **wanted):
    """What each table of a paper prints (a text) for the cell that is stated to have these parameters."""
    rows = [row for row in PUBLISHED if wanted.items() <= row.items() and {*protocol} <= {*row["protocol"].split(";")}]
    return {row["table"]: row["value"] for row in rows}


def below(cell, kind, ratio=100):
    """How far a head with views ends below GLAG's table 6 (AFG: 7, and 2 at other ratios)."""
    if kind == "afg":
        name = {CE: "CE, AD, KD", GRALOSS: "GraLoss, AD, KD", ADJUST: "Logitloss, AD, KD"}[cell]
        theirs = paper(name, 7) if ratio == 100 else paper("GLAG", 2, ratio=ratio)
    else:
        theirs = paper(f"{TITLES[kind]}, {NAMES[cell]}", 6, ratio=ratio)
    return theirs - ours(cell, f"{kind}_views", ratio=ratio)


def best_of(epochs, width=16):
    """The best published accuracy of one ResNet-32 of that width trained for so many epochs."""
    wanted = {"data": "cifar100", "imbalance": "exponential", "ratio": "100", "split": "all"}
    mine = [row for row in PUBLISHED if wanted.items() <= row.items()]
    known = {"train.backbone.depth=32", f"train.backbone.width={width}", f"train.epochs={epochs}"}
    lasted = [row for row in mine if known <= {*row["protocol"].split(";"), *row["inferred"].split(";")} and row["head"] != "full"]
    return max(float(row["value"]) for row in lasted)


def views_add(*cells, ratio=100):
    return max(ours(cell, f"{kind}_views", ratio=ratio) - ours(cell, kind, ratio=ratio) for cell in cells for kind in ("crt", "lws", "afg"))


def over_images(*columns):
    """By how many points heads with views differ, over these columns, from the same over images on the same networks, at most."""
    pairs = [(cell, kind, column) for cell in (CE, GRALOSS) for kind in ("crt", "lws") for column in columns]
    return max(abs(each(cell, f"{kind}_views", column)[0] - each(cell, f"{kind}_images", column)[0]) for cell, kind, column in pairs)


def ends(values):
    return min(values), max(values)


def changes(cell, head):
    """Accuracies of what changes one number of a head."""
    names = {row["head"] for row in RUNS if row["cell"] == f"cifar100-lt-100/{cell}" and row["head"].startswith(f"{head}-")}
    return {name.partition("-")[2]: ours(cell, name) for name in names}
