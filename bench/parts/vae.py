"""The VAE: one model composed of parts.

Shapes: K samples of z an image, B images, D pixels, Z latents. Grey images x [B, D] in [0, 1] go in; terms of
a loss come out, of each sample and image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.parts.lookup import called, encoder_for, make, prior_of
from bench.parts.pixels import AsTarget
from bench.parts.priors import StandardNormal
from bench.parts.protocols import (
    Decoder,
    Distribution,
    Encoder,
    Likelihood,
    LossTerms,
    Model,
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
        self._attach()

    def _attach(self) -> None:
        if attach := getattr(self.prior, "attach", None):
            attach(self.encode_between)

    def encode(self, x: Tensor) -> Distribution:
        """Compute q(z|x) of grey images x [B, D]."""
        return self.encode_shown(self.input(x))

    def encode_shown(self, x: Tensor) -> Distribution:
        """Compute q(z|x) of images as the encoder is shown them, [B, D]."""
        # Autocast rounds the networks' products, never the sums over pixels and latents
        return self.posterior(*(head.to(x.dtype) for head in self.encoder(x)))

    def encode_between(self, u: Tensor) -> Distribution:
        """Compute q(z|u) of images u [B, D] that lie so far between what `input` makes of black and white.

        Of grey images, normalised or not, it is `encode`. A threshold has no gradient, so a prior that learns
        its images is given this.
        """
        black, white = (self.input(grey) for grey in (torch.zeros_like(u[:1]), torch.ones_like(u[:1])))
        return self.encode_shown(torch.lerp(black, white, u))

    def decode(self, z: Tensor) -> Tensor:
        """Compute the likelihood's parameters [..., D] of latents z [..., Z]."""
        return self.decoder(z).to(z.dtype)

    def grey_mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z] in grey levels of the decoder's output: [..., D] in [0, 1]."""
        return self.target.to_grey(self.likelihood.mean(output))

    def forward(self, x: Tensor, noise: Tensor, drawn: Tensor | None = None) -> LossTerms:
        """Compute the terms of a loss for grey images x [B, D] and standard normal noise [K, B, Z].

        A target that is drawn is made of `drawn` [B, D] in place of x; so is an input that is the target.
        """
        due = x if drawn is None else drawn
        q = self.encode(due if self.input is self.target else x)
        z = q.sample(noise)
        return LossTerms(q, z, self.decode(z), self.target(due), self.likelihood, self.prior)


class WholeModel(VAE):
    """A model of the user's own, with what bench composes beside it: input, target, likelihood, prior.

    Its own `prior`, where it has one, is the prior.
    """

    def __init__(
        self,
        model: Model,
        likelihood: Likelihood,
        input_pixels: Pixels,
        target_pixels: Pixels,
        latent: int,
        prior: Prior | None = None,
    ) -> None:
        nn.Module.__init__(self)
        if not isinstance(model, nn.Module):
            raise TypeError(f"{type(model).__name__} is no torch.nn.Module")
        self.model = model
        own = getattr(model, "prior", None)
        if own and prior:
            raise ValueError("the model has a prior of its own; leave `prior` out")
        self.prior = own or prior or StandardNormal()
        self.likelihood = likelihood
        self.input = input_pixels
        self.target = target_pixels
        self.latent = latent
        self._attach()

    def encode_shown(self, x: Tensor) -> Distribution:
        """Ask the model for q(z|x) of images as `input` transforms them, [B, D]."""
        return self.model.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        """Ask the model for its output, the likelihood's parameters, of latents z [..., Z]."""
        return self.model.decode(z).to(z.dtype)

    def grey_mean(self, output: Tensor) -> Tensor:
        """Ask the model for E[x|z] in grey levels of its output: [..., D] in [0, 1]."""
        return self.model.grey_mean(output)


def build(run: Run, shape: Shape) -> VAE:
    """Make the untrained model of a run for images of a shape, on the CPU, from torch's global generator.

    Raises ValueError where options do not fit together or with the images (the spec has checked each alone).
    """
    shown, due = make("input", run.input), make("target", run.target)
    pixels = make("likelihood", run.likelihood), due if isinstance(shown, AsTarget) else shown, due
    if run.model:
        whole = make("model", run.model, shape, run.latent)
        made: VAE = WholeModel(whole, *pixels, run.latent, prior_of(run, shape))
    else:
        assert run.encoder and run.decoder and run.posterior  # noqa: S101, PT018  a run has either
        encoder = encoder_for(run.posterior, run.encoder, shape, run.latent)
        decoder = make("decoder", run.decoder, shape, run.latent)
        # Posterior and prior last: the networks of a seed begin the same under any
        posterior = called("posterior", run.posterior, latent=run.latent)
        made = VAE(encoder, decoder, posterior, *pixels, run.latent, prior_of(run, shape))
    return made.to(memory_format=torch.channels_last)


def parameter_count(model: nn.Module) -> int:
    """Count the numbers that training adjusts."""
    return sum(p.numel() for p in model.parameters())


def likelihood_class(model: VAE) -> str:
    """Name the class inside which own-terms numbers may be compared: same likelihood, same target."""
    name = getattr(model.likelihood, "label", type(model.likelihood).__name__)
    return f"{name}, {model.target.label}"
