"""What the parts of a model give each other: their protocols, and the terms that a loss is made of.

A part needs no base class: it needs the methods below, with these shapes. It is handed sizes as positional
arguments, and takes its options in YAML as keyword-only ones.

Shapes: K samples of z an image, B images, D pixels (an image lies flat, row by row), Z latents.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from bench.parts.priors import StandardNormal

Shape = tuple[int, ...]  # of one image: (height, width), or (height, width, channels); D is their product


class Encoder(Protocol):
    """Made by `Encoder(shape, latent, *, options)` of the shape of an image and the latent size Z.

    If its constructor names `second`, it goes with posteriors that ask for so many numbers in that head.
    """

    def __call__(self, x: Tensor, /) -> tuple[Tensor, ...]:
        """Map images x [B, D] to the heads that the posterior asks for, usually two of [B, Z]."""


class Decoder(Protocol):
    """Made by `Decoder(shape, latent, *, options)` of the shape of an image and the latent size Z."""

    def __call__(self, z: Tensor, /) -> Tensor:
        """Map z [..., Z] to what the likelihood asks for, usually [..., D]."""


class Distribution(Protocol):
    """One q(z|x) for each image.

    It may have `kl()`: KL(q ‖ N(0, I)) in closed form, nats for each latent, [B, Z]. It may have `charged_kl`
    [B, Z]: what a document's loss charges instead. It may have `log_prob_each(z)` [..., B, Z]: ln q(z|x) of
    each latent alone. It may have `mean` and `stddev` [B, Z], those of each latent: without both, the
    evaluation estimates them.
    """

    def sample(self, noise: Tensor, /) -> Tensor:
        """Draw z [..., B, Z] from standard normal noise [..., B, Z]; gradients pass through."""

    def log_prob(self, z: Tensor, /) -> Tensor:
        """Compute ln q(z|x) of z [..., B, Z], summed over latents: [..., B], nats."""


class Posterior(Protocol):
    """Made by `Posterior(*, options)`, or a function of the heads; a constructor may name `latent`.

    It may have `second_head(latent)`, a static method: how many numbers it asks for in that head, if not Z.
    """

    def __call__(self, *heads: Tensor) -> Distribution:
        """Make q(z|x) of the encoder's heads."""


class Prior(Protocol):
    """p(z), made by `Prior(*, options)`; a constructor that names `shape` or `latent` is given them.

    It may have `attach(encode)`: it is then given what makes q(z|u) of images u [N, D] in [0, 1].
    """

    def sample(self, noise: Tensor, /) -> Tensor:
        """Draw z [..., Z] from standard normal noise [..., Z]."""

    def log_prob(self, z: Tensor, /) -> Tensor:
        """Compute ln p(z) of z [..., Z], summed over latents: [...], nats."""


class Likelihood(Protocol):
    """p(x|z), made by `Likelihood(*, options)`.

    It may have `reconstruction_loss(output, target)` [...]: −ln p(x|z) without its constants, as scripts
    write it. It may have `tempered(beta)`: the likelihood that a loss with a weight β on the KL implies. It
    may have `label`, its name in reports.
    """

    def log_prob(self, output: Tensor, target: Tensor, /) -> Tensor:
        """Compute ln p(target|z), normalised, of the decoder's output [..., D]: [...], nats."""

    def mean(self, output: Tensor, /) -> Tensor:
        """Compute E[x|z] of the decoder's output, [..., D]."""


class Pixels(Protocol):
    """A transformation of grey levels, made by `Pixels(*, options)`.

    A target may have `resample`, "batch", "epoch" or "never": it is then given pixels drawn black or white.
    """

    label: str  # of the target in reports
    scale: float  # grey levels in one unit of the transformed pixel

    def __call__(self, grey: Tensor, /) -> Tensor:
        """Transform grey levels in [0, 1], any shape."""

    def to_grey(self, mean: Tensor, /) -> Tensor:
        """Bring a decoder's mean back to grey levels in [0, 1], any shape."""


