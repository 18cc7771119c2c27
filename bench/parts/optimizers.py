"""Optimizers and learning-rate schedules: functions that make the torch object.

Kernels are fused: one pass over the parameters instead of ten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, StepLR

from bench.spec.options import NonNegative, Positive, PositiveInt

Parameters = Iterable[nn.Parameter]


def adam(parameters: Parameters, *, lr: Positive = 1e-3) -> Optimizer:
    """Adam (Kingma & Ba 2015, algorithm 1), β₁ 0.9, β₂ 0.999, ε 1e-8."""
    return Adam(parameters, lr=lr, fused=True)


def adamw(parameters: Parameters, *, lr: Positive = 1e-3, weight_decay: NonNegative = 0.01) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""
    return AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)


def sgd(parameters: Parameters, *, lr: Positive, momentum: NonNegative = 0.0) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    return SGD(parameters, lr=lr, momentum=momentum, fused=True)


def constant(optimizer: Optimizer) -> LRScheduler:
    """Keep the same learning rate throughout."""
    return ConstantLR(optimizer, factor=1.0)


def step(optimizer: Optimizer, *, every: PositiveInt, gamma: Positive) -> LRScheduler:
    """Multiply the learning rate by gamma every so many epochs."""
    return StepLR(optimizer, step_size=every, gamma=gamma)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": adam, "adamw": adamw, "sgd": sgd}

# Each number is adjusted by its own gradient alone, so parameters may be laid side by side in one tensor
ELEMENTWISE = (adam, adamw, sgd)

SCHEDULES: dict[str, Callable[..., LRScheduler]] = {"constant": constant, "step": step}
