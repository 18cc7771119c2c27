"""What training minimises: functions of a pass's terms, [B], of which the mean is taken.

Scripts reduce their two terms in different ways, so their losses have different units and different effective
weights on the KL. `beta_eff` derives that weight from the reductions: it is never typed in. Objectives that
are no weighted sum of the two are in nats per image.

Shapes: K samples of z an image, B images, Z latents.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.parts.bounds import importance_weighted_bound
from bench.parts.protocols import LossTerms
from bench.spec.options import NonNegative, Positive, PositiveInt, Reduction


class Elbo:
    """Reconstruction + β·KL, each reduced as the script does it.

    Sum, batchmean, or mean over images and elements.

    β = 1 with equal reductions is the negative ELBO (Kingma & Welling 2013, eq. 3); other β: Higgins et al.
    2017, eq. 4.
    """

    def __init__(
        self, *, beta: NonNegative = 1.0, reconstruction: Reduction = "batchmean", kl: Reduction = "batchmean"
    ) -> None:
        self.beta = beta
        self.reconstruction = reconstruction
        self.kl = kl

    def __call__(self, terms: LossTerms, seen: int) -> Tensor:
        """Compute w·reconstruction + w'·KL of each image: [B]."""
        reconstruction, kl = terms.reconstruction_loss.mean(0), terms.charged_kl
        weights = self.weights(kl.shape[-1], terms.output.shape[-1], terms.z.shape[-1])
        # In double precision the gradient of the mean is weight/B rounded once; mps has none
        exact = kl.dtype if kl.device.type == "mps" else torch.float64
        w_reconstruction, w_kl = torch.tensor(weights, dtype=kl.dtype).to(exact)
        loss: Tensor = w_reconstruction * reconstruction.to(exact) + w_kl * kl.to(exact)
        return loss

    def weights(self, images: int, pixels: int, latents: int) -> tuple[float, float]:
        """Give the factors on the two terms once both are one image's sums averaged over `images`."""
        w_reconstruction, w_kl = (
            {"sum": images, "batchmean": 1, "mean": 1 / elements}[reduction]
            for reduction, elements in ((self.reconstruction, pixels), (self.kl, latents))
        )
        return w_reconstruction, self.beta * w_kl

    def beta_eff(self, images: int, pixels: int, latents: int) -> float:
        """Give the weight on the KL once the reconstruction term is one image's sum."""
        w_reconstruction, w_kl = self.weights(images, pixels, latents)
        return w_kl / w_reconstruction

    def as_written(self, reconstruction: float, kl: float, images: int, pixels: int, latents: int) -> float:
        """Give the loss in the script's own unit, of one image's sums averaged over images.

        Where both terms are summed over the batch too, the unit is still one image: batches differ in size.
        """
        w_reconstruction, w_kl = self.weights(images, pixels, latents)
        per_batch = images if self.reconstruction == self.kl == "sum" else 1
        return (w_reconstruction * reconstruction + w_kl * kl) / per_batch


class WarmUp:
    """Reconstruction + β·KL, with β going from `start` to `beta` over the first images.

    Linear in the training images seen (Sønderby et al. 2016 and Bowman et al. 2016, from 0 to 1). An epoch of
    MNIST has 60,000.
    """

    def __init__(
        self, *, images: PositiveInt = 600_000, start: NonNegative = 0.0, beta: NonNegative = 1.0
    ) -> None:
        self.images = images
        self.start = start
        self.beta = beta

    def __call__(self, terms: LossTerms, seen: int) -> Tensor:
        """Compute the loss of `elbo` at the β that `seen` images have led to: [B], nats."""
        share = min(1.0, seen / self.images)
        return Elbo(beta=(1 - share) * self.start + share * self.beta)(terms, seen)


class FreeBits:
    """Reconstruction + Σ max(nats, KL of a latent): below so many nats a latent costs the same.

    The KL of a latent is its mean over the batch (Kingma et al. 2016, "free bits" with λ = nats, each latent
    a group of its own).
    """

    def __init__(self, *, nats: NonNegative) -> None:
        self.nats = nats

    def __call__(self, terms: LossTerms, seen: int) -> Tensor:
        """Compute each image's loss, the batch's charge for the latents in each: [B], nats."""
        if terms.kl is None:
            raise ValueError("free-bits needs the KL of each latent, which posterior and prior do not have")
        return terms.reconstruction_loss.mean(0) + terms.kl.mean(0).clamp(min=self.nats).sum()


class Iwae:
    """−ln 1/K Σ p(x, z)/q(z|x), the importance-weighted bound of K samples (Burda et al. 2016, eq. 8)."""

    def __init__(self, *, samples: PositiveInt = 5) -> None:
        self.samples = samples

    def __call__(self, terms: LossTerms, seen: int) -> Tensor:
        """Compute the negative bound on ln p(x) of each image: [B], nats."""
        return -importance_weighted_bound(terms.log_px + terms.log_pz - terms.log_qz)


