"""Images drawn black or white, the grey level of a pixel being the probability of white.

Training draws from the run's own seed, as often as the target's `resample` says. What is judged has one draw,
the same in every run.

Shapes: N images, B images a batch, D pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.engine.device import stream
from bench.parts.vae import VAE

ROWS = 10_000  # images drawn at a time: 31 MB of uniform numbers for MNIST


def draw(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uint8 images [N, D] black or white: uint8, 0 or 255."""
    uniform = torch.rand(images.shape, generator=generator, device=generator.device).to(images.device)
    return (uniform < images.float() / 255).to(torch.uint8) * 255


def fixed_draw(model: VAE, images: Tensor, purpose: str = "binarisation") -> Tensor | None:
    """Draw what a model is judged by, the same in every run; None of a target that is not drawn."""
    if not hasattr(model.target, "resample"):
        return None
    return draw(images, stream(0, purpose))


def as_shown(model: VAE, images: Tensor, purpose: str = "binarisation") -> Tensor:
    """Give uint8 images [N, D] as an encoder is shown them: drawn, where its input is a drawn target."""
    drawn = fixed_draw(model, images, purpose) if model.input is model.target else None
    return images if drawn is None else drawn


class Draws:
    """The draws of a training set [N, D] that a model's target asks for, of one seed."""

    def __init__(self, resample: str, seed: int, images: Tensor) -> None:
        self.resample = resample
        self.seed = seed
        self.images = images
        self.drawn = self._whole(0) if resample == "never" else None

    def begin(self, epoch: int) -> None:
        """Begin an epoch, of which the draws depend on nothing but its number."""
        if self.resample == "epoch":
            self.drawn = self._whole(epoch)
        self.generator = stream(self.seed, "target", epoch, self.images.device)

    def of(self, index: Tensor) -> Tensor:
        """Give the draws of a batch of images, as grey levels 0 or 1: [B, D]."""
        rows = draw(self.images[index], self.generator) if self.drawn is None else self.drawn[index]
        return rows.float() / 255

    def _whole(self, epoch: int) -> Tensor:
        generator = stream(self.seed, "target", epoch, self.images.device)
        return torch.cat([draw(rows, generator) for rows in self.images.split(ROWS)])