class Model(Protocol):
    """A whole model, made by `Model(shape, latent, *, options)`: a torch.nn.Module.

    It takes the place of encoder, decoder and posterior. It may have `prior`, in place of N(0, I).
    """

    def encode(self, x: Tensor, /) -> Distribution:
        """Give q(z|x) of images x [B, D]."""

    def decode(self, z: Tensor, /) -> Tensor:
        """Map z [..., Z] to what the likelihood asks for, usually [..., D]."""

    def grey_mean(self, output: Tensor, /) -> Tensor:
        """Give E[x|z] in grey levels of what `decode` gave: [..., D] in [0, 1]."""


class LossTerms:
    """One pass of a model over a batch; each term is computed when it is first asked for.

    An objective is arithmetic on these terms: −(log_px + log_pz − log_qz) is the negative ELBO, a
    log-mean-exp over K of the same sum is the importance-weighted bound.
    """

    def __init__(
        self, q: Any, z: Tensor, output: Tensor, target: Tensor, likelihood: Likelihood, prior: Prior
    ) -> None:
        self.q = q  # a Distribution
        if z.ndim < target.ndim + 1:
            raise ValueError(f"z {[*z.shape]} lacks the axis of samples; give the model noise [K, B, Z]")
        self.z = z  # [K, B, Z]
        self.output = output  # [K, B, D], what the decoder gave
        self.target = target  # [B, D]
        self.likelihood = likelihood
        self.prior = prior
        self.standard = type(prior) is StandardNormal  # what closed forms of q are about

    @cached_property
    def log_px(self) -> Tensor:
        """ln p(x|z), normalised: [K, B], nats."""
        return self.likelihood.log_prob(self.output, self.target)

    @cached_property
    def log_pz(self) -> Tensor:
        """ln p(z): [K, B], nats."""
        return self.prior.log_prob(self.z)

    @cached_property
    def log_qz(self) -> Tensor:
        """ln q(z|x): [K, B], nats. Raises ValueError where q has no density."""
        if not hasattr(self.q, "log_prob"):
            what = "q(z|x) has no log_prob, so its KL is not defined"
            raise ValueError(f"{what}; train with an objective that asks for neither")
        return self.q.log_prob(self.z)  # type: ignore[no-any-return]  # a Distribution

    @cached_property
    def kl(self) -> Tensor | None:
        """KL(q(z|x) ‖ p(z)) for each latent: [B, Z], nats; None without a closed form."""
        return self.q.kl() if self.standard and hasattr(self.q, "kl") else None

    @property
    def has_rate(self) -> bool:
        """Whether the KL is defined: of a q with a density, or a closed form."""
        return self.kl is not None or hasattr(self.q, "log_prob")

    @cached_property
    def rate(self) -> Tensor:
        """KL(q(z|x) ‖ p(z)): [B], nats; estimated from the K samples without a closed form."""
        return (self.log_qz - self.log_pz).mean(0) if self.kl is None else self.kl.sum(-1)

    @cached_property
    def charged_kl(self) -> Tensor:
        """The KL as the run's document charges it: [B], nats; `rate` of a posterior without one."""
        charged = getattr(self.q, "charged_kl", None) if self.standard else None
        return self.rate if charged is None else charged.sum(-1)

    @cached_property
    def reconstruction_loss(self) -> Tensor:
        """The reconstruction term as scripts write it: [K, B]; −log_px of a likelihood without one."""
        loss = getattr(self.likelihood, "reconstruction_loss", None)
        return loss(self.output, self.target) if loss else -self.log_px


class Objective(Protocol):
    """What training minimises, made by `Objective(*, options)`.

    It may have `samples`: how many z it asks for an image (K, otherwise 1). It may be a `TwoTermObjective`.
    """

    def __call__(self, terms: LossTerms, seen: int, /) -> Tensor:
        """Compute each image's loss [B], whose mean is minimised.

        `seen` counts the training images before this batch, those of earlier epochs included.
        """


@runtime_checkable
class TwoTermObjective(Protocol):
    """What an objective may say of itself if it is a weighted sum of reconstruction loss and KL.

    Sizes are B images a batch, D pixels, Z latents.
    """

    def beta_eff(self, images: int, pixels: int, latents: int) -> float:
        """Give the weight on the KL once the reconstruction term is one image's sum."""

    def as_written(self, reconstruction: float, kl: float, images: int, pixels: int, latents: int) -> float:
        """Give the loss in the script's own unit, of one image's sums averaged over images."""
