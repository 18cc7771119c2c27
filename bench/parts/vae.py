"""The VAE: parts composed, and what one pass says about a batch.

Shapes: K samples, B images, D pixels, Z latents. Grey images x [B, D] in [0, 1] go in; log-probabilities come
out, per sample and image. Objectives and metrics are arithmetic on those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.parts.files import part_class
from bench.parts.likelihoods import LIKELIHOODS, Likelihood
from bench.parts.networks import DECODERS, ENCODERS
from bench.parts.pixels import PIXELS, Pixels
from bench.parts.posteriors import POSTERIORS, Posterior, Q
from bench.spec.experiment import Part, Run

PIXEL_COUNT = 784


@dataclass(frozen=True)
class Pass:
    """One training pass over a batch, one z an image.

    The two terms of the loss as the run's document charges them.
    """

    reconstruction: Tensor  # [B], the likelihood's reconstruction loss
    charged_kl: Tensor  # [B], nats


class VAE(nn.Module):
    """Encoder, posterior, decoder and likelihood of one run."""

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        posterior: Posterior,
        likelihood: Likelihood,
        input_pixels: Pixels,
        target_pixels: Pixels,
        latent: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.posterior = posterior
        self.likelihood = likelihood
        self.input = input_pixels
        self.target = target_pixels
        self.latent = latent

    def encode(self, x: Tensor) -> Q:
        """q(z|x) of grey images x [B, D]."""
        mean, second = self.encoder(self.input(x))
        # Autocast rounds the networks' products, never the sums over pixels and latents
        return self.posterior(mean.to(x.dtype), second.to(x.dtype))

    def decode(self, z: Tensor) -> Tensor:
        """The likelihood's parameters [..., D] for latents z [..., Z]."""
        return self.decoder(z).to(z.dtype)  # type: ignore[no-any-return]

    def grey_mean(self, output: Tensor) -> Tensor:
        """m(z): E[x|z] in grey levels, [..., D] in [0, 1]."""
        return self.target.to_grey(self.likelihood.mean(output))

    def forward(self, x: Tensor, noise: Tensor) -> Pass:
        """The loss's two terms for grey images x [B, D] and standard normal noise [B, Z]."""
        q = self.encode(x)
        output = self.decode(q.sample(noise))
        return Pass(self.likelihood.reconstruction_loss(output, self.target(x)), q.charged_kl.sum(-1))


def build(run: Run) -> VAE:
    """The untrained model of a run, on the CPU, initialised from torch's global generator.

    Raises ValueError where options do not fit together (the spec has checked each alone).
    """
    sizes = (PIXEL_COUNT, run.latent)
    return VAE(
        _make(ENCODERS, run.encoder, *sizes),
        _make(DECODERS, run.decoder, *sizes),
        part_class(POSTERIORS, run.posterior),
        _make(LIKELIHOODS, run.likelihood),
        _make(PIXELS, run.input),
        _make(PIXELS, run.target),
        run.latent,
    ).to(memory_format=torch.channels_last)


def parameter_count(model: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(p.numel() for p in model.parameters())


def likelihood_class(model: VAE) -> str:
    """The class inside which own-terms numbers may be compared: same observation model, same target."""
    return f"{model.likelihood.words}, {model.target.words}"


def _make(registry: dict[str, Any], part: Part, *sizes: int) -> Any:
    return part_class(registry, part)(*sizes, **part.options)
