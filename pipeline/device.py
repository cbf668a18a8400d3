"""Where stage one and the trained heads compute, and how data gets there."""

from __future__ import annotations

import os

import numpy as np
import torch


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def send(array: np.ndarray, place: torch.device) -> torch.Tensor:
    """A writable array as a tensor there. A GPU fetches it from page-locked memory, which nobody has to wait for."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(place, non_blocking=True) if place.type == "cuda" else tensor


def arithmetic(place: torch.device, repeatable: bool) -> None:
    """Choose how a GPU computes: by algorithms that repeat to the last bit or by the fastest ones; in float32 without TF32, which PyTorch
    has in convolutions by default and which keeps 11 of a number's 24 bits. On a CPU all of ours repeat.

    An operation that has no repeatable algorithm warns and runs (PyTorch's notes on reproducibility list them).
    """
    if place.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(repeatable, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a kernel for every new tensor, and none of ours is read unwritten
        torch.backends.cudnn.benchmark = not repeatable
        torch.backends.cudnn.allow_tf32 = False
