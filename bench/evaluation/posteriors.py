"""The posteriors of many images: diagonal Gaussians as tensors, any other kind as its images encoded again.

Shapes: K samples, N images, D pixels, Z latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from bench.engine.device import stream
from bench.parts.posteriors import Q
from bench.parts.priors import StandardNormal
from bench.parts.protocols import Distribution, Prior
from bench.parts.vae import VAE

MOMENTS = ("mean", "scale", "log_scale")  # of a diagonal Gaussian
CHUNK = 1000  # images encoded at a time
DRAWS = 128  # z an image, half of them of the other half's noise with its sign turned, for moments
AGGREGATED = 8  # z an image for those of all images together


@dataclass(frozen=True, eq=False)
class Encoded:
    """q(z|x) of images whose posteriors can be sampled, and are known beyond that by their moments.

    Distributions cannot be cut or joined, so images are encoded again where their posterior is asked for.
    """

    model: VAE
    images: Tensor  # [N, D], uint8, or grey in [0, 1]

    def each(self) -> Iterator[tuple[slice, Distribution]]:
        """Encode chunk by chunk: which images, and their q."""
        for part in chunks(len(self.images), 1, CHUNK):
            yield part, self.model.encode(grey(self.images[part]))

    def sample(self, noise: Tensor) -> Tensor:
        """Draw z of standard normal noise [..., N, Z]."""
        return torch.cat([q.sample(noise[..., part, :]) for part, q in self.each()], -2)

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute ln q(z|x) of z [..., N, Z]: [..., N], nats."""
        return torch.cat([q.log_prob(z[..., part, :]) for part, q in self.each()], -1)

    @cached_property
    @torch.no_grad()
    def dense(self) -> bool:
        """Whether q(z|x) has a density, and not samples alone."""
        return hasattr(next(self.each())[1], "log_prob")

    @property
    def mean(self) -> Tensor:
        """E_q z, [N, Z]: as q knows it, or of DRAWS samples."""
        return self._moments[0]

    @property
    def scale(self) -> Tensor:
        """The standard deviation of each latent under q, [N, Z]."""
        return self._moments[1]

    @property
    def log_scale(self) -> Tensor:
        """Its logarithm."""
        return self.scale.log()

    @cached_property
    @torch.no_grad()
    def _moments(self) -> tuple[Tensor, Tensor]:
        # One noise for all images: what it leaves in the means does not vary over them
        half = torch.randn(DRAWS // 2, 1, self.model.latent, generator=stream(0, "moments"))
        noise = torch.cat([half, -half]).to(self.images.device)
        moments = []
        for part, q in self.each():
            if hasattr(q, "mean") and hasattr(q, "stddev"):
                moments.append((q.mean, q.stddev))
                continue
            z = q.sample(noise.expand(-1, part.stop - part.start, -1))
            moments.append((z.mean(0), z.std(0).clamp(min=torch.finfo(z.dtype).tiny)))
        means, scales = zip(*moments, strict=True)
        return torch.cat(means), torch.cat(scales)

    @torch.no_grad()
    def aggregate_moments(self) -> tuple[Tensor, Tensor]:
        """Estimate mean [Z] and covariance [Z, Z] of q(z) = (1/N) Σ q(z|x_n), of AGGREGATED z an image."""
        noise = torch.randn(AGGREGATED, *size_of(self), generator=stream(0, "aggregate"))
        z = self.sample(noise.to(self.images.device)).cpu().double().flatten(0, 1)
        return z.mean(0), z.T.cov(correction=0)


Posteriors = Q | Encoded
Kind = TypeVar("Kind", bound=Posteriors)


@torch.no_grad()
def encode(model: VAE, images: Tensor, chunk: int = CHUNK) -> Posteriors:
    """Give the posteriors of images [N, D], uint8 or grey in [0, 1], in chunks."""
    parts = []
    for part in images.split(chunk):
        q = model.encode(grey(part))
        if type(q) is not Q:
            return Encoded(model, images)
        parts.append(q)
    return Q(*(torch.cat([getattr(q, name) for q in parts]) for name in MOMENTS))


def part_of(q: Kind, part: slice | Tensor) -> Kind:
    """Give the posteriors of some images."""
    if isinstance(q, Encoded):
        return replace(q, images=q.images[part])
    return type(q)(*(getattr(q, name)[part] for name in MOMENTS))


def has_density(q: Posteriors) -> bool:
    """Tell whether q(z|x) has a density, and not samples alone."""
    return not isinstance(q, Encoded) or q.dense


def size_of(q: Posteriors) -> tuple[int, int]:
    """Say how many images and latents: (N, Z)."""
    if isinstance(q, Encoded):
        return len(q.images), q.model.latent
    return q.mean.shape[0], q.mean.shape[1]


@torch.no_grad()
def closed_kl(q: Posteriors, prior: Prior) -> Tensor | None:
    """Compute KL(q(z|x) ‖ p(z)) of each latent, [N, Z] nats, where both know it in closed form."""
    if type(prior) is not StandardNormal:
        return None
    if isinstance(q, Q):
        return q.kl()
    found = [each.kl() if hasattr(each, "kl") else None for _, each in q.each()]
    known = [kl for kl in found if kl is not None]
    return torch.cat(known) if len(known) == len(found) else None


def grey(images: Tensor) -> Tensor:
    """Give grey levels in [0, 1] of bytes; what is grey already stays."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def chunks(count: int, samples: int, rows: int) -> Iterator[slice]:
    """Slice `count` images such that samples times images stay near `rows`."""
    width = max(1, rows // samples)
    return (slice(start, min(start + width, count)) for start in range(0, count, width))
