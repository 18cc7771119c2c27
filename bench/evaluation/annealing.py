"""ln p(x) by annealed importance sampling, and how far it may still be from the truth.

Shapes: C chains of each image, B images, Z latents, D pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.evaluation.refit import Normals, Score, chunks
from bench.parts.protocols import Prior

CHAINS = 4
LEAPFROGS = 3
STEP = 1.2  # of a leapfrog, in scales of the refitted posterior, at one latent


@torch.enable_grad()
def annealed(
    score: Score,
    prior: Prior,
    q: Normals,
    images: Tensor,
    generator: torch.Generator,
    temperatures: int,
    exact: Tensor | None = None,
) -> Tensor:
    """Anneal from q(z) to p(z) p(x|z) of images [B, D] by Hamiltonian Monte Carlo: ln w, [C, B], nats.

    The log-mean-exp of ln w over chains bounds ln p(x) from below in expectation (Neal 2001; Wu et al. 2017,
    section 2.1). With `exact` posterior samples [B, Z] chains run backwards from them, and the negative
    log-mean-exp of −ln w bounds it from above: bidirectional Monte Carlo (Grosse et al. 2015, section 3).

    The path is q^(1−t)·(p(z) p(x|z))^t, its momenta have the precision of q, and the step shrinks with the
    number of latents as Z^(−1/4).
    """
    found = [
        _chains(
            score, prior, q.part(i), images[i], generator, temperatures, None if exact is None else exact[i]
        )
        for i in chunks(len(images), CHAINS)
    ]
    return torch.cat(found, 1)


def _chains(
    score: Score,
    prior: Prior,
    q: Normals,
    images: Tensor,
    generator: torch.Generator,
    temperatures: int,
    exact: Tensor | None,
) -> Tensor:
    scale = q.log_scale.exp()
    step = STEP * scale.shape[-1] ** -0.25 * scale
    shape = (CHAINS, *scale.shape)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device).to(scale.device)

    def ends(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give ln q and ln p(z) p(x|z) with their gradients."""
        z = z.detach().requires_grad_()
        posterior = score(z, images) + prior.log_prob(z)
        (slope,) = torch.autograd.grad(posterior.sum(), z)
        z = z.detach()
        return q.log_prob(z), (q.mean - z) / scale.square(), posterior.detach(), slope

    # Half a cosine: slow at both ends, where the density changes most
    path = 0.5 - 0.5 * torch.cos(torch.linspace(0, math.pi, temperatures + 1, dtype=torch.float64))
    path = path if exact is None else path.flip(0)
    z = q.sample(normal()) if exact is None else exact.expand(shape)
    low, low_slope, high, high_slope = ends(z)
    weight = torch.zeros(shape[:2], dtype=low.dtype, device=low.device)
    for last, t in zip(path[:-1].tolist(), path[1:].tolist(), strict=True):
        weight += (t - last) * (high - low)
        # Leapfrogs at temperature t, then accept or stay
        momentum = normal()
        moved, new = z, (low, low_slope, high, high_slope)
        velocity = momentum
        for _ in range(LEAPFROGS):
            velocity = velocity + 0.5 * step * ((1 - t) * new[1] + t * new[3])
            moved = moved + step * velocity
            new = ends(moved)
            velocity = velocity + 0.5 * step * ((1 - t) * new[1] + t * new[3])
        gain = (1 - t) * (new[0] - low) + t * (new[2] - high)
        gain = gain - 0.5 * (velocity.square() - momentum.square()).sum(-1)
        uniform = torch.rand(shape[:2], generator=generator, device=generator.device).to(gain.device)
        take = uniform.log() < gain  # not where it is NaN
        z = torch.where(take[..., None], moved, z)
        low, high = torch.where(take, new[0], low), torch.where(take, new[2], high)
        low_slope = torch.where(take[..., None], new[1], low_slope)
        high_slope = torch.where(take[..., None], new[3], high_slope)
    return weight if exact is None else -weight
