"""q(z|x): what the encoder's two heads mean, and the distribution that z is really drawn from.

Most posteriors here are a diagonal Gaussian `Q`. They differ in how the scale is made of the second head, and
in the KL that the document's loss charges.

Shapes: B images, Z latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from bench.errors import BenchError
from bench.spec.options import NonNegativeInt, Widths


@dataclass(frozen=True)
class Q:
    """A diagonal Gaussian N(mean, scale²) for each image, as z is really drawn."""

    mean: Tensor  # [B, Z]
    scale: Tensor  # [B, Z], positive
    log_scale: Tensor  # [B, Z]
    charged_kl: Tensor | None = None  # [B, Z], nats: what training pays for each latent, if not `kl()`

    def sample(self, noise: Tensor) -> Tensor:
        """Draw z = mean + scale·noise of standard normal noise [..., B, Z] (Kingma & Welling 2013, 2.4)."""
        return torch.addcmul(self.mean, self.scale, noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute ln q(z|x) of z [..., B, Z], summed over latents: [..., B], nats."""
        standard = (z - self.mean) / self.scale
        return (-0.5 * standard**2 - self.log_scale).sum(-1) - 0.5 * math.log(2 * math.pi) * z.shape[-1]

    def log_prob_each(self, z: Tensor) -> Tensor:
        """Compute ln q(z|x) of each latent alone, of z [..., B, Z]: [..., B, Z], nats."""
        standard = (z - self.mean) / self.scale
        return -0.5 * (standard**2 + math.log(2 * math.pi)) - self.log_scale

    def kl(self) -> Tensor:
        """Compute KL(q(z|x) ‖ N(0, I)), nats for each latent [B, Z] (Kingma & Welling 2013, appendix B)."""
        return 0.5 * (self.mean**2 + self.scale**2 - 1) - self.log_scale


def log_prob_pairs(q: Any, z: Tensor, count: int) -> Tensor:
    """Compute ln q(z|x_n) of every z [..., Z] under each of N = `count` posteriors: [..., N], nats.

    Of diagonal Gaussians by one matrix product, (z − μ)²/σ² = z²·(1/σ²) − 2z·(μ/σ²) + μ²/σ², and in double
    precision where the device has it, because squares cancel where a posterior is narrow.
    """
    if type(q) is not Q:
        pairs: Tensor = q.log_prob(z.unsqueeze(-2).expand(*z.shape[:-1], count, z.shape[-1]))
        return pairs
    exact = z.dtype if z.device.type == "mps" else torch.float64
    mean, scale, log_scale, wide = (t.to(exact) for t in (q.mean, q.scale, q.log_scale, z))
    precision = scale**-2
    constant = (mean**2 * precision + 2 * log_scale).sum(-1) + math.log(2 * math.pi) * z.shape[-1]
    weights = torch.cat([precision, -2 * mean * precision], 1).T  # [2Z, N]
    return (-0.5 * (torch.cat([wide**2, wide], -1) @ weights + constant)).to(z.dtype)


def gaussian(mean: Tensor, second: Tensor) -> Q:
    """N(mean, σ²) with the second head as ln σ²."""
    log_scale = 0.5 * second
    return Q(mean, log_scale.exp(), log_scale)


def gaussian_raw_sigma(mean: Tensor, second: Tensor) -> Q:
    """N(mean, σ⁴) with the second head as a raw σ, charged the KL of N(mean, σ²) (document 000).

    σ has any sign. The document's slip is z = mean + σ²·noise: the noise is scaled by σ² instead of σ.
    """
    variance = second**2
    charged_kl = 0.5 * (mean**2 + variance - torch.log(variance + 1e-20) - 1)  # the document's own eps
    return Q(mean, variance, torch.log(variance), charged_kl)


def gaussian_log_sigma(mean: Tensor, second: Tensor) -> Q:
    """N(mean, σ²) with the second head as ln σ."""
    return gaussian(mean, 2 * second)


def gaussian_softplus(mean: Tensor, second: Tensor) -> Q:
    """N(mean, σ²) with σ = ln(1 + e^second), the softplus of the second head."""
    scale = softplus(second)
    return Q(mean, scale, torch.log(scale))


