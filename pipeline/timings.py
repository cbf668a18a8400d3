"""How long stages took: what `files.note_time` left in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.files import TIMINGS

KEYS = {"stage", "seconds", "images"}


def read(folder: Path = Path()) -> Iterator[dict[str, Any]]:
    """The lines of a folder's stages, the oldest first, without one that a killed run left half-written."""
    file = folder / TIMINGS
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else ():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and line.keys() >= KEYS:
                yield line
