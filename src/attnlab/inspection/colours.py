"""Which colour stands for which weight: one table and one scale per kind of map, the same at every step.

A picture is drawn with one byte per pixel. The first 32 numbers are greys, from the ink of the text (0) to the page
(31), so that the soft edges of letters come out right; the other 224 are the colours of the map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

INK, SOFT_INK, LINE, NEVER_READ, PAGE = 0, 11, 25, 29, 31  # places in the ramp of greys
N_GREYS = 32
N_COLOURS = 256 - N_GREYS
DARKEST = "#1c2127"

SEQUENTIAL = ("#fffcef", "#c5e5bd", "#58b8a4", "#1f7fa3", "#274888", "#1c0f45")
DIVERGING = ("#08306b", "#2f78b7", "#a3cbe4", "#fbfaf6", "#f6bd96", "#cf553b", "#67001f")

# CIE-like coordinates in which equal distances look equal: OKLab, https://bottosson.github.io/posts/oklab
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _linear(colour: str) -> np.ndarray:
    """The amounts of light behind a colour such as "#1c2127"."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def blend(anchors: Sequence[str], n: int) -> UInt8[np.ndarray, "n 3"]:
    """`n` colours through the anchors, each step looking as large as every other.

    The path is straight between anchors in OKLab and is walked at constant speed.
    """
    lab = np.stack([np.cbrt(_linear(a) @ _TO_LMS.T) @ _TO_LAB.T for a in anchors])
    fine = np.linspace(0, len(anchors) - 1, 64 * (len(anchors) - 1) + 1)
    path = np.stack([np.interp(fine, np.arange(len(anchors)), lab[:, i]) for i in range(3)], axis=1)
    length = np.concatenate([[0], np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()])
    even = np.linspace(0, length[-1], n)
    lab = np.stack([np.interp(even, length, path[:, i]) for i in range(3)], axis=1)
    light = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3) @ np.linalg.inv(_TO_LMS).T
    light = light.clip(0, 1)
    rgb = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(rgb * 255).astype(np.uint8)


@dataclass(frozen=True)
class Scale:
    """From weights to numbers in the colour table.

    Bounded kinds: colour = sqrt(w / top), so that a weight of 0.01 can be seen beside one of 1. Kinds without a bound:
    colour = asinh(|w| / knee) / asinh(top / knee), with its sign: straight near 0 and logarithmic from the knee on.
    Weights beyond `top` get the last colour.
    """

    top: float
    bounded: bool
    signed: bool

    @property
    def knee(self) -> float:
        """Where a scale without a bound turns from straight to logarithmic."""
        return self.top / 5000

    def normalize(self, weights: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Where weights stand on the colour bar: 0 .. 1, or -1 .. 1 for signed maps."""
        size = np.minimum(np.abs(weights), self.top)
        if self.bounded:
            share = np.sqrt(size / self.top)
        else:
            share = np.arcsinh(size / self.knee) / math.asinh(self.top / self.knee)
        return np.where(weights < 0, -share if self.signed else 0.0, share)

    def index(self, weights: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
        """The palette number of each weight; what is not a number is drawn in ink."""
        share = self.normalize(np.nan_to_num(weights, nan=0.0))
        half = (N_COLOURS - 1) // 2  # a diverging table has a middle, so its last colour stays unused
        number = half + share * half if self.signed else share * (N_COLOURS - 1)
        return np.where(np.isnan(weights), INK, N_GREYS + np.rint(number)).astype(np.uint8)

    @property
    def ticks(self) -> list[float]:
        """The weights that the colour bar names."""
        steps = (0.01, 0.1, 0.25, 0.5, 1.0) if self.bounded else (0.001, 0.01, 0.1, 1.0)
        up = [self.top * s for s in steps]
        return [*(-t for t in reversed(up) if self.signed), 0.0, *up]

    @property
    def caption(self) -> str:
        """What the colour bar says about itself."""
        what = "weight, signed" if self.signed else "weight"
        return f"{what} (square-root scale)" if self.bounded else f"{what} (log scale beyond {self.knee:.3g})"


KINDS = {
    "probability": Scale(top=1.0, bounded=True, signed=False),
    "sub_probability": Scale(top=1.0, bounded=True, signed=False),
    "nonnegative": Scale(top=10.0, bounded=False, signed=False),
    "signed": Scale(top=10.0, bounded=False, signed=True),
}


def scale_for(kind: str, top: float | None = None) -> Scale:
    """The scale of a kind of map; `top` is the weight that gets the last colour, if not the kind's own."""
    if kind not in KINDS:
        raise ValueError(f"kind ({kind}) has no colours; it must be one of {', '.join(KINDS)}")
    if top is None:
        return KINDS[kind]
    if not 0 < top < math.inf:
        raise ValueError(f"scale ({top}) must be a positive weight")
    return Scale(top=float(top), bounded=KINDS[kind].bounded, signed=KINDS[kind].signed)


@lru_cache(maxsize=2)
def palette(signed: bool) -> UInt8[np.ndarray, "256 3"]:
    """The 256 colours of a picture: 32 greys, then 224 for the map (a diverging table uses 223, with a middle)."""
    colours = blend(DIVERGING, N_COLOURS - 1) if signed else blend(SEQUENTIAL, N_COLOURS)
    missing = np.repeat(colours[-1:], N_COLOURS - len(colours), axis=0)
    return np.concatenate([blend((DARKEST, "#ffffff"), N_GREYS), colours, missing])
