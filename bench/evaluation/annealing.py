"""ln p(x) by annealed importance sampling, and how far it may still be from the truth.

Shapes: C chains of each image, B images, Z latents, D pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.evaluation.refit import Score
from bench.parts.posteriors import Q
from bench.parts.protocols import Prior

CHAINS = 4
LEAPFROGS = 3
STEP = 1.2  # of a leapfrog, in scales of the refitted posterior, at one latent


class Place(NamedTuple):
    """Where chains are, z [C, B, Z]: ln q(z) and ln p(z) p(x|z), [C, B] nats, with their gradients."""

    z: Tensor
    low: Tensor
    low_slope: Tensor
    high: Tensor
    high_slope: Tensor

    def slope(self, t: float) -> Tensor:
        """Give the gradient at temperature t."""
        return (1 - t) * self.low_slope + t * self.high_slope


@dataclass(frozen=True)
class Path:
    """The densities q^(1−t)·(p(z) p(x|z))^t of images [B, D], for t from 0 to 1."""

    score: Score
    prior: Prior
    q: Q
    images: Tensor
    generator: torch.Generator

    def noise(self) -> Tensor:
        """Draw standard normal noise for z or for momenta."""
        shape, device = (CHAINS, *self.q.mean.shape), self.generator.device
        return torch.randn(shape, generator=self.generator, device=device).to(self.q.mean.device)

    def at(self, z: Tensor) -> Place:
        """Compute both ends' densities of z [C, B, Z]."""
        z = z.detach().requires_grad_()
        high = self.score(z, self.images) + self.prior.log_prob(z)
        (slope,) = torch.autograd.grad(high.sum(), z)
        z = z.detach()
        return Place(z, self.q.log_prob(z), (self.q.mean - z) / self.q.scale.square(), high.detach(), slope)

    def move(self, place: Place, t: float) -> Place:
        """Move chains at temperature t by leapfrogs, each accepted or left where it is (Neal 2011, 3.2)."""
        step = STEP * self.q.scale.shape[-1] ** -0.25 * self.q.scale
        momentum = velocity = self.noise()
        new = place
        for _ in range(LEAPFROGS):
            velocity = velocity + 0.5 * step * new.slope(t)
            new = self.at(new.z + step * velocity)
            velocity = velocity + 0.5 * step * new.slope(t)
        gain = (1 - t) * (new.low - place.low) + t * (new.high - place.high)
        gain = gain - 0.5 * (velocity.square() - momentum.square()).sum(-1)
        uniform = torch.rand(gain.shape, generator=self.generator, device=self.generator.device)
        take = uniform.to(gain.device).log() < gain  # not where it is NaN
        pairs = zip(new, place, strict=True)
        return Place(*(torch.where(take[..., None] if a.ndim > take.ndim else take, a, b) for a, b in pairs))


@torch.enable_grad()
def annealed(
    score: Score,
    prior: Prior,
    q: Q,
    images: Tensor,
    generator: torch.Generator,
    temperatures: int,
    exact: Tensor | None = None,
) -> Tensor:
    """Anneal from q(z) to p(z) p(x|z) of images [B, D] by Hamiltonian Monte Carlo: ln w, [C, B], nats.

    The log-mean-exp of ln w over chains bounds ln p(x) from below in expectation (Neal 2001; Wu et al. 2017,
    section 2.1). With `exact` posterior samples [B, Z] chains run backwards from them, and the negative
    log-mean-exp of −ln w bounds it from above: bidirectional Monte Carlo (Grosse et al. 2015, section 3).

    Momenta have the precision of q, and the step shrinks with the number of latents as Z^(−1/4). All images
    go at once: give it hundreds, not thousands.
    """
    path = Path(score, prior, q, images, generator)
    # Half a cosine: slow at both ends, where the density changes most
    t = 0.5 - 0.5 * torch.cos(torch.linspace(0, math.pi, temperatures + 1, dtype=torch.float64))
    t = t if exact is None else t.flip(0)
    z = q.sample(path.noise()) if exact is None else exact.expand(CHAINS, *exact.shape)
    place = path.at(z)
    weight = torch.zeros_like(place.low)
    for last, now in zip(t[:-1].tolist(), t[1:].tolist(), strict=True):
        weight += (now - last) * (place.high - place.low)
        place = path.move(place, now)
    return weight if exact is None else -weight
