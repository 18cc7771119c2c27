"""ln p(x) to three digits, where a grid can cover the latent space.

Shapes: B images, D pixels, Z latents, G points of the grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from bench.engine.device import wide
from bench.evaluation.footing import BinaryPixels

MOST_LATENTS = 2
SIDES = {1: (1000, 4000, 16_000), 2: (300, 600, 1200)}  # points along each axis: the first that is enough
ENOUGH = 0.1  # nats that every second point of an axis may give otherwise, on average over images
ROWS = 1000  # points at a time


@torch.no_grad()
def quadrature(pixels: BinaryPixels, images: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, float]:
    """Integrate p(x|z) p(z) over a grid from `low` to `high` [Z]: ln p(x) of binary images [B, D], [B] nats.

    The trapezoid rule converges exponentially for smooth integrands that vanish at the borders (Trefethen &
    Weideman 2014, section 5): of a Gaussian at half the spacing the error is raised to the fourth power. Also
    gives a bound on it, nats: the square of the mean difference that twice the spacing makes. The grid is
    refined until that difference is below ENOUGH or the finest is reached.
    """
    for side in SIDES[len(low)]:
        axes = [
            torch.linspace(0, 1, side, dtype=torch.float64) * (b - a) + a
            for a, b in zip(low.tolist(), high.tolist(), strict=True)
        ]
        fine, coarse = grid_sums(pixels, images, axes)
        volume = math.log(math.prod(float(axis[1] - axis[0]) for axis in axes))
        difference = float((fine - coarse - len(axes) * math.log(2)).abs().mean())
        if difference < ENOUGH:
            break
    return fine + volume, difference**2


def grid_sums(pixels: BinaryPixels, images: Tensor, axes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Add up p(x|z) p(z) over all points, and over every second of each axis: [B] each, logarithms."""
    prior, target = pixels.model.prior, images.T
    totals = torch.full((2, len(images)), -math.inf, dtype=wide(images.device), device=images.device)
    index = torch.cartesian_prod(*(torch.arange(len(axis)) for axis in axes)).view(-1, len(axes))
    for rows in index.split(ROWS):
        z = torch.stack([axis[i] for axis, i in zip(axes, rows.T, strict=True)], 1)
        z = z.to(images.device, images.dtype)
        logits = pixels.logits(z)
        score = logits @ target + (prior.log_prob(z) - softplus(logits).sum(-1))[:, None]  # [G, B]
        second = score[(rows % 2 == 0).all(1).to(score.device)]
        for total, part in zip(totals, (score, second), strict=True):
            if len(part):
                torch.logaddexp(total, part.logsumexp(0).to(total.dtype), out=total)
    return totals[0], totals[1]
