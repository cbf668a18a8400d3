"""AutoAugment's policy for CIFAR-10 (Cubuk et al. 2019, table 7) on a batch of tensors, a sub-policy for each image.

Its 13 operations are Pillow's, to the rounding, as the re-implementation applies them that Balanced Softmax, GLAG and most later work on
long tails use (DeepVoltaire's CIFAR10Policy of before July 2021, for CIFAR-100 as well): colours change by a factor of 1 ± magnitude;
shearing, translation and colours take a random sign and rotation none; shearing is bicubic, the rest nearest; what comes into the picture
is grey 128. torchvision and kornia draw one sub-policy for a whole batch.

Images are uint8 (k, h, w, 3) on any device; magnitudes, with their sign, are (k,) float64 on the host.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pipeline.device import send

GREY = 128

# Two operations each, with probability and level (of 10).
POLICY = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)

_NONE, _COLOUR, _SHIFT = np.zeros(10), np.linspace(0, 0.9, 10), np.linspace(0, 150 / 331, 10)
MAGNITUDES = {  # of each level
    "rotate": np.linspace(0, 30, 10),  # degrees, counter-clockwise
    "shear_y": np.linspace(0, 0.3, 10),
    "translate_x": _SHIFT,  # of the side
    "translate_y": _SHIFT,
    "solarize": np.linspace(256, 0, 10),  # inverted from this value on
    "posterize": np.linspace(8, 4, 10).round(),  # bits kept
    "brightness": _COLOUR,
    "color": _COLOUR,
    "contrast": _COLOUR,
    "sharpness": _COLOUR,
    "invert": _NONE,
    "autocontrast": _NONE,
    "equalize": _NONE,
}
STRENGTHS = np.array([[MAGNITUDES[name][level] for name, _, level in sub] for sub in POLICY])  # (25, 2)
PROBABILITIES = {op: np.array([[p if name == op else 0.0 for name, p, _ in sub] for sub in POLICY]) for op in MAGNITUDES}  # (25, 2) each
SIGNED = ("shear_y", "translate_x", "translate_y", "brightness", "color", "contrast", "sharpness")


def apply_policy(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Draw a sub-policy for each image, whether each of its two operations happens and with which sign, and apply them."""
    b = len(images)
    chosen, happens, signs = generator.integers(len(POLICY), size=b), generator.random((b, 2)), generator.choice([-1.0, 1.0], (b, 2))
    images = images.clone()
    for step in range(2):
        for name, operation in OPERATIONS.items():
            rows = np.flatnonzero(happens[:, step] < PROBABILITIES[name][chosen, step])
            if len(rows):
                magnitudes = STRENGTHS[chosen[rows], step] * (signs[rows, step] if name in SIGNED else 1)
                where = send(rows, images.device)
                images[where] = operation(images[where], magnitudes)
    return images


