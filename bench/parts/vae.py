"""The VAE: one model composed of parts.

Shapes: K samples of z an image, B images, D pixels, Z latents. Grey images x [B, D] in [0, 1] go in; terms of
a loss come out, of each sample and image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.parts.lookup import make, posterior_of
from bench.parts.priors import StandardNormal
from bench.parts.protocols import (
    Decoder,
    Distribution,
    Encoder,
    Likelihood,
    LossTerms,
    Pixels,
    Posterior,
    Prior,
    Shape,
)
from bench.spec.experiment import Run


class VAE(nn.Module):
    """Encoder, posterior, prior, decoder and likelihood of one run, with what it is shown and asked for."""

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        posterior: Posterior,
        likelihood: Likelihood,
        input_pixels: Pixels,
        target_pixels: Pixels,
        latent: int,
        prior: Prior | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.posterior = posterior
        self.prior = prior or StandardNormal()
        self.likelihood = likelihood
        self.input = input_pixels
        self.target = target_pixels
        self.latent = latent

    def encode(self, x: Tensor) -> Distribution:
        """Compute q(z|x) of grey images x [B, D]."""
        # Autocast rounds the networks' products, never the sums over pixels and latents
        return self.posterior(*(head.to(x.dtype) for head in self.encoder(self.input(x))))

    def decode(self, z: Tensor) -> Tensor:
        """Compute the likelihood's parameters [..., D] of latents z [..., Z]."""
        return self.decoder(z).to(z.dtype)

    def grey_mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z] in grey levels of the decoder's output: [..., D] in [0, 1]."""
        return self.target.to_grey(self.likelihood.mean(output))

    def forward(self, x: Tensor, noise: Tensor) -> LossTerms:
        """Compute the terms of a loss for grey images x [B, D] and standard normal noise [K, B, Z]."""
        q = self.encode(x)
        z = q.sample(noise)
        return LossTerms(q, z, self.decode(z), self.target(x), self.likelihood, self.prior)


def build(run: Run, shape: Shape) -> VAE:
    """Make the untrained model of a run for images of a shape, on the CPU, from torch's global generator.

    Raises ValueError where options do not fit together or with the images (the spec has checked each alone).
    """
    return VAE(
        make("encoder", run.encoder, shape, run.latent),
        make("decoder", run.decoder, shape, run.latent),
        posterior_of(run),
        make("likelihood", run.likelihood),
        make("input", run.input),
        make("target", run.target),
        run.latent,
    ).to(memory_format=torch.channels_last)


def parameter_count(model: nn.Module) -> int:
    """Count the numbers that training adjusts."""
    return sum(p.numel() for p in model.parameters())


def likelihood_class(model: VAE) -> str:
    """Name the class inside which own-terms numbers may be compared: same likelihood, same target."""
    name = getattr(model.likelihood, "label", type(model.likelihood).__name__)
    return f"{name}, {model.target.label}"
