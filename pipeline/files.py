"""Files that are either whole or not there, and the one error a user sees.

Every writer of the project writes elsewhere, below `data/.tmp/` or beside its target, and renames: a stage killed at any moment leaves
either the old file or none, never half of one.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY = Path("data/.tmp")
TIMINGS = Path(".cache/timings.jsonl")


class InputError(SystemExit):
    """What the user gave cannot be used: ends the process with status 1 and one line that names the file or the yaml path.

    A `SystemExit`, so that a stage needs no handler for it and no traceback hides the line.
    """


def in_a_line(error: object) -> str:
    """What an exception says, of however many lines."""
    return " ".join(str(error).split())


def takes_no_arguments(about: str | None) -> None:
    """Of a command: end with its usage where it was given an argument, or with what it is `about` where `--help` was asked for."""
    import argparse

    command = f"python -m {sys.modules['__main__'].__spec__.name}"
    argparse.ArgumentParser(command, description=about, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()


@contextmanager
def interruptible(line: str) -> Iterator[None]:
    """Where the user presses Ctrl-C, end with this line, which says how to go on, and status 130; also a decorator of a stage's `main`.

    Where whoever reads what is printed has read enough, as `| head` has, end in silence with status 1.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\n{line}", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's last flush would complain
        raise SystemExit(1) from None


@contextmanager
def replacing(target: Path, beside: bool = False) -> Iterator[Path]:
    """Give a path to write to; move what is there onto `target` once the block has ended without an exception.

    The temporary name is a function of the target alone, so what a killed run left is overwritten by the next.

    beside : write in the target's own folder, which may lie on another disk than `data/`, or be no output of a stage

    Raises
    ------
    InputError
        If the disk refuses: no permission, no space.
    """
    temporary = target.with_name(f"{target.name}.new") if beside else TEMPORARY / target.as_posix().strip("/").replace("/", "--")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except BrokenPipeError:  # of what the block printed
        raise
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({in_a_line(error)})") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str, beside: bool = False) -> None:
    """Write a small text file whole; `beside` as for `replacing`."""
    with replacing(target, beside) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: Path, content: Any) -> None:
    """Write JSON whole, keys in the order given."""
    write_text(target, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_csv(target: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of equal keys whole, as `csv_text` has them."""
    write_text(target, csv_text(rows))


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as CSV, under a line of these keys; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises
    ------
    InputError
        If it is missing, cannot be read or is something else: a line that ends in the advice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {advice}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({in_a_line(error)}); {advice}") from None
    return parse_json(text, str(path), advice)


def parse_json(text: str, name: str, advice: str) -> dict[str, Any]:
    """The mapping that a text is; the error calls it `name`."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{name}: not valid JSON ({error}); {advice}") from None
    if not isinstance(content, dict):
        raise InputError(f"{name}: expected a JSON object, got {type(content).__name__}; {advice}")
    return content


def attributes_of(classes: int) -> dict[str, str]:
    """What `h5py.File` takes to write a file with the counts and names of so many classes as attributes.

    HDF5's oldest format, which every reader knows, ends at 64 KiB of them, some 4,000 names.
    """
    return {} if classes <= 2000 else {"libver": "latest"}


def note_time(stage: str, made: Path, seconds: float, images: int = 0) -> None:
    """Append how long a stage took to make a file, and over how many images, to `.cache/timings.jsonl`.

    Durations differ from run to run, so they stay out of every artefact. The file's MD5 tells whether they are those of what is there
    now, which may come from DVC's cache. Heads that run side by side each append one short line. A note that cannot be written is left
    out: what took the time is there.
    """
    with suppress(OSError):
        TIMINGS.parent.mkdir(parents=True, exist_ok=True)
        with TIMINGS.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "md5": md5(made), "seconds": round(seconds, 3), "images": images}) + "\n")


def md5(path: Path) -> str:
    """A file's MD5, the name that DVC knows it by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def write_tensors(target: Path, framework: str, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole; its tensors are arrays of `framework` (`numpy` or `torch`)."""
    from safetensors import SafetensorError

    with replacing(target) as temporary:
        try:
            importlib.import_module(f"safetensors.{framework}").save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OSError(error) from None
        os.chmod(temporary, 0o666 & ~umask())  # safetensors leaves it to its owner alone


def umask() -> int:
    """What this process takes from the permissions of a new file; asking is setting."""
    os.umask(mask := os.umask(0))
    return mask


def read_tensors(path: Path, framework: str, schema: str, what: str, missing: str, damaged: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a safetensors file of ours: its metadata and its tensors by name, as arrays of `framework` (`numpy` or `torch`).

    Raises
    ------
    InputError
        If the file is missing, damaged or of another schema: a line that calls it `what` and ends in what to do.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework) as file:
            about = unpack_metadata(file.metadata(), path, schema)
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:  # also where there is no permission
        raise InputError(f"{path}: {'cannot be read; see its permissions' if path.exists() else f'not found; {missing}'}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a complete {what} ({in_a_line(error)}); {damaged}") from None


def pack_metadata(content: dict[str, Any]) -> dict[str, str]:
    """Metadata for a safetensors file: one key, because the format writes several in random order."""
    return {"tailcache": json.dumps(content, sort_keys=True)}


def unpack_metadata(metadata: dict[str, str] | None, path: Path, schema: str) -> dict[str, Any]:
    """Read what `pack_metadata` wrote.

    Raises
    ------
    InputError
        If the file was not written by this project, or is of another schema.
    """
    content = json.loads((metadata or {}).get("tailcache", "{}"))
    found = content.get("schema", "missing") if isinstance(content, dict) else "missing"
    if found != schema:
        raise InputError(f"{path}: schema is {found!r}, expected {schema!r}: run `dvc repro`")
    return content
