"""What the encoder is shown (`input`) and what the decoder is asked for (`target`), of the grey image.

Grey means x = byte/255 in [0, 1]. `scale` is the size in grey levels of one unit of the transformed pixel.
Subtract D·ln(scale) from a log-density of transformed pixels to make it one of grey pixels.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from bench.spec.options import Positive, Probability, Real


class Grey:
    """Grey levels in [0, 1], byte/255."""

    label = "grey target"
    scale = 1.0

    def __call__(self, grey: Tensor) -> Tensor:
        """Transform grey pixels; any shape."""
        return grey

    def to_grey(self, mean: Tensor) -> Tensor:
        """Bring a decoder's mean back to grey levels, clamped to [0, 1]; any shape."""
        return mean.clamp(0, 1)


class Threshold:
    """Black or white, 1 where the grey level exceeds `at` (document 001's target)."""

    label = "thresholded target"
    scale = 1.0

    def __init__(self, *, at: Probability = 0.5) -> None:
        self.at = at

    def __call__(self, grey: Tensor) -> Tensor:
        """Transform grey pixels; any shape."""
        return (grey > self.at).to(grey.dtype)

    def to_grey(self, mean: Tensor) -> Tensor:
        """Bring a decoder's mean back to grey levels, clamped to [0, 1]; any shape."""
        return mean.clamp(0, 1)


class Normalised:
    """Grey levels less `mean`, divided by `std` (document 004's input and target)."""

    label = "grey target"  # densities convert exactly to those of grey levels

    def __init__(self, *, mean: Real = 0.1307, std: Positive = 0.3081) -> None:
        self.mean = mean
        self.scale = std

    def __call__(self, grey: Tensor) -> Tensor:
        """Transform grey pixels; any shape."""
        return (grey - self.mean) / self.scale

    def to_grey(self, mean: Tensor) -> Tensor:
        """Bring a decoder's mean back to grey levels, clamped to [0, 1]; any shape."""
        return (mean * self.scale + self.mean).clamp(0, 1)


class Drawn:
    """Black or white, drawn with the grey level as the probability of white (the IWAE literature's target).

    `resample` says how often: anew for each batch, for each epoch, or once. The engine draws, and what it
    judges a model by has one draw. What reaches this part undrawn is white above 1/2.
    """

    label = "drawn target"
    scale = 1.0

    def __init__(self, *, resample: Literal["batch", "epoch", "never"] = "batch") -> None:
        self.resample = resample

    def __call__(self, grey: Tensor) -> Tensor:
        """Transform pixels that are drawn already; any shape."""
        return (grey > 0.5).to(grey.dtype)

    def to_grey(self, mean: Tensor) -> Tensor:
        """Bring a decoder's mean back to grey levels, clamped to [0, 1]; any shape."""
        return mean.clamp(0, 1)


class AsTarget(Grey):
    """What the decoder is asked for, the same draw included; the model takes its target in place of this."""


PIXELS = {"grey": Grey, "threshold": Threshold, "normalised": Normalised, "bernoulli": Drawn}
INPUTS = {"grey": Grey, "threshold": Threshold, "normalised": Normalised, "target": AsTarget}
