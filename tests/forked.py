"""Stages in forked processes that have torch already: one starts within milliseconds, so that a kill meets work and not imports."""

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "safetensors.torch", "h5py", "faiss", "pydantic", "tqdm"])


def start(workspace, *command, dies_at=None):
    """Begin `python -m pipeline.COMMAND` there and give its process; what it prints is appended to the file `log`.

    dies_at : the name of an `os` function and a number n; the process kills itself when it is about to call it for the n-th time
    """
    process = CONTEXT.Process(target=_run, args=(workspace, command, dies_at))
    process.start()
    return process


def _run(workspace, command, dies_at):
    os.chdir(workspace)
    if dies_at:
        name, remaining = dies_at
        original = getattr(os, name)

        def die(*arguments, **options):
            nonlocal remaining
            remaining -= 1
            if not remaining:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(os, name, die)
    sys.argv = list(command)
    sys.stdout = sys.stderr = Path("log").open("a", buffering=1)  # noqa: SIM115 - to the end of the process, which may write an error
    runpy.run_module(f"pipeline.{command[0]}", run_name="__main__", alter_sys=True)
