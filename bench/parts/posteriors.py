"""q(z|x): what the encoder's two heads mean, and the distribution that z is really drawn from.

Shapes: B images, Z latents, K samples. Every posterior here is a diagonal Gaussian `Q`; what differs is how
its scale is made of the second head, and which KL the documented objective charges for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Q:
    """A batch of diagonal Gaussians N(mean, scale²), as really sampled.

    `charged_kl` is what training pays for it.
    """

    mean: Tensor  # [B, Z]
    scale: Tensor  # [B, Z], positive
    log_scale: Tensor  # [B, Z]
    charged_kl: Tensor  # [B, Z], nats per unit

    def sample(self, noise: Tensor) -> Tensor:
        """Draw z = mean + scale·noise of standard normal noise [..., B, Z] (Kingma & Welling 2013, 2.4)."""
        return torch.addcmul(self.mean, self.scale, noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """ln q(z|x) of z [..., B, Z], summed over latents: [..., B], nats."""
        standard = (z - self.mean) / self.scale
        return (-0.5 * standard**2 - self.log_scale).sum(-1) - 0.5 * math.log(2 * math.pi) * z.shape[-1]

    def kl(self) -> Tensor:
        """KL(q(z|x) ‖ N(0, I)) in closed form, nats per unit [B, Z] (Kingma & Welling 2013, appendix B)."""
        return 0.5 * (self.mean**2 + self.scale**2 - 1) - self.log_scale


def log_prior(z: Tensor) -> Tensor:
    """ln N(z; 0, I) of z [..., Z], summed over latents: [...], nats."""
    return -0.5 * (z**2).sum(-1) - 0.5 * math.log(2 * math.pi) * z.shape[-1]


def gaussian(mean: Tensor, second: Tensor) -> Q:
    """N(mean, σ²) with the second head as ln σ²."""
    log_scale = 0.5 * second
    scale = log_scale.exp()
    charged_kl = 0.5 * (mean**2 + scale**2 - 1) - log_scale
    return Q(mean, scale, log_scale, charged_kl)


def gaussian_raw_sigma(mean: Tensor, second: Tensor) -> Q:
    """N(mean, σ⁴) with the second head as a raw σ, charged the KL of N(mean, σ²) (document 000).

    σ has any sign; z = mean + σ²·noise is the document's slip: the noise is scaled by σ² instead of σ.
    """
    variance = second**2
    charged_kl = 0.5 * (mean**2 + variance - torch.log(variance + 1e-20) - 1)  # the document's own eps
    return Q(mean, variance, torch.log(variance), charged_kl)


Posterior = Callable[[Tensor, Tensor], Q]

POSTERIORS = {"gaussian": gaussian, "gaussian-raw-sigma": gaussian_raw_sigma}
