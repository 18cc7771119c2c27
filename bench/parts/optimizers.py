"""Optimizers and learning-rate schedules: what makes the torch object of the parameters, or of the optimizer.

Kernels are fused where torch has such: one pass over the parameters instead of ten. Names of torch's classes
take torch's options with torch's defaults; what an option does, torch's documentation says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn, optim
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, StepLR

from bench.spec.options import NonNegative, Positive, PositiveInt

Parameters = Iterable[nn.Parameter]
Table = dict[str, tuple[str, dict[str, Any]]]


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


# Torch's own: what each is, and its options with torch's defaults, `...` where there is none. bench.spec
# reads both tables from the source; TORCH_OPTIONS there says what each option may be

TORCH_OPTIMIZERS: Table = {
    "Adadelta": ("Adadelta (Zeiler 2012).", {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}),
    "Adafactor": (
        "Adafactor (Shazeer & Stern 2018), its eps torch's.",
        {"lr": 0.01, "beta2_decay": -0.8, "d": 1.0, "weight_decay": 0.0},
    ),
    "Adagrad": (
        "Adagrad (Duchi et al. 2011).",
        {"lr": 0.01, "lr_decay": 0.0, "weight_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10},
    ),
    "Adam": (
        "Adam with all its options (Kingma & Ba 2015); with the defaults it is `adam`.",
        {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False,
         "decoupled_weight_decay": False},
    ),
    "AdamW": (
        "AdamW with all its options (Loshchilov & Hutter 2019); with the defaults it is `adamw`.",
        {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False},
    ),
    "Adamax": (
        "Adamax, Adam by the largest gradient (Kingma & Ba 2015, algorithm 2).",
        {"lr": 2e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
    ),
    "ASGD": (
        "SGD with a learning rate that falls by the steps; torch's average of the weights is not used.",
        {"lr": 0.01, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0.0},
    ),
    "NAdam": (
        "Adam with Nesterov's momentum (Dozat 2016).",
        {"lr": 2e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "momentum_decay": 4e-3,
         "decoupled_weight_decay": False},
    ),
    "RAdam": (
        "Rectified Adam (Liu et al. 2020).",
        {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0,
         "decoupled_weight_decay": False},
    ),
    "RMSprop": (
        "RMSprop (Tieleman & Hinton 2012); alpha is what Keras calls rho.",
        {"lr": 0.01, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0, "centered": False},
    ),
    "SGD": (
        "Stochastic gradient descent with all its options.",
        {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False},
    ),
}  # fmt: skip

TORCH_SCHEDULES: Table = {  # which count in epochs
    "StepLR": (
        "Multiply the learning rate by gamma every step_size epochs.",
        {"step_size": ..., "gamma": 0.1},
    ),
    "MultiStepLR": (
        "Multiply the learning rate by gamma after each milestone.",
        {"milestones": ..., "gamma": 0.1},
    ),
    "ConstantLR": (
        "Multiply the learning rate by factor for the first total_iters epochs.",
        {"factor": 0.3333333333333333, "total_iters": 5},
    ),
    "LinearLR": (
        "Bring the factor on the learning rate from one value to another in total_iters epochs.",
        {"start_factor": 0.3333333333333333, "end_factor": 1.0, "total_iters": 5},
    ),
    "ExponentialLR": ("Multiply the learning rate by gamma every epoch.", {"gamma": ...}),
    "PolynomialLR": (
        "Bring the learning rate to 0 in total_iters epochs, as (1 − epoch/total_iters)^power.",
        {"total_iters": 5, "power": 1.0},
    ),
    "CosineAnnealingLR": (
        "Bring the learning rate to eta_min in T_max epochs, along a cosine (Loshchilov & Hutter 2017).",
        {"T_max": ..., "eta_min": 0.0},
    ),
    "CosineAnnealingWarmRestarts": (
        "Start a cosine again after T_0 epochs, each T_mult times as long (Loshchilov & Hutter 2017).",
        {"T_0": ..., "T_mult": 1, "eta_min": 0.0},
    ),
}

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": adam, "adamw": adamw, "sgd": sgd}
OPTIMIZERS |= {name: getattr(optim, name) for name in TORCH_OPTIMIZERS}
OPTIMIZERS |= {name: partial(OPTIMIZERS[name], fused=True) for name in ("Adam", "AdamW", "SGD")}

# Each number is adjusted by its own gradient alone, so parameters may be laid side by side in one tensor
ELEMENTWISE = tuple(made for name, made in OPTIMIZERS.items() if name != "Adafactor")

SCHEDULES: dict[str, Callable[..., LRScheduler]] = {"constant": constant, "step": step}
SCHEDULES |= {name: getattr(lr_scheduler, name) for name in TORCH_SCHEDULES}
