"""A model judged in its own terms: its loss as written, and the bound under the likelihood that it implies.

Shapes: K samples of z an image, N images of a set, B of a batch, D pixels, Z latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.engine.device import evaluation_noise, wide
from bench.parts.protocols import Objective, TwoTermObjective
from bench.parts.vae import VAE
from bench.spec.experiment import Run

CHUNK = 1000  # images a pass: a few MB, whatever the size of the set


@dataclass(frozen=True)
class OwnTerms:
    """Averages over images. `elbo` = −(reconstruction + kl); the rest as METRICS describes them.

    What is not defined is NaN: `kl` and `elbo` of a q(z|x) without a density.
    """

    test_loss: float
    test_loss_nats: float | None  # None of an objective that does not say what its KL weighs
    elbo: float
    reconstruction: float
    kl: float
    # what the loss is made of, to say which term stopped being finite
    loss_reconstruction: float
    loss_kl: float


def samples_of(objective: Objective) -> int:
    """Give the number of z that an objective asks for an image."""
    return int(getattr(objective, "samples", 1))


def own_noise(run: Run, objective: Objective, count: int, device: torch.device) -> Tensor:
    """Draw the noise [K, N, Z] that a set is judged with: the same each epoch and in every variant."""
    samples = samples_of(objective)
    return evaluation_noise(run.seed, samples * count, run.latent, device).view(samples, count, -1)


def own_terms(
    model: VAE,
    objective: Objective,
    images: Tensor,
    noise: Tensor,
    batch_size: int,
    seen: int = 0,
    drawn: Tensor | None = None,
) -> OwnTerms:
    """Judge a model on uint8 images [N, D], with z made of standard normal noise [K, N, Z].

    `seen` counts the images that it was trained on, for an objective that changes with them. `drawn` are the
    images as drawn for a target that is.
    """
    means = term_means(model, objective, images, noise, batch_size, seen, drawn).tolist()
    return in_words(means, model, objective, images.shape[-1], batch_size)


@torch.no_grad()
def term_means(
    model: VAE,
    objective: Objective,
    images: Tensor,
    noise: Tensor,
    batch_size: int,
    seen: int = 0,
    drawn: Tensor | None = None,
) -> Tensor:
    """Average what `in_words` is told over uint8 images [N, D]: [5], on the device.

    The model is judged in eval mode and left in the mode it came in. An objective "SSE/(2σ²) + β·KL" implies
    a Gaussian of variance β·σ², normalised and brought to grey levels by −D·ln(scale); a Bernoulli implies
    itself at β = 1. A stacked model judges its R replicas at once: noise [1, R, N, Z], images [N, D] or
    [R, N, D], averages [R, 5].
    """
    was_training = model.training
    model.eval()
    count, pixels = images.shape[-2:]
    two_terms = isinstance(objective, TwoTermObjective)
    # Others may compare a batch's images, or take K samples of each: they are judged as they are trained
    chunk = CHUNK if two_terms else min(CHUNK, batch_size)
    implied, tempered = model.likelihood, getattr(model.likelihood, "tempered", None)
    if isinstance(objective, TwoTermObjective) and tempered:
        implied = tempered(objective.beta_eff(batch_size, pixels, model.latent))
    jacobian = pixels * math.log(model.target.scale)
    sums = torch.zeros(*noise.shape[1:-2], 5, dtype=wide(images.device), device=images.device)
    for start in range(0, count, chunk):
        grey = images[..., start : start + chunk, :].float() / 255
        due = None if drawn is None else drawn[start : start + chunk].float() / 255
        terms = model(grey, noise[..., start : start + chunk, :], due)
        reconstruction = terms.reconstruction_loss.mean(0)
        undefined = torch.full_like(reconstruction, math.nan)
        kept = (
            reconstruction,
            terms.charged_kl if terms.has_rate else torch.zeros_like(reconstruction),
            -implied.log_prob(terms.output, terms.target).mean(0) + jacobian,
            terms.rate if terms.has_rate else undefined,
            torch.zeros_like(reconstruction) if two_terms else objective(terms, seen),
        )
        sums += torch.stack([term.to(sums.dtype).sum(-1) for term in kept], -1)
    model.train(was_training)
    return sums / count


def in_words(
    means: Sequence[float], model: VAE, objective: Objective, pixels: int, batch_size: int
) -> OwnTerms:
    """Name what `term_means` gave of one model."""
    loss_reconstruction, loss_kl, reconstruction, kl, loss = means
    whole, nats = losses(objective, (loss_reconstruction, loss_kl, loss), batch_size, pixels, model.latent)
    return OwnTerms(whole, nats, -(reconstruction + kl), reconstruction, kl, loss_reconstruction, loss_kl)


def losses(
    objective: Objective, means: Sequence[float], batch_size: int, pixels: int, latent: int
) -> tuple[float, float | None]:
    """Give the loss as written and in nats per image, of average reconstruction loss, KL and loss.

    The second is None of an objective that does not say what its KL weighs.
    """
    if not isinstance(objective, TwoTermObjective):
        return means[2], None
    reconstruction, kl, sizes = means[0], means[1], (batch_size, pixels, latent)
    return objective.as_written(reconstruction, kl, *sizes), reconstruction + objective.beta_eff(*sizes) * kl
