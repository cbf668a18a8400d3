"""The rows of what was reproduced."""

from concurrent.futures import ProcessPoolExecutor

import pytest

from pipeline import ledger
from pipeline.files import InputError
from pipeline.locks import alone


def made(cell, seed, head, value):
    return {**dict.fromkeys(ledger.COLUMNS), "cell": cell, "seed": seed, "head": head, "all": value}


def kept():
    return [(row["cell"], row["seed"], row["head"], row["all"]) for row in ledger.read()]


def keep(cell, seed, **values):
    ledger.keep(cell, seed, [made(cell, seed, head, value) for head, value in values.items()])


@pytest.fixture(autouse=True)
def _here(workspace):
    assert ledger.read() == []


def test_rows_take_the_place_of_those_of_the_same_cell_and_seed():
    keep("b/c/d", 10, joint=1.5, tau=2)
    keep("b/c/d", 2, joint=3)
    keep("a/c/d", 0, joint=4)
    keep("b/c/d", 10, joint=5, crt=6)
    assert kept() == [
        *(("a/c/d", "0", "joint", "4"), ("b/c/d", "2", "joint", "3")),
        *(("b/c/d", "10", "joint", "5"), ("b/c/d", "10", "crt", "6")),
    ]


def test_rows_made_on_demand_stay_until_they_are_made_again():
    keep("b/c/d", 0, joint=1, crt_images=2, full=3)
    keep("b/c/d", 0, joint=4, full=5)
    assert kept() == [("b/c/d", "0", head, value) for head, value in (("joint", "4"), ("full", "5"), ("crt_images", "2"))]


def many(cell):
    for seed in range(10):
        keep(cell, seed, joint=seed)


def test_runs_side_by_side_lose_no_row():
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(many, "abcd"))
    assert kept() == [(cell, str(seed), "joint", str(seed)) for cell in "abcd" for seed in range(10)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b/c/d,0,joint,5", "line 3: 4 values, expected 15"),
        ("b/c/d,-1,joint,,,,,,,,,,,,", "line 3: seed is '-1', expected a whole number"),
        ("b/c/d,0,joint,many,,,,,,,,,,,", "line 3: all is 'many', expected a number or nothing"),
        ("b/c/d,0,joint,,,,,nan,,,,,,,", "line 3: val is 'nan', expected a number or nothing"),
        ("a/c/d,0,joint,5,,,,,,,,,,,", "line 3: a second row of a/c/d, 0, joint"),
    ],
)
def test_a_damaged_row_is_a_line(line, message):
    keep("a/c/d", 0, joint=4)
    with ledger.FILE.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=f"^data/reproduction/runs.csv: {message}; correct it, or bring"):
        ledger.read()


def test_other_columns_and_other_encodings_are_a_line():
    ledger.FILE.parent.mkdir(parents=True)
    for content in (b"cell,seed\n", b"", b"\xff\xfe"):
        ledger.FILE.write_bytes(content)
        with pytest.raises(InputError, match="data/reproduction/runs.csv: line 1: "):
            ledger.read()


def test_a_lock_ends_with_its_block(workspace):
    path = workspace / "some/lock"
    with alone(path), pytest.raises(InputError, match="^busy$"), alone(path, "busy"):
        raise AssertionError("two hold one lock")
    with alone(path, "busy"):
        pass
