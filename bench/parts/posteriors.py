"""q(z|x): what the encoder's two heads mean, and the distribution that z is really drawn from.

Every posterior here is a diagonal Gaussian `Q`. They differ in how the scale is made of the second head, and
in the KL that the document's loss charges.

Shapes: B images, Z latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
