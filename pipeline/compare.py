"""Compare runs: `python -m pipeline.compare` prints mean and spread over seeds, for each setting and head, and differences to a baseline.

Runs that differ only in seeds are one setting, and a column names every parameter in which settings differ. ± is the standard deviation
over n seeds (divided by n - 1). The difference to the baseline, in `all`, is paired: by seeds, and image by image. Its 95 % interval is
that of the choice of test images, not of training (pipeline/paired.py).
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pipeline import baseline, published, runs, settings, tables
from pipeline.baseline import Difference
from pipeline.files import InputError, csv_text, interruptible
from pipeline.rows import Row, differing, group, tested
from pipeline.runs import Run
from pipeline.settings import Result
from pipeline.tables import Cell, Table

COLUMNS = ["many", "medium", "few", "all"]
EPILOG = """\
RUN is an experiment of this repository (ce-0, or a pattern, 'ce-*'), a commit, or a folder in which the pipeline has run, with or without
DVC, on this machine or another. Without one: all experiments, the current commit and the workspace.

examples:
  python -m pipeline.compare
  python -m pipeline.compare --heads crt,tau --baseline train.loss=ce
  python -m pipeline.compare --columns all,top5,ece.all,forward.50 --format latex
  python -m pipeline.compare ~/from-the-cluster/seed-* --published
"""


@interruptible("compare: stopped")
def main() -> None:
    options = arguments()
    found = runs.find(options.runs)
    results = [result for run in found for result in settings.results(run, options.columns)]
    notes = incomplete(found, results)
    rows = group(results)
    heads = list(dict.fromkeys(row.head for row in rows))
    for head in options.heads or ():
        if head not in heads:
            raise InputError(f"--heads {head}: no run has such a head; known: {', '.join(heads)}")
    shown = [row for row in rows if row.head in (options.heads or heads)]
    if options.published:
        table, records = published.compare(shown, notes)
    else:
        check_columns(options.columns, shown)
        names = differing(shown)
        name, find = baseline.choose(options.baseline, rows)
        differences, missing = baseline.differences(find, shown)
        records = [record(row, names, options.columns, difference, name) for row, difference in zip(shown, differences, strict=True)]
        table = summary(shown, names, options.columns, differences, name, notes + missing)
    if options.format == "csv":
        print(csv_text(records), end="")
        print("\n".join(table.notes), file=sys.stderr, end="\n" if table.notes else "")
    else:
        print({"terminal": tables.terminal, "markdown": tables.markdown, "latex": tables.latex}[options.format](table))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m pipeline.compare", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--format", choices=["terminal", "markdown", "latex", "csv"], default="terminal")
    parser.add_argument("--columns", type=listed, help=f"figures, as in all,top5,ece.all; default: {','.join(COLUMNS)}")
    parser.add_argument("--heads", type=listed, help="only these, as in crt,tau")
    parser.add_argument("--baseline", help="a head of the same runs, or a setting, as in train.loss=ce; default: joint, where there is one")
    parser.add_argument("--published", action="store_true", help="beside the papers' numbers, with what differs in protocol")
    options = parser.parse_args()
    if options.published and (options.columns is not None or options.baseline):
        parser.error("--published has columns and a baseline of its own; leave --columns and --baseline out")
    options.columns = COLUMNS if options.columns is None else options.columns
    return options


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def incomplete(found: list[Run], results: list[Result]) -> list[str]:
    """A line on what is left out because its dvc.lock is that of a run under way.

    Raises
    ------
    InputError
        If nothing remains.
    """
    counted = {(result.run.name, result.head) for result in results}
    left = {run.name: [head for head in run.figures if (run.name, head) not in counted] for run in found}
    names = "; ".join(f"{name} ({', '.join(heads)})" for name, heads in left.items() if heads)
    line = f"left out, as stages have run since `evaluate` last did: {names}; `dvc repro` completes them"
    if not results:
        raise InputError(line)
    return [line] if names else []


def check_columns(columns: list[str], rows: list[Row]) -> None:
    """Refuse a column that no result has, and a table without any."""
    if not columns:
        raise InputError("--columns: names no figure; expected some, as in all,top5")
    figures = [result.run.figures[result.head] for row in rows for result in row.results.values()]
    known = list(dict.fromkeys(name for figure in figures for name in leaves(figure)))
    for column in columns:
        if column not in known:
            raise InputError(f"--columns {column}: no result has it; known: {', '.join(known)}")


def leaves(figures: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of what is a number or null."""
    names = []
    for key, value in figures.items():
        if isinstance(value, dict):
            names += leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, str | list):
            names.append(prefix + key)
    return names


