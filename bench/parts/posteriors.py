"""q(z|x): what the encoder's two heads mean, and the distribution that z is really drawn from.

Every posterior here is a diagonal Gaussian `Q`. They differ in how the scale is made of the second head, and
in the KL that the document's loss charges.

Shapes: B images, Z latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True)
class Q:
    """A diagonal Gaussian N(mean, scale²) for each image, as z is really drawn."""

    mean: Tensor  # [B, Z]
    scale: Tensor  # [B, Z], positive
    log_scale: Tensor  # [B, Z]
    charged_kl: Tensor  # [B, Z], nats for each latent: what training pays

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
    scale = log_scale.exp()
    charged_kl = 0.5 * (mean**2 + scale**2 - 1) - log_scale
    return Q(mean, scale, log_scale, charged_kl)


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
    log_scale = torch.log(scale)
    return Q(mean, scale, log_scale, 0.5 * (mean**2 + scale**2 - 1) - log_scale)


POSTERIORS = {
    "gaussian": gaussian,
    "gaussian-log-sigma": gaussian_log_sigma,
    "gaussian-softplus": gaussian_softplus,
    "gaussian-raw-sigma": gaussian_raw_sigma,
}
