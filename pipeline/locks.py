"""One process at a time: locks that end with the processes that hold them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.files import InputError, in_a_line


@contextmanager
def alone(path: Path, busy: str = "") -> Iterator[int]:
    """Hold the lock file `path` during the block.

    busy : the line to end with where another process holds it; without one, wait for it

    Returns
    -------
    the lock's descriptor, for `pass_fds` of a child process that holds it too, even after this process was killed

    Raises
    ------
    InputError
        If the lock is held, and there is a line for that; or if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("w")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({in_a_line(error)})") from None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise InputError(busy) from None
        yield file.fileno()
