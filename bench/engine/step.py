"""One optimisation step, behind one small interface.

Shapes: B images, D pixels, Z latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from bench.parts.objectives import Elbo
from bench.parts.vae import VAE

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Step(Protocol):
    """Adjusts the model to one batch and says what the batch cost."""

    engine: str
    optimizer: torch.optim.Optimizer

    def __call__(self, grey: Tensor, noise: Tensor) -> Tensor:
        """Of grey images [B, D] and noise [B, Z].

        The batch's sums of the two loss terms, [2], still on the device.
        """
        ...


class ReferenceStep:
    """Autograd and the optimizer's own step: works for every part, and is what any faster step must equal."""

    engine = "reference"

    def __init__(self, model: VAE, objective: Elbo, make_optimizer: MakeOptimizer, precision: str) -> None:
        self.model = model
        self.objective = objective
        self.optimizer = make_optimizer(model.parameters())
        self.autocast = precision == "bf16"

    def __call__(self, grey: Tensor, noise: Tensor) -> Tensor:
        """One step; see `Step`."""
        with torch.autocast(grey.device.type, torch.bfloat16, enabled=self.autocast):
            terms = self.model(grey, noise)
        loss = self.objective.loss(terms.reconstruction, terms.charged_kl, grey.shape[1], self.model.latent)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return torch.stack([terms.reconstruction.detach().sum(), terms.charged_kl.detach().sum()])
