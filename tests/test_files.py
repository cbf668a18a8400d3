"""Files are whole or not there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.files import TIMINGS, InputError, note_time, pack_metadata, read_json, replacing, unpack_metadata, write_json, write_tensors
from pipeline.locks import alone


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


def test_where_nothing_can_be_written_there_is_a_line(workspace):
    (workspace / "data").write_text("a file, and no folder")
    with pytest.raises(InputError, match="^data/results/metrics.json: cannot be written "):
        write_json(Path("data/results/metrics.json"), {})
    with pytest.raises(InputError, match="^data/heads/tau.safetensors: cannot be written "):
        write_tensors(Path("data/heads/tau.safetensors"), "numpy", {}, {})
    with pytest.raises(InputError, match="^data/lock: cannot be written "), alone(Path("data/lock")):
        pass


def test_what_safetensors_refuses_is_a_line(workspace):
    Path("data/.tmp/data--x.safetensors/in the way").mkdir(parents=True)
    with pytest.raises(InputError, match="^data/x.safetensors: cannot be written "):
        write_tensors(Path("data/x.safetensors"), "numpy", {"x": np.zeros(1)}, {"a": "b"})


def test_a_note_that_cannot_be_written_fails_no_stage(workspace):
    TIMINGS.parent.write_text("a file, and no folder")
    note_time("train", Path("params.yaml"), 1.0)


def test_tensors_may_be_read_by_whom_other_files_may(workspace):
    before = os.umask(0o027)
    try:
        write_tensors(workspace / "a.safetensors", "numpy", {"x": np.zeros(1)}, {"a": "b"})
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (workspace / "a.safetensors").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not valid JSON"), (b"[1]", "expected a JSON object, got list"), (b"\xff", "cannot be read"), (None, "not found")],
)
def test_json_that_is_no_mapping_is_a_line(workspace, content, message):
    if content is not None:
        Path("a.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"^a.json: {message}.*; do this$"):
        read_json(Path("a.json"), "do this")
