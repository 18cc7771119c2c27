"""A posterior fitted to each image alone: how well the decoder could do with a better encoder.

Shapes: C images of a chunk, B images, K samples, Z latents, D pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.parts.posteriors import Q
from bench.parts.protocols import Prior

STEPS = 40  # of Adam in a round, whose rate falls from RATE to 0 as a cosine
RATE = 0.08
ROUNDS = 6  # at most; a round that gains no more than ENOUGH is the last
ENOUGH = 1.0  # nats, mean over images
PAIRS = 1  # of noise and its negative, an image and step
ROWS = 1000  # decoded images at a time

Score = Callable[[Tensor, Tensor], Tensor]  # z [K, C, Z], images [C, D] -> ln p(image|z), nats, [K, C]


@dataclass(frozen=True)
class Normals:
    """A diagonal Gaussian for each image: mean and log_scale, [B, Z]."""

    mean: Tensor
    log_scale: Tensor

    @classmethod
    def of(cls, q: Q) -> Normals:
        """Take the encoder's posterior."""
        return cls(q.mean, q.log_scale)

    def sample(self, noise: Tensor) -> Tensor:
        """Draw z [..., B, Z] from standard normal noise [..., B, Z]."""
        return self.mean + self.log_scale.exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute ln q(z), summed over latents: [..., B], nats."""
        standard = (z - self.mean) * (-self.log_scale).exp()
        constant = 0.5 * math.log(2 * math.pi) * z.shape[-1]
        return -0.5 * standard.square().sum(-1) - self.log_scale.sum(-1) - constant

    def part(self, part: slice | Tensor) -> Normals:
        """Give those of some images."""
        return Normals(self.mean[part], self.log_scale[part])


@torch.enable_grad()
def refit(score: Score, prior: Prior, start: Normals, images: Tensor, generator: torch.Generator) -> Normals:
    """Fit a diagonal Gaussian to the true posterior of each image [B, D], beginning at `start`.

    Maximises the ELBO of each image by Adam (Cremer et al. 2018, section 3.2), in rounds until one gains
    little: an encoder that was trained with a small β starts far from the posterior.
    """
    fitted = []
    for part in chunks(len(images), 2 * PAIRS):
        q, target = start.part(part), images[part]
        mean, log_scale = (t.clone().requires_grad_() for t in (q.mean, q.log_scale))
        reached = -math.inf
        for _ in range(ROUNDS):
            adam = torch.optim.Adam([mean, log_scale], lr=RATE)
            for step in range(STEPS):
                adam.param_groups[0]["lr"] = 0.5 * RATE * (1 + math.cos(math.pi * step / STEPS))
                noise = torch.randn((PAIRS, *mean.shape), generator=generator, device=generator.device)
                z = mean + log_scale.exp() * torch.cat([noise, -noise]).to(mean.device)
                elbo = (score(z, target) + prior.log_prob(z)).mean(0) + log_scale.sum(-1)
                mean.grad, log_scale.grad = torch.autograd.grad(-elbo.sum(), [mean, log_scale])
                adam.step()
            now = float(elbo.detach().mean())
            gained, reached = now - reached, now
            if gained < ENOUGH:
                break
        fitted.append((mean.detach(), log_scale.detach()))
    return Normals(*(torch.cat(column) for column in zip(*fitted, strict=True)))


@torch.no_grad()
def log_weights(
    score: Score, prior: Prior, q: Normals, images: Tensor, samples: int, generator: torch.Generator
) -> Tensor:
    """Draw ln w = ln p(x|z) + ln p(z) − ln q(z) of K samples of each image [B, D]: [K, B], nats.

    Their mean over K is the ELBO, their log-mean-exp the importance-weighted bound.
    """
    found = []
    for part in chunks(len(images), samples):
        here = q.part(part)
        noise = torch.randn((samples, *here.mean.shape), generator=generator, device=generator.device)
        z = here.sample(noise.to(here.mean.device))
        found.append(score(z, images[part]) + prior.log_prob(z) - here.log_prob(z))
    return torch.cat(found, 1)


def chunks(count: int, samples: int) -> Iterator[slice]:
    """Slice `count` images such that samples times images stay near ROWS."""
    width = max(1, ROWS // samples)
    return (slice(start, min(start + width, count)) for start in range(0, count, width))