def record(row: Row, names: list[str], columns: list[str], difference: Difference | None, name: str) -> dict[str, Any]:
    """A row for machines: all its parameters that differ, the mean and the standard deviation of each column, the runs it is made of."""
    content: dict[str, Any] = {**{name: row.parameters.get(name) for name in names}, "head": row.head, "n": len(row.distinct())}
    for column in columns:
        values = row.values(column)
        content[f"{column}_mean"] = round(float(values.mean()), 4) if len(values) else None
        content[f"{column}_std"] = round(float(values.std(ddof=1)), 4) if len(values) > 1 else None
    if name:
        low, high = (difference and difference.ends) or (None, None)
        content |= {"baseline": name, "difference": difference and round(difference.mean, 4)}
        content |= {"low": low and round(low, 4), "high": high and round(high, 4), "pairs": difference and difference.pairs}
    return {**content, "runs": " ".join(result.run.name for result in row.results.values())}


def summary(
    rows: list[Row], names: list[str], columns: list[str], differences: list[Difference | None], name: str, notes: list[str]
) -> Table:
    """The table to be read: `names` are the parameters that differ, `name` is the baseline's."""
    best = [best_of(rows, column) for column in columns]
    compared = any(differences)
    lines = []
    for k, (row, difference) in enumerate(zip(rows, differences, strict=True)):
        figures = [Cell(tables.mean_std(row.values(column)), k in best[j]) for j, column in enumerate(columns)]
        ends = [Cell("" if difference is None else gain(difference))] if compared else []
        lines.append(
            [
                *(Cell(tables.text(row.parameters.get(key))) for key in names),
                Cell(row.head),
                Cell(str(len(row.distinct()))),
                *figures,
                *ends,
            ]
        )
    several = any(len(row.distinct()) > 1 for row in rows)
    title = "test results in percent" + (", mean ± standard deviation over n seeds" if several else "") + "; MARK best"
    if compared:
        title += f"; difference in `all` to {name} [95 % interval over test images]"
    numbers = [False] * (len(names) + 1) + [True] * (1 + len(columns)) + [False] * compared
    return Table(title, [*names, "head", "n", *columns, *([f"all − {name}"] if compared else [])], numbers, lines, notes + about_code(rows))


def best_of(rows: list[Row], column: str) -> set[int]:
    """Places of the rows with the best mean as printed, among those of the same data and groups; of calibration errors the lowest.

    None of `parameters`, of which neither many nor few are better.
    """
    if column == "parameters":
        return set()
    pick = min if column.split(".")[0] == "ece" else max
    together: dict[Any, dict[int, float]] = {}
    for k, row in enumerate(rows):
        if len(values := row.values(column)):
            together.setdefault(tested(row), {})[k] = float(f"{values.mean():.2f}")
    return {k for means in together.values() if len(means) > 1 for k, mean in means.items() if mean == pick(means.values())}


def gain(difference: Difference) -> str:
    ends = f" [{tables.signed(difference.ends[0])}, {tables.signed(difference.ends[1])}]" if difference.ends else ""
    return tables.signed(difference.mean) + ends


def about_code(rows: list[Row]) -> list[str]:
    """What the numbers in the column `code` stand for."""
    files = {file for row in rows for file in row.versioned}
    return [f"code: results of different versions of {tables.some(files)} are kept apart"] if files else []


if __name__ == "__main__":
    main()
