"""How far long work has come: a bar on a terminal; elsewhere, as in the log of a DVC queue, a plain line an epoch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(what: Iterable[Any] | None, name: str, unit: str, total: int | None = None, **others: Any) -> tqdm:
    """A progress bar over an iterable, or to be moved by hand; silent where stderr is no terminal, and gone when it is done."""
    return tqdm(what, name, total, unit=unit, disable=None, leave=False, **others)


def say(line: str) -> None:
    """Print a line at once where no bar can be seen."""
    if not sys.stderr.isatty():
        print(line, flush=True)
