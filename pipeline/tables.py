"""A table of text in three formats: for a terminal, as Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "τ": r"$\tau$",
    "β": r"$\beta$",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    "≠": r"$\neq$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


class Cell(NamedTuple):
    """A text, and whether it is the best of its column."""

    text: str
    best: bool = False


class Table(NamedTuple):
    """A title, in which MARK stands for how the best is marked; names of columns; which of them are set to the right, as numbers are; rows
    of as many cells; and lines to stand below.
    """

    title: str
    columns: list[str]
    numbers: list[bool]
    rows: list[list[Cell]]
    notes: list[str]


def text(value: Any) -> str:
    """A parameter's value as params.yaml has it; nothing for None."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def some(names: Iterable[str]) -> str:
    """Names in a line: all of four or fewer, otherwise the first three and how many more."""
    ordered = sorted(names)
    return ", ".join(ordered) if len(ordered) < 5 else f"{', '.join(ordered[:3])} and {len(ordered) - 3} more"


def signed(value: float) -> str:
    """`+3.10`, and `−0.42` with a minus sign; zero is `+0.00`."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def mean(values: np.ndarray) -> float | None:
    """Mean of values (n,), None without any."""
    return float(values.mean()) if len(values) else None


def mean_std(values: np.ndarray, digits: int = 2) -> str:
    """`93.40 ± 0.20` of several values, `93.40` of one, a dash of none."""
    if len(values) > 1:
        return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"
    return f"{values[0]:.{digits}f}" if len(values) else "–"


def terminal(table: Table) -> str:
    """Aligned columns, a star behind the best; the digits stand under each other with and without a star."""
    starred = [any(row[k].best for row in table.rows) for k in range(len(table.columns))]
    texts = [[cell.text + ("*" if cell.best else " " * starred[k]) for k, cell in enumerate(row)] for row in table.rows]
    head = [name + " " * starred[k] for k, name in enumerate(table.columns)]
    widths = [max(map(len, column)) for column in zip(head, *texts, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if number else text.ljust(width) for text, width, number in zip(row, widths, table.numbers, strict=True)
        )
        for row in [head, *texts]
    ]
    return "\n".join([table.title.replace("MARK", "*"), *(line.rstrip() for line in lines), *table.notes])


def markdown(table: Table) -> str:
    """A table as GitHub shows it, the best in bold."""
    texts = [[f"**{escaped(cell.text)}**" if cell.best else escaped(cell.text) for cell in row] for row in table.rows]
    rule = ["---:" if number else "---" for number in table.numbers]
    lines = ["| " + " | ".join(row) + " |" for row in [[escaped(name) for name in table.columns], rule, *texts]]
    return "\n\n".join(
        filter(None, [escaped(table.title.replace("MARK", "bold")), "\n".join(lines), "  \n".join(map(escaped, table.notes))])
    )


def folded(table: Table) -> str:
    """The same behind its title, to be opened by a click."""
    title = table.title.replace("MARK", "bold")
    return f"<details><summary>{html.escape(title)}</summary>\n\n{markdown(table._replace(title=''))}\n\n</details>"


def escaped(text: str) -> str:
    """Text whose stars, bars, underscores and backslashes Markdown leaves as they are."""
    return re.sub(r"([*|_\\<])", r"\\\1", text)


def latex(table: Table) -> str:
    """A tabular for the packages booktabs, the best in bold; title and notes are comments."""
    texts = [[rf"\textbf{{{plain(cell.text)}}}" if cell.best else plain(cell.text) for cell in row] for row in table.rows]
    head = [plain(name) for name in table.columns]
    body = [" & ".join(row) + r" \\" for row in texts]
    return "\n".join(
        [
            f"% {table.title.replace('MARK', 'bold')}",
            r"\begin{tabular}{" + "".join("r" if number else "l" for number in table.numbers) + "}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(f"% {note}" for note in table.notes),
        ]
    )


def plain(text: str) -> str:
    """Text that LaTeX prints as it is; a cell that begins with a bracket would be an argument of the line break before it."""
    safe = "".join(LATEX.get(letter, letter) for letter in text)
    return f"{{}}{safe}" if safe.startswith("[") else safe
