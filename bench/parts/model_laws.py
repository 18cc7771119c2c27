"""What a whole model has to do, and a metric of one, tried on random input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.parts.laws import IMAGES, LATENT, PIXELS, SAMPLES, SHAPE, Fault, alone, as_prior, checked
from bench.parts.likelihoods import Bernoulli
from bench.parts.networks import MLPDecoder, MLPEncoder
from bench.parts.pixels import Grey
from bench.parts.posteriors import POSTERIORS
from bench.parts.vae import VAE


def whole(part: Any, shape: Sequence[int] = SHAPE, latent: int = LATENT) -> None:
    """Hold a whole model to its protocol, made for images of a shape and a latent size.

    A q(z|x) without `log_prob` is allowed: what needs its density is then not defined.
    """
    if not issubclass(type(part), nn.Module):
        raise Fault("it is no torch.nn.Module, so its parameters would not be trained")
    count = math.prod(shape)
    x, noise = torch.rand(IMAGES, count), torch.randn(SAMPLES, IMAGES, latent)
    before, q = x.clone(), part.encode(x)
    if not torch.equal(x, before):
        raise Fault("it changes the images that it is given; work on a copy")
    if not hasattr(q, "sample") or isinstance(q, torch.distributions.Distribution):
        due = "q(z|x) with sample(noise), such as bench.parts.posteriors.gaussian(mean, log_variance)"
        raise Fault(f"encode() gives a {type(q).__name__}; due is {due}")
    z = checked(q.sample(noise), "sample() of q(z|x)", (SAMPLES, IMAGES, latent))
    if hasattr(q, "log_prob"):
        checked(q.log_prob(z), "log_prob() of q(z|x)", (SAMPLES, IMAGES))
    output = part.decode(z)
    mean = checked(part.grey_mean(output), "grey_mean()", (SAMPLES, IMAGES, count))
    checked(part.grey_mean(part.decode(z[0])), "grey_mean() of one z an image", (IMAGES, count))
    low, high = mean.detach().aminmax()
    if low < 0 or high > 1:
        raise Fault(f"grey_mean() gives {float(low):.3g} to {float(high):.3g}; due is 0 to 1")
    if hasattr(part, "prior"):
        as_prior(part.prior, latent)
    if any(p.requires_grad for p in part.parameters()) and not mean.requires_grad:
        raise Fault("its output is not differentiable; a detach, no_grad or NumPy on the way cuts it off")
    alone(lambda x: part.decode(part.encode(x).sample(noise[0, : len(x)])), x, part)


def metric(measure: Callable[..., Any]) -> None:
    """Hold a metric to its protocol, on an untrained model: one number, or None where it is not defined."""
    encoder = MLPEncoder(SHAPE, LATENT, hidden=[7])
    decoder = MLPDecoder(SHAPE, LATENT, hidden=[7])
    likelihood, posterior = Bernoulli(), POSTERIORS["gaussian"]
    model = VAE(encoder, decoder, posterior, likelihood, Grey(), Grey(), LATENT).eval()
    images = torch.rand(IMAGES, PIXELS)
    before = [tensor.clone() for tensor in (images, *model.parameters())]
    with torch.no_grad():
        value = measure(model, images)
    if value is None:
        return
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        what = f"a tensor {[*value.shape]}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise Fault(f"it gives {what}; due is one number, or None where it is not defined") from None
    if not math.isfinite(number):
        raise Fault(f"it gives {number}; due is a finite number, or None where it is not defined")
    if any(not torch.equal(a, b) for a, b in zip(before, (images, *model.parameters()), strict=True)):
        raise Fault("it changes the model or the images that it is given; work on a copy")
