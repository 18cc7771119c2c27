"""p(z): the distribution that new images are drawn from, and that the KL is measured against.

Shapes: C components, D pixels, Z latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.parts.posteriors import Q, gaussian, log_prob_pairs
from bench.spec.options import PositiveInt

CHUNK = 1000  # pseudo-inputs encoded at a time to draw from


class StandardNormal:
    """N(0, I), for which posteriors know their KL in closed form."""

    def sample(self, noise: Tensor) -> Tensor:
        """Draw z from standard normal noise, which it is: [..., Z]."""
        return noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute ln N(z; 0, I) of z [..., Z], summed over latents: [...], nats."""
        return -0.5 * (z**2).sum(-1) - 0.5 * math.log(2 * math.pi) * z.shape[-1]


class Mixture(nn.Module):
    """A learned mixture of diagonal Gaussians: weights, means and scales."""

    def __init__(self, latent: int, *, components: PositiveInt = 10) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent))
        self.log_scales = nn.Parameter(torch.zeros(components, latent))

    def components(self) -> Q:
        """Give the Gaussians, C of them."""
        return gaussian(self.means, 2 * self.log_scales)

    def sample(self, noise: Tensor) -> Tensor:
        """Draw z [..., Z] from standard normal noise."""
        index, fresh = choose(noise, self.logits)
        return torch.addcmul(self.means[index], self.log_scales[index].exp(), fresh)

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute ln p(z) of z [..., Z]: [...], nats."""
        pairs = log_prob_pairs(self.components(), z, len(self.means))
        return (pairs + self.logits.log_softmax(0)).logsumexp(-1)


class Vamp(nn.Module):
    """The VampPrior: the mean of q(z|u) over learned pseudo-inputs u.

    p(z) = 1/C Σ q(z|u_c) (Tomczak & Welling 2018, eq. 9). Pseudo-inputs are images of grey levels in (0, 1),
    kept there by a sigmoid; where the encoder is shown black or white they are greys between.
    """

    def __init__(self, shape: tuple[int, ...], *, components: PositiveInt = 500) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.randn(components, math.prod(shape)))  # logits of grey levels
        self._encode: Callable[[Tensor], Any] | None = None
        self._kept: Any = None

    def attach(self, encode: Callable[[Tensor], Any]) -> None:
        """Take the model's encoder: of images u [C, D] in [0, 1] it gives q(z|u)."""
        self._encode = encode

    def train(self, mode: bool = True) -> Vamp:
        """Change the mode; in eval mode the pseudo-inputs are encoded once."""
        self._kept = None
        return super().train(mode)

    def posteriors(self, index: Tensor | slice = slice(None)) -> Any:
        """Encode pseudo-inputs: q(z|u), a Distribution of as many."""
        assert self._encode is not None  # noqa: S101  the VAE that has this prior attaches it
        return self._encode(torch.sigmoid(self.inputs[index]))

    def sample(self, noise: Tensor) -> Tensor:
        """Draw z [..., Z] from standard normal noise."""
        index, fresh = choose(noise.reshape(-1, noise.shape[-1]), self.inputs.new_zeros(len(self.inputs)))
        rows = zip(index.split(CHUNK), fresh.split(CHUNK), strict=True)
        return torch.cat([self.posteriors(i).sample(n) for i, n in rows]).view_as(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute ln p(z) of z [..., Z]: [...], nats."""
        if self.training:
            q = self.posteriors()
        else:
            if self._kept is None:
                with torch.no_grad():
                    self._kept = self.posteriors()
            q = self._kept
        pairs = log_prob_pairs(q, z, len(self.inputs))
        return pairs.logsumexp(-1) - math.log(len(self.inputs))


def choose(noise: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Choose a component for each row of standard normal noise [..., Z]: its index [...], and fresh noise.

    The first number decides, by its place in the unit interval; where in the component's share it fell is
    uniform again, and becomes the first number of the fresh noise. So no other random numbers are needed.
    """
    share = logits.detach().cpu().double().softmax(0)
    ends = share.cumsum(0)
    place = torch.special.ndtr(noise[..., 0].cpu().double())
    index = torch.searchsorted(ends, place, right=True).clamp(max=len(share) - 1)
    within = ((place - (ends - share)[index]) / share[index]).clamp(1e-12, 1 - 1e-12)
    first = torch.special.ndtri(within).to(noise).unsqueeze(-1)
    return index.to(noise.device), torch.cat([first, noise[..., 1:]], -1)


PRIORS = {"standard": StandardNormal, "mixture": Mixture, "vamp": Vamp}
