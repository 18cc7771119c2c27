"""A model judged in its own terms.

Its loss as written, and the bound under the likelihood that its loss implies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.engine.device import wide
from bench.parts.objectives import Elbo
from bench.parts.vae import VAE

CHUNK = 1000  # images a pass: a few MB, whatever the size of the set


@dataclass(frozen=True)
class OwnTerms:
    """Averages over images. `elbo` = −(reconstruction + kl); the rest as METRICS describes them."""

    test_loss: float
    test_loss_nats: float
    elbo: float
    reconstruction: float
    kl: float
    # what the loss is made of, to say which term stopped being finite
    loss_reconstruction: float
    loss_kl: float


def own_terms(model: VAE, objective: Elbo, images: Tensor, noise: Tensor, batch_size: int) -> OwnTerms:
    """Own terms of uint8 images [N, D] with one z an image, made of standard normal noise [N, Z]."""
    means = term_means(model, objective, images, noise, batch_size).tolist()
    return in_words(means, model, objective, images.shape[-1], batch_size)


@torch.no_grad()
def term_means(model: VAE, objective: Elbo, images: Tensor, noise: Tensor, batch_size: int) -> Tensor:
    """What `in_words` is told: four averages over uint8 images [N, D], [4], on the device.

    The model is judged in eval mode and left in the mode it came in. An objective "SSE/(2σ²) + β·KL" implies
    a Gaussian of variance β·σ², normalised and brought to grey levels by −D·ln(scale); a Bernoulli implies
    itself at β = 1. A stacked model judges its R replicas at once: noise [R, N, Z], images [N, D] or
    [R, N, D], averages [R, 4].
    """
    was_training = model.training
    model.eval()
    count, pixels = images.shape[-2:]
    implied = model.likelihood.tempered(objective.beta_eff(batch_size, pixels, model.latent))
    jacobian = pixels * math.log(model.target.scale)
    sums = torch.zeros(*noise.shape[:-2], 4, dtype=wide(images.device), device=images.device)
    for start in range(0, count, CHUNK):
        grey = images[..., start : start + CHUNK, :].float() / 255
        q = model.encode(grey)
        output = model.decode(q.sample(noise[..., start : start + CHUNK, :]))
        target = model.target(grey)
        terms = (
            model.likelihood.reconstruction_loss(output, target),
            q.charged_kl.sum(-1),
            -implied.log_prob(output, target) + jacobian,
            q.kl().sum(-1),
        )
        sums += torch.stack([term.to(sums.dtype).sum(-1) for term in terms], -1)
    model.train(was_training)
    return sums / count


def in_words(means: list[float], model: VAE, objective: Elbo, pixels: int, batch_size: int) -> OwnTerms:
    """The own terms that `term_means` of one model stand for."""
    loss_reconstruction, loss_kl, reconstruction, kl = means
    return OwnTerms(
        test_loss=objective.as_written(loss_reconstruction, loss_kl, batch_size, pixels, model.latent),
        test_loss_nats=loss_reconstruction + objective.beta_eff(batch_size, pixels, model.latent) * loss_kl,
        elbo=-(reconstruction + kl),
        reconstruction=reconstruction,
        kl=kl,
        loss_reconstruction=loss_reconstruction,
        loss_kl=loss_kl,
    )
