"""What training minimises: the two terms, their reductions and β, and what that weighting really is.

Scripts reduce their two terms in different ways, so their losses carry different units and different
effective weights on the KL. `beta_eff` derives that weight from the reductions: it is never typed in.
"""

from __future__ import annotations

from torch import Tensor

from bench.spec.options import NonNegative, Reduction


class Elbo:
    """Reconstruction + β·KL, each reduced as the script does it.

    Sum, batchmean, or mean over images and elements.

    β = 1 with equal reductions is the negative ELBO (Kingma & Welling 2013, eq. 3); other β: Higgins et al.
    2017, eq. 4.
    """

    def __init__(
        self,
        *,
        beta: NonNegative = 1.0,
        reconstruction: Reduction = "batchmean",
        kl: Reduction = "batchmean",
    ) -> None:
        self.beta = beta
        self.reconstruction = reconstruction
        self.kl = kl

    def loss(self, reconstruction: Tensor, kl: Tensor, pixels: int, latents: int) -> Tensor:
        """The scalar to minimise, of per-image sums reconstruction [B] and kl [B]."""
        images = reconstruction.shape[0]
        w_reconstruction, w_kl = self.weights(images, pixels, latents)
        return w_reconstruction * reconstruction.mean() + w_kl * kl.mean()

    def weights(self, images: int, pixels: int, latents: int) -> tuple[float, float]:
        """The factors on the two terms once both are per-image sums averaged over a batch of `images`."""
        return _per_image(self.reconstruction, images, pixels), self.beta * _per_image(
            self.kl, images, latents
        )

    def beta_eff(self, images: int, pixels: int, latents: int) -> float:
        """The weight on the KL once the reconstruction term is one image's sum."""
        w_reconstruction, w_kl = self.weights(images, pixels, latents)
        return w_kl / w_reconstruction

    def as_written(self, reconstruction: float, kl: float, images: int, pixels: int, latents: int) -> float:
        """The loss in the script's own unit, of per-image sums averaged over images.

        Where both terms are summed over the batch too, the unit is still one image: batches differ in size.
        """
        w_reconstruction, w_kl = self.weights(images, pixels, latents)
        per_batch = images if self.reconstruction == self.kl == "sum" else 1
        return (w_reconstruction * reconstruction + w_kl * kl) / per_batch


def _per_image(reduction: str, images: int, elements: int) -> float:
    return {"sum": images, "batchmean": 1, "mean": 1 / elements}[reduction]


OBJECTIVES = {"elbo": Elbo}
