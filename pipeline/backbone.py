"""backbone.safetensors: stage one's weights, and in the metadata the architecture that they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import params
from pipeline.files import InputError, in_a_line, pack_metadata, read_tensors, write_tensors

if TYPE_CHECKING:
    from pipeline.network import Network

FILE = Path("data/backbone.safetensors")
SCHEMA = "tailcache-backbone-2"


def build(family: str, options: dict[str, Any], channels: int, classes: int, cosine_scale: float | None = None) -> Network:
    """A network with random weights: `family` is a module of pipeline/backbones, `options` its parameters.

    `cosine_scale` is None for a linear classifier, and what a cosine classifier multiplies its cosines by.
    """
    from pipeline.network import Network

    module = params.method("backbones", family, "train.backbone.family")
    groups, dim = module.Backbone(**options).build(channels)
    return Network(groups, dim, classes, cosine_scale)


def save(network: Network, family: str, options: dict[str, Any], channels: int, path: Path = FILE) -> None:
    """Write the network whole."""
    about = {
        "schema": SCHEMA,
        "family": family,
        "options": options,
        "channels": channels,
        "classes": network.classifier.out_features,
        "cosine_scale": network.cosine_scale,
    }
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    write_tensors(path, "torch", tensors, pack_metadata(about))


def load(channels: int, classes: int, path: Path = FILE) -> Network:
    """Rebuild the network, for images of that many channels and classes.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another schema, made for other images, or its weights do not fit its architecture.
    """
    about, weights = read_tensors(path, "torch", SCHEMA, "backbone", "run `dvc repro train`", "run `dvc repro --force train`")
    try:
        if (about["channels"], about["classes"]) != (channels, classes):
            raise InputError(
                f"{path}: made for {about['channels']} channels and {about['classes']} classes, the images have {channels} and {classes}; "
                "run `dvc repro train`"
            )
        network = build(about["family"], about["options"], channels, classes, about["cosine_scale"])
        network.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path}: does not fit its architecture: {in_a_line(error)}") from None
    return network
