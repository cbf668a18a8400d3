"""Files are whole or not there."""

import json
from pathlib import Path

import pytest

from pipeline.files import TIMINGS, InputError, note_time, pack_metadata, replacing, unpack_metadata, write_json


def test_a_failing_writer_leaves_the_old_file_and_no_litter(workspace):
    target = workspace / "data/results/metrics.json"
    write_json(target, {"joint": 1.0})
    old = target.read_bytes()
    with pytest.raises(ZeroDivisionError), replacing(target) as path:
        path.write_text("half")
        raise ZeroDivisionError
    assert target.read_bytes() == old
    assert list((workspace / "data/.tmp").iterdir()) == []


def test_an_input_error_ends_the_process_with_status_1_and_its_line():
    error = InputError("features.h5: truncated")
    assert isinstance(error, SystemExit)
    assert error.code == "features.h5: truncated"  # a text: Python prints it and exits with 1


def test_metadata_is_one_key_in_sorted_json(workspace):
    assert pack_metadata({"b": 1, "a": {"d": 2, "c": 3}}) == {"tailcache": '{"a": {"c": 3, "d": 2}, "b": 1}'}
    assert unpack_metadata(pack_metadata({"schema": "x"}), workspace, "x") == {"schema": "x"}
    for foreign in (None, {}, {"format": "pt"}, pack_metadata({"schema": "y"})):
        with pytest.raises(InputError, match="schema is"):
            unpack_metadata(foreign, workspace, "x")


def test_times_are_lines_of_json_beside_the_artefacts(workspace):
    made = Path("data/made")
    made.parent.mkdir()
    made.write_bytes(b"abc")
    note_time("train", made, 1.23456, 100)
    note_time("head@tau", made, 0.01)
    lines = [json.loads(line) for line in TIMINGS.read_text().splitlines()]
    md5 = "900150983cd24fb0d6963f7d28e17f72"  # of abc, from RFC 1321
    assert lines == [
        {"stage": "train", "md5": md5, "seconds": 1.235, "images": 100},
        {"stage": "head@tau", "md5": md5, "seconds": 0.01, "images": 0},
    ]