@dataclass(frozen=True)
class FullQ:
    """A Gaussian N(mean, L·Lᵀ) of any covariance for each image."""

    mean: Tensor  # [B, Z]
    factor: Tensor  # L, [B, Z, Z]: lower triangular, of positive diagonal

    @property
    def stddev(self) -> Tensor:
        """The standard deviation of each latent, [B, Z]."""
        return self.factor.square().sum(-1).sqrt()

    def sample(self, noise: Tensor) -> Tensor:
        """Draw z = mean + L·noise of standard normal noise [..., B, Z]."""
        return self.mean + (self.factor @ noise.unsqueeze(-1)).squeeze(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute ln q(z|x) of z [..., B, Z]: [..., B], nats."""
        columns = (z - self.mean).reshape(-1, *self.mean.shape).permute(1, 2, 0)  # [B, Z, K]
        standard = torch.linalg.solve_triangular(self.factor, columns, upper=False)
        squares: Tensor = standard.square().sum(1).T.reshape(z.shape[:-1])
        determinant = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * squares - determinant - 0.5 * math.log(2 * math.pi) * z.shape[-1]

    def kl(self) -> Tensor:
        """Compute KL(q(z|x) ‖ N(0, I)) by the chain rule, each latent given those before: [B, Z], nats."""
        own = self.factor.diagonal(dim1=-2, dim2=-1)
        return 0.5 * (self.mean**2 + self.factor.square().sum(-1) - 1) - own.log()


class FullGaussian:
    """N(mean, L·Lᵀ) of any covariance, the second head ln L_ii² and then what is below L's diagonal."""

    @staticmethod
    def second_head(latent: int) -> int:
        """Count the numbers of the second head: Z on the diagonal and Z(Z − 1)/2 below it."""
        return latent * (latent + 1) // 2

    def __call__(self, mean: Tensor, second: Tensor) -> FullQ:
        """Make q of the heads, [B, Z] and [B, Z(Z + 1)/2]."""
        latent = mean.shape[-1]
        log_variance, below = second.split([latent, second.shape[-1] - latent], -1)
        factor = torch.diag_embed((0.5 * log_variance).exp())
        rows, columns = torch.tril_indices(latent, latent, -1, device=mean.device)
        return FullQ(
            mean,
            factor.index_put((torch.arange(len(mean), device=mean.device)[:, None], rows, columns), below),
        )


@dataclass(frozen=True)
class FlowQ:
    """A diagonal Gaussian sent through invertible transformations, the first of the list first."""

    base: Q
    transforms: Sequence[Any]  # torch's Transform, given the image

    def sample(self, noise: Tensor) -> Tensor:
        """Draw z [..., B, Z] of standard normal noise."""
        z = self.base.sample(noise)
        with torch.autocast(z.device.type, enabled=False):  # or the density would be another flow's
            for transform in self.transforms:
                z = transform(z)
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute ln q(z|x) of z [..., B, Z]: [..., B], nats."""
        volume = torch.zeros_like(z[..., 0])
        with torch.autocast(z.device.type, enabled=False):
            for transform in reversed(self.transforms):
                z, part = transform.inv.call_and_ladj(z)
                volume = volume + part
        return self.base.log_prob(z) + volume


class Flow(nn.Module):
    """A diagonal Gaussian through affine coupling layers, which see both heads; needs zuko.

    A normalising flow as a posterior (Rezende & Mohamed 2015), of the layers of RealNVP (Dinh et al. 2017).
    Each layer transforms one half of the latents by the other, in turns. Without layers it is `gaussian`.
    """

    def __init__(self, latent: int, *, layers: NonNegativeInt = 4, hidden: Widths = [64]) -> None:  # noqa: B006
        super().__init__()
        try:
            from zuko.nn import MLP
        except ImportError:
            what = "posterior flow needs the package zuko, which is not installed"
            raise BenchError(f"{what}; run: pip install 'bench-vae[flows]'") from None
        # Which latents a layer leaves: every second one, of a single one none
        self.kept = [[(z + i) % 2 == 1 and latent > 1 for z in range(latent)] for i in range(layers)]
        self.layers = nn.ModuleList(
            MLP(sum(kept) + 2 * latent, 2 * (latent - sum(kept)), hidden) for kept in self.kept
        )

    def forward(self, mean: Tensor, second: Tensor) -> FlowQ:
        """Make q of the heads, [B, Z] each: N(mean, σ²) with the second as ln σ² through the layers."""
        from zuko.transforms import CouplingTransform, DependentTransform, MonotonicAffineTransform

        context = torch.cat([mean, second], -1)

        def affine(network: nn.Module, kept: Tensor) -> Any:
            given = torch.cat([kept, context.expand(*kept.shape[:-1], -1)], -1)
            return DependentTransform(MonotonicAffineTransform(*network(given).chunk(2, -1)), 1)

        transforms = [
            CouplingTransform(partial(affine, network), torch.tensor(kept, device=mean.device))
            for network, kept in zip(self.layers, self.kept, strict=True)
        ]
        return FlowQ(gaussian(mean, second), transforms)


POSTERIORS: dict[str, Callable[..., Any]] = {
    "gaussian": gaussian,
    "gaussian-log-sigma": gaussian_log_sigma,
    "gaussian-softplus": gaussian_softplus,
    "gaussian-raw-sigma": gaussian_raw_sigma,
    "gaussian-full": FullGaussian,
    "flow": Flow,
}
