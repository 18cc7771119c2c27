"""p(x|z): what the decoder's output means.

`log_prob` is the normalised log-density, and a script minimises its negative. Squared error leaves a constant
out: `Gaussian` has a `reconstruction_loss` of its own.

Shapes: D pixels, `output` [..., D] as the decoder gives it, `target` broadcastable to it. Sums over pixels
are [...], nats.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from bench.spec.options import Mean, NonNegative, Positive


class Bernoulli(nn.Module):
    """Bernoulli pixels: binary cross-entropy, from logits or as log(p + eps) of probabilities."""

    label = "Bernoulli"

    def __init__(
        self, *, form: Literal["logits", "probabilities"] = "logits", eps: NonNegative = 0.0
    ) -> None:
        super().__init__()
        self.form = form
        self.eps = eps

    def log_prob(self, output: Tensor, target: Tensor) -> Tensor:
        """Compute Σ x ln p + (1 − x) ln(1 − p); for grey x the expectation over b ~ Bernoulli(x)."""
        target = target.expand_as(output)
        if self.form == "logits":
            return -binary_cross_entropy_with_logits(output, target, reduction="none").sum(-1)
        p = torch.sigmoid(output)  # as document 000 writes it: log(0)·0 is NaN unless eps > 0
        return (target * torch.log(p + self.eps) + (1 - target) * torch.log(1 - p + self.eps)).sum(-1)

    def mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z], [..., D]."""
        return torch.sigmoid(output)


class Gaussian(nn.Module):
    """Gaussian pixels of one fixed variance; at 1/2 the loss is the squared error summed over pixels."""

    label = "Gaussian"

    def __init__(self, *, variance: Positive = 0.5, mean: Mean = "sigmoid") -> None:
        super().__init__()
        self.variance = variance
        self.link = mean

    def log_prob(self, output: Tensor, target: Tensor) -> Tensor:
        """Compute −SSE/(2σ²) − (D/2) ln(2πσ²)."""
        constant = 0.5 * output.shape[-1] * math.log(2 * math.pi * self.variance)
        return -self.reconstruction_loss(output, target) - constant

    def reconstruction_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Compute SSE/(2σ²), without the constant."""
        return ((target - self.mean(output)) ** 2).sum(-1) / (2 * self.variance)

    def mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z], [..., D]."""
        return torch.sigmoid(output) if self.link == "sigmoid" else output

    def tempered(self, beta: float) -> Gaussian:
        """Give the density that SSE/(2σ²) + β·KL implies: of variance β·σ² (loss divided by β)."""
        return self if beta == 0 else Gaussian(variance=self.variance * beta, mean=self.link)


class LearnedGaussian(nn.Module):
    """Gaussian pixels of one variance, learned with the network (σ-VAE, Rybkin et al. 2021, section 3)."""

    label = "Gaussian"

    def __init__(self, *, variance: Positive = 0.5, mean: Mean = "sigmoid") -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.tensor(math.log(variance)))
        self.link = mean

    def log_prob(self, output: Tensor, target: Tensor) -> Tensor:
        """Compute −SSE/(2σ²) − (D/2) ln(2πσ²)."""
        sse = ((target - self.mean(output)) ** 2).sum(-1)
        constant = 0.5 * output.shape[-1] * (math.log(2 * math.pi) + self.log_variance)
        return -0.5 * sse * torch.exp(-self.log_variance) - constant

    def mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z], [..., D]."""
        return torch.sigmoid(output) if self.link == "sigmoid" else output


class ContinuousBernoulli(nn.Module):
    """Continuous Bernoulli pixels: cross-entropy on grey levels, made a density on [0, 1] by its constant.

    The density has no upper bound: at a pixel of exactly 0 or 1 it grows like the logit. MNIST is mostly
    exact zeros, so the ELBO rises for as long as one trains. torch.distributions' class bounds it: it clamps
    the probability to 1.2e-7, the logit to 15.9.
    """

    label = "continuous Bernoulli"

    def log_prob(self, output: Tensor, target: Tensor) -> Tensor:
        """Compute x·o − softplus(o) + ln C(o), o the logit (Loaiza-Ganem & Cunningham 2019, section 3)."""
        return (target * output - softplus(output) + _log_normaliser(output)).sum(-1)

    def mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z] = 1/(1 − e^−o) − 1/o, [..., D] (same paper and section).

        By 1/(1 − e^−o) = (1 + coth(o/2))/2, whose gradient does not overflow where o is below −88.
        """
        near = output.abs() < 0.1
        o = torch.where(near, torch.ones_like(output), output)
        far = 0.5 + 0.5 / torch.tanh(0.5 * o) - 1 / o
        return torch.where(near, 0.5 + output / 12 - output**3 / 720, far)


def _log_normaliser(o: Tensor) -> Tensor:
    """Compute ln(o / tanh(o/2)), with its series ln 2 + o²/12 − 7o⁴/1440 near the singularity at 0."""
    near = o.abs() < 0.1
    a = torch.where(near, torch.ones_like(o), o.abs())
    return torch.where(near, math.log(2) + o**2 / 12 - o**4 * (7 / 1440), torch.log(a / torch.tanh(0.5 * a)))


LIKELIHOODS = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "gaussian-learned": LearnedGaussian,
    "continuous-bernoulli": ContinuousBernoulli,
}
