"""Where stage one and the trained heads compute."""

from __future__ import annotations

import torch


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
