"""What training minimises: functions of a pass's terms, [B], of which the mean is taken.

Scripts reduce their two terms in different ways, so their losses have different units and different effective
weights on the KL. `beta_eff` derives that weight from the reductions: it is never typed in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.parts.protocols import LossTerms
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


OBJECTIVES = {"elbo": Elbo}
