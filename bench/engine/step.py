"""One optimisation step: the reference, and whether a faster one knows the parts.

Shapes: K samples of z an image, B images, D pixels, Z latents; a stacked step has R replicas in front of B.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from bench.parts.protocols import Objective, TwoTermObjective
from bench.parts.vae import VAE, WholeModel

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class ReferenceStep:
    """Autograd and the optimizer's own step: works for every part, and is what any faster step must equal."""

    engine = "reference"
    note: str | None = None  # why it is not a faster one

    def __init__(
        self,
        model: VAE,
        objective: Objective,
        make_optimizer: MakeOptimizer,
        precision: str = "fp32",
        clip_norm: float = 0.0,
    ) -> None:
        self.model = model
        self.objective = objective
        self.optimizer = make_optimizer(model.parameters())
        self.clip_norm = clip_norm
        self.autocast = precision == "bf16"

    def __call__(self, grey: Tensor, noise: Tensor, seen: int = 0, drawn: Tensor | None = None) -> Tensor:
        """Take a step on grey images [B, D] with noise [K, B, Z], after `seen` training images.

        `drawn` [B, D] are the same images drawn, for a target that asks for it.

        Returns the batch's sums of reconstruction loss and charged KL, still on the device: [2], or [3] with
        the loss itself where the objective is more than a weighted sum of the two. The losses of replicas are
        added: each keeps its own gradient.
        """
        # No cache of casts: it would outlive a captured step, and every parameter is cast once anyway
        with torch.autocast(grey.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            terms = self.model(grey, noise, drawn)
        loss = self.objective(terms, seen)
        self.optimizer.zero_grad()
        loss.mean(-1).sum().backward()
        if self.clip_norm:
            clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        told = [terms.reconstruction_loss.mean(0)]
        told.append(terms.charged_kl if terms.has_rate else torch.zeros_like(told[0]))
        if not isinstance(self.objective, TwoTermObjective):
            told.append(loss.to(told[0].dtype))
        return torch.stack([term.detach().sum(-1) for term in told], -1)


def unknown_part(model: VAE, objective: Objective, known: Collection[object]) -> str | None:
    """Name the first part, or layer of one, that is of none of the known kinds; None where all are known.

    An engine writes out what it knows, so a part must be of exactly such a kind: a subclass may compute
    something else.
    """
    if isinstance(model, WholeModel):
        return f"model {type(model.model).__name__}"
    parts: list[tuple[str, object]] = [
        *((name.partition(".")[0] or "model", module) for name, module in model.named_modules()),
        *((name, getattr(model, name)) for name in ("posterior", "prior", "input", "target")),
        ("objective", objective),
    ]
    for kind, part in parts:
        made_by = part if isinstance(part, FunctionType) else type(part)
        if made_by not in known:
            return f"{kind} {made_by.__name__}"
    return None
