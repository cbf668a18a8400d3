"""Ctrl-C in any stage: one line on how to go on, status 130, and what was there stays; and a reader that has read enough."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import params
from tests.conftest import ROOT

STAGES = ["prepare", "train", "extract", "deviation", "evaluate"]


@pytest.mark.parametrize("name", [*STAGES, *(f"heads.{kind}" for kind in params.known("heads"))])
def test_ctrl_c_is_a_line_and_no_traceback(workspace, monkeypatch, capsys, name):
    def pressed(*arguments):
        raise KeyboardInterrupt

    module = importlib.import_module(f"pipeline.{name}")
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr(params, "read", pressed)
    monkeypatch.setattr(sys, "argv", [name, "tau"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", module.__spec__)  # as `python -m` sets it
    with pytest.raises(SystemExit) as stopped:
        module.main(module.Head) if name.startswith("heads.") else module.main()
    assert stopped.value.code == 130
    (line,) = capsys.readouterr().err.split("\n")[1:-1]
    assert line.startswith(f"{name.partition('.')[0].removesuffix('s')}: stopped")
    assert "run it again" in line
    assert sorted(Path().rglob("*")) == before


def test_every_stage_is_listed():
    declared = params.read(ROOT / "dvc.yaml")["stages"]
    assert sorted(declared) == sorted([*STAGES, "head"])


def test_a_reader_that_has_read_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does after some lines
    command = [sys.executable, "-m", "pipeline.reproduce", "table"]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
