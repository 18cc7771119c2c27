"""p(z): the distribution that new images are drawn from, and that the KL is measured against."""

from __future__ import annotations

import math

from torch import Tensor


class StandardNormal:
    """N(0, I), for which posteriors know their KL in closed form."""

    def sample(self, noise: Tensor) -> Tensor:
        """Draw z from standard normal noise, which it is: [..., Z]."""
        return noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute ln N(z; 0, I) of z [..., Z], summed over latents: [...], nats."""
        return -0.5 * (z**2).sum(-1) - 0.5 * math.log(2 * math.pi) * z.shape[-1]
