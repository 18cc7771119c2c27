"""A posterior fitted to each image alone: how well the decoder could do with a better encoder.

Shapes: C images of a chunk, B images, K samples, Z latents, D pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bench.evaluation.posteriors import Posteriors, chunks, part_of, size_of
from bench.parts.posteriors import Q, gaussian
from bench.parts.protocols import Prior

STEPS = 40  # of Adam in a round, whose rate falls from RATE to 0 as a cosine
RATE = 0.08
ROUNDS = 6  # at most; a round that gains no more than ENOUGH is the last
ENOUGH = 1.0  # nats, mean over images
PAIRS = 1  # of noise and its negative, an image and step
ROWS = 1000  # decoded images at a time

Score = Callable[[Tensor, Tensor], Tensor]  # z [K, C, Z], images [C, D] -> ln p(image|z), nats, [K, C]


@torch.enable_grad()
def refit(score: Score, prior: Prior, start: Posteriors, images: Tensor, generator: torch.Generator) -> Q:
    """Fit a diagonal Gaussian to the true posterior of each image [B, D], from the moments of `start` on.

    Maximises the ELBO of each image by Adam (Cremer et al. 2018, section 3.2), in rounds until one gains
    little: an encoder that was trained with a small β starts far from the posterior.
    """
    fitted = []
    for part in chunks(len(images), 2 * PAIRS, ROWS):
        q, target = part_of(start, part), images[part]
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
    means, log_scales = (torch.cat(column) for column in zip(*fitted, strict=True))
    return gaussian(means, 2 * log_scales)


@torch.no_grad()
def log_weights(
    score: Score, prior: Prior, q: Posteriors, images: Tensor, samples: int, generator: torch.Generator
) -> Tensor:
    """Draw ln w = ln p(x|z) + ln p(z) − ln q(z) of K samples of each image [B, D]: [K, B], nats.

    Their mean over K is the ELBO, their log-mean-exp the importance-weighted bound.
    """
    found = []
    for part in chunks(len(images), samples, ROWS):
        here = part_of(q, part)
        noise = torch.randn((samples, *size_of(here)), generator=generator, device=generator.device)
        z = here.sample(noise.to(images.device))
        found.append(score(z, images[part]) + prior.log_prob(z) - here.log_prob(z))
    return torch.cat(found, 1)
