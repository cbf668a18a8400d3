"""The sections of params.yaml with the parameters of methods: each has a package of its name, in which a module is a method."""

from __future__ import annotations

from typing import NamedTuple


class Section(NamedTuple):
    """chosen_by : the parameter that names the method to take
    model : the class of a method's parameters in its module
    """

    chosen_by: str
    model: str


SECTIONS = {
    "datasets": Section("data.name", "Dataset"),
    "losses": Section("train.loss", "Loss"),
    "mixing": Section("train.mix", "Mixing"),
    "reweighting": Section("train.reweight", "Reweighting"),
}
