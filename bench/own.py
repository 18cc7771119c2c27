"""A model judged in its own terms.

Its loss as written, and the bound under the likelihood that its loss implies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.model.vae import VAE
from bench.objectives import Elbo

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


@torch.no_grad()
def own_terms(model: VAE, objective: Elbo, images: Tensor, noise: Tensor, batch_size: int) -> OwnTerms:
    """Own terms of uint8 images [N, D] with one z an image, made of standard normal noise [N, Z].

    The model is judged in eval mode and left in the mode it came in. An objective "SSE/(2σ²) + β·KL" implies
    a Gaussian of variance β·σ², normalised and brought to grey levels by −D·ln(scale); a Bernoulli implies
    itself at β = 1.
    """
    was_training = model.training
    model.eval()
    count, pixels = images.shape
    beta_eff = objective.beta_eff(batch_size, pixels, model.latent)
    implied = model.likelihood.tempered(beta_eff)
    jacobian = pixels * math.log(model.target.scale)
    sums = torch.zeros(4, dtype=torch.float64, device=images.device)
    for start in range(0, count, CHUNK):
        grey = images[start : start + CHUNK].float() / 255
        q = model.encode(grey)
        output, target = model.decode(q.sample(noise[start : start + CHUNK])), model.target(grey)
        terms = (
            model.likelihood.reconstruction_loss(output, target),
            q.charged_kl.sum(-1),
            -implied.log_prob(output, target) + jacobian,
            q.kl().sum(-1),
        )
        sums += torch.stack([term.double().sum() for term in terms])
    model.train(was_training)
    loss_reconstruction, loss_kl, reconstruction, kl = (sums / count).tolist()
    return OwnTerms(
        test_loss=objective.as_written(loss_reconstruction, loss_kl, batch_size, pixels, model.latent),
        test_loss_nats=loss_reconstruction + beta_eff * loss_kl,
        elbo=-(reconstruction + kl),
        reconstruction=reconstruction,
        kl=kl,
        loss_reconstruction=loss_reconstruction,
        loss_kl=loss_kl,
    )