def invert(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """The negative."""
    return 255 - images


def solarize(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """Invert values from the threshold on."""
    threshold = _each(np.ceil(magnitudes).astype(np.int16), images)
    return torch.where(images < threshold, images, 255 - images)


def posterize(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """Keep so many leading bits."""
    return images & _each((256 - 2 ** (8 - magnitudes)).astype(np.uint8), images)


def autocontrast(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """Stretch each channel to 0 … 255; one of a single value stays."""
    low, high = (x.double() for x in (images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)))
    scale = low.new_tensor(255) / (high - low).clamp(min=1)  # a plain 255 / x would be rounded twice
    stretched = (images.double() * scale + -low * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalize(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """Spread each channel's histogram evenly, by Pillow's integers."""
    k, h, w, channels = images.shape
    planes = images.permute(0, 3, 1, 2).reshape(k * channels, h * w).long()
    histogram = planes.new_zeros(k * channels, 256).scatter_add_(1, planes, torch.ones_like(planes))
    last = histogram.gather(1, planes.amax(1, keepdim=True))  # how often the largest value occurs
    step = (h * w - last) // 255
    before = histogram.cumsum(1) - histogram
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    spread = torch.where(step > 0, table.gather(1, planes), planes).to(torch.uint8)
    return spread.reshape(k, channels, h, w).permute(0, 2, 3, 1)


def brightness(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """Away from or towards black."""
    return _blend(torch.zeros_like(images), images, magnitudes)


def color(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """Away from or towards its grey picture."""
    return _blend(_grey(images), images, magnitudes)


def contrast(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """Away from or towards its mean grey."""
    mean = _grey(images).double().mean((1, 2, 3), keepdim=True)
    return _blend((mean + 0.5).int(), images, magnitudes)


def sharpness(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """Away from or towards its smoothed picture, (3 x 3 sum + 4 x centre) / 13; the border stays."""
    x = images.int()
    columns = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    total = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:] + 4 * x[:, 1:-1, 1:-1]
    smooth = x.clone()
    smooth[:, 1:-1, 1:-1] = (2 * total + 13) // 26
    return _blend(smooth, images, magnitudes)


def rotate(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """Counter-clockwise about the centre; Pillow's steps of 1 / 65536 pixel."""
    h, w = images.shape[1:3]
    angle = -np.radians(magnitudes)
    cos, sin = np.cos(angle).round(15), np.sin(angle).round(15)

    def fixed(x: np.ndarray) -> torch.Tensor:
        return _each(np.floor(x * 65536 + 0.5).astype(np.int64), images)[..., 0]  # (k, 1, 1)

    x0 = (cos * (-w / 2) + sin * (-h / 2) + w / 2) + cos * 0.5 + sin * 0.5
    y0 = (-sin * (-w / 2) + cos * (-h / 2) + h / 2) + -sin * 0.5 + cos * 0.5
    y, x = _grid(images)
    return _taken(images, (fixed(y0) + fixed(cos) * y + fixed(-sin) * x) >> 16, (fixed(x0) + fixed(sin) * y + fixed(cos) * x) >> 16)


def translate_x(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """By a share of the width."""
    y, x = _grid(images)
    x = (_each(magnitudes * images.shape[2] + 0.5, images)[..., 0] + x).floor().long()
    return _taken(images, y, x)


def translate_y(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """By a share of the height."""
    y, x = _grid(images)
    y = (_each(magnitudes * images.shape[1] + 0.5, images)[..., 0] + y).floor().long()
    return _taken(images, y, x)


def shear_y(images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """Each column moves by so much a column; bicubic in y with Pillow's kernel (a = -1)."""
    h = images.shape[1]
    row, x = _grid(images)
    source = _each(magnitudes, images)[..., 0] * (x + 0.5) + (row + 0.5)  # (k, h, w)
    inside = (source >= 0) & (source < h)
    top = (source - 0.5).floor()
    d = (source - 0.5 - top)[..., None]
    v1, v2, v3, v4 = (_taken(images, (top.long() + step).clamp(0, h - 1), x).double() for step in (-1, 0, 1, 2))
    value = v2 + d * ((-v1 + v3) + d * ((2 * (v1 - v2) + v3 - v4) + d * (-v1 + v2 - v3 + v4)))
    return torch.where(inside[..., None], value.clamp(0, 255).to(torch.uint8), GREY)


OPERATIONS: dict[str, Callable[[torch.Tensor, np.ndarray], torch.Tensor]] = {
    operation.__name__: operation
    for operation in (
        *(invert, solarize, posterize, autocontrast, equalize, brightness, color, contrast, sharpness),
        *(rotate, translate_x, translate_y, shear_y),
    )
}


def _each(values: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    """One value an image, (k, 1, 1, 1), beside the images."""
    return send(values, images.device)[:, None, None, None]


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Luma (k, h, w, 1) int32 by Pillow's integer weights."""
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32, device=images.device)
    return ((images.int() * weights).sum(3, keepdim=True, dtype=torch.int32) + 0x8000) >> 16


def _blend(degenerate: torch.Tensor, images: torch.Tensor, magnitudes: np.ndarray) -> torch.Tensor:
    """degenerate + (1 + magnitude) (image - degenerate) in float32, cut off to an integer and to 0 … 255."""
    factor = _each((1 + magnitudes).astype(np.float32), images)
    return (degenerate + factor * (images.int() - degenerate)).clamp(0, 255).to(torch.uint8)


def _grid(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (1, h, 1) and columns (1, 1, w)."""
    _, h, w, _ = images.shape
    return torch.arange(h, device=images.device)[None, :, None], torch.arange(w, device=images.device)[None, None, :]


def _taken(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The pixels at rows y and columns x, int64 of shapes that broadcast to (k, h, w); grey outside of the image."""
    k, h, w, _ = images.shape
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    which = torch.arange(k, device=images.device)[:, None, None]
    return torch.where(inside[..., None], images[which, y.clamp(0, h - 1), x.clamp(0, w - 1)], GREY)