class BetaTCVAE:
    """Reconstruction + α·information + β·total correlation + γ·KL of single latents.

    The KL in three (Chen et al. 2018, eq. 2), q(z) by minibatch-weighted sampling (the same, eq. 3): their
    estimates add up to ln q(z|x) − ln p(z). `images` of the training set add a constant to each and change no
    gradient.
    """

    def __init__(
        self,
        *,
        beta: NonNegative,
        alpha: NonNegative = 1.0,
        gamma: NonNegative = 1.0,
        images: PositiveInt = 60_000,
    ) -> None:
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.images = images

    def __call__(self, terms: LossTerms, seen: int) -> Tensor:
        """Compute each image's loss among those of its batch: [B], nats."""
        information, correlation, single = self.parts_of_kl(terms)
        weighted = self.alpha * information + self.beta * correlation + self.gamma * single
        return terms.reconstruction_loss.mean(0) + weighted

    def parts_of_kl(self, terms: LossTerms) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate information, total correlation and the KL of single latents: each [B], nats."""
        z = terms.z[0]
        if not hasattr(terms.q, "log_prob_each"):
            raise ValueError(
                "beta-tcvae needs the density of each latent, which this posterior does not have"
            )
        each = terms.q.log_prob_each(z.unsqueeze(1))  # [B, B', Z]: z of one image under the q of every one
        size = math.log(len(z) * self.images)
        log_qz = each.sum(-1).logsumexp(1) - size
        log_single = (each.logsumexp(1) - size).sum(-1)
        return terms.log_qz[0] - log_qz, log_qz - log_single, log_single - terms.log_pz[0]


class Mmd:
    """Reconstruction + kl·KL + mmd·MMD² between the batch's z and the prior: InfoVAE, at kl = 0 the MMD-VAE.

    Zhao et al. 2017, kl their 1 − α and mmd their α + λ − 1. The kernel is exp(−‖a − b‖²/(2Z·bandwidth²)).
    Under another prior than N(0, I) the batch is held against as many draws from it.
    """

    def __init__(self, *, mmd: NonNegative, kl: NonNegative = 0.0, bandwidth: Positive = 1.0) -> None:
        self.mmd = mmd
        self.kl = kl
        self.bandwidth = bandwidth

    def __call__(self, terms: LossTerms, seen: int) -> Tensor:
        """Compute each image's loss, the batch's MMD² in each: [B], nats."""
        z = terms.z[0]
        if terms.standard:
            divergence = mmd_to_normal(z, self.bandwidth)
        else:  # other draws each batch, and the same in every run
            noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seen), dtype=z.dtype)
            divergence = mmd_between(z, terms.prior.sample(noise.to(z.device)), self.bandwidth)
        loss = terms.reconstruction_loss.mean(0)
        if self.kl:
            loss = loss + self.kl * terms.rate
        return loss + self.mmd * divergence


def mmd_to_normal(z: Tensor, bandwidth: float) -> Tensor:
    """Estimate MMD² between the distribution of z [B, Z] and N(0, I) without bias (Gretton et al. 2012).

    The expectations over N(0, I) are in closed form, so no draws from it add noise. One z says nothing: 0.
    """
    images, latents = z.shape
    if images < 2:
        return z.new_zeros(())
    width = latents * bandwidth**2  # the kernel's variance
    among = torch.exp(-torch.pdist(z).square() / (2 * width)).mean()
    across = torch.exp(-z.square().sum(-1) / (2 * (width + 1))).mean() * (width / (width + 1)) ** (
        latents / 2
    )
    found: Tensor = among - 2 * across + (width / (width + 2)) ** (latents / 2)
    return found


def mmd_between(a: Tensor, b: Tensor, bandwidth: float) -> Tensor:
    """Estimate MMD² between the distributions of a and b [B, Z] without bias (Gretton et al. 2012, eq. 3).

    One z says nothing: 0.
    """
    images, latents = a.shape
    if images < 2:
        return a.new_zeros(())

    def kernel(squares: Tensor) -> Tensor:
        return torch.exp(-squares / (2 * latents * bandwidth**2)).mean()

    across = (a.unsqueeze(1) - b).square().sum(-1)
    found: Tensor = kernel(torch.pdist(a).square()) + kernel(torch.pdist(b).square()) - 2 * kernel(across)
    return found


OBJECTIVES = {
    "elbo": Elbo,
    "warm-up": WarmUp,
    "free-bits": FreeBits,
    "iwae": Iwae,
    "beta-tcvae": BetaTCVAE,
    "mmd": Mmd,
}
