"""Optimizers and learning-rate schedules: functions that make the torch object.

Kernels are fused where torch has such: one pass over the parameters instead of ten. Names of torch's classes
take torch's options with torch's defaults; what an option does, torch's documentation says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn, optim
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, StepLR

from bench.spec.options import BelowOne, BelowOnes, Milestones, NonNegative, Positive, PositiveInt, Real

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


# Torch's own. The keyword-only parameters are torch's; `locals()` hands over each under its name


def torch_adadelta(
    params: Parameters,
    *,
    lr: Positive = 1.0,
    rho: BelowOne = 0.9,
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """Adadelta (Zeiler 2012)."""
    return optim.Adadelta(**locals())


def torch_adafactor(
    params: Parameters,
    *,
    lr: Positive = 0.01,
    beta2_decay: Real = -0.8,
    d: Positive = 1.0,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """Adafactor (Shazeer & Stern 2018), its eps torch's."""
    return optim.Adafactor(**locals())


def torch_adagrad(
    params: Parameters,
    *,
    lr: Positive = 0.01,
    lr_decay: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    initial_accumulator_value: NonNegative = 0.0,
    eps: NonNegative = 1e-10,
) -> Optimizer:
    """Adagrad (Duchi et al. 2011)."""
    return optim.Adagrad(**locals())


def torch_adam(
    params: Parameters,
    *,
    lr: Positive = 1e-3,
    betas: BelowOnes = [0.9, 0.999],  # noqa: B006  never changed
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """Adam with all its options (Kingma & Ba 2015); with the defaults it is `adam`."""
    return optim.Adam(**locals(), fused=True)


def torch_adamw(
    params: Parameters,
    *,
    lr: Positive = 1e-3,
    betas: BelowOnes = [0.9, 0.999],  # noqa: B006  never changed
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.01,
    amsgrad: bool = False,
) -> Optimizer:
    """AdamW with all its options (Loshchilov & Hutter 2019); with the defaults it is `adamw`."""
    return optim.AdamW(**locals(), fused=True)


def torch_adamax(
    params: Parameters,
    *,
    lr: Positive = 2e-3,
    betas: BelowOnes = [0.9, 0.999],  # noqa: B006  never changed
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """Adamax, Adam by the largest gradient (Kingma & Ba 2015, algorithm 2)."""
    return optim.Adamax(**locals())


def torch_asgd(
    params: Parameters,
    *,
    lr: Positive = 0.01,
    lambd: NonNegative = 1e-4,
    alpha: NonNegative = 0.75,
    t0: NonNegative = 1e6,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """SGD with a learning rate that falls by the steps; torch's average of the weights is not used."""
    return optim.ASGD(**locals())


def torch_nadam(
    params: Parameters,
    *,
    lr: Positive = 2e-3,
    betas: BelowOnes = [0.9, 0.999],  # noqa: B006  never changed
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    momentum_decay: NonNegative = 4e-3,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """Adam with Nesterov's momentum (Dozat 2016)."""
    return optim.NAdam(**locals())


def torch_radam(
    params: Parameters,
    *,
    lr: Positive = 1e-3,
    betas: BelowOnes = [0.9, 0.999],  # noqa: B006  never changed
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """Rectified Adam (Liu et al. 2020)."""
    return optim.RAdam(**locals())


def torch_rmsprop(
    params: Parameters,
    *,
    lr: Positive = 0.01,
    alpha: BelowOne = 0.99,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    momentum: NonNegative = 0.0,
    centered: bool = False,
) -> Optimizer:
    """RMSprop (Tieleman & Hinton 2012); alpha is what Keras calls rho."""
    return optim.RMSprop(**locals())


def torch_sgd(
    params: Parameters,
    *,
    lr: Positive = 1e-3,
    momentum: NonNegative = 0.0,
    dampening: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    nesterov: bool = False,
) -> Optimizer:
    """Stochastic gradient descent with all its options."""
    return optim.SGD(**locals(), fused=True)


def constant(optimizer: Optimizer) -> LRScheduler:
    """Keep the same learning rate throughout."""
    return ConstantLR(optimizer, factor=1.0)


def step(optimizer: Optimizer, *, every: PositiveInt, gamma: Positive) -> LRScheduler:
    """Multiply the learning rate by gamma every so many epochs."""
    return StepLR(optimizer, step_size=every, gamma=gamma)


# Torch's own, which count in epochs


def torch_step(optimizer: Optimizer, *, step_size: PositiveInt, gamma: Positive = 0.1) -> LRScheduler:
    """Multiply the learning rate by gamma every step_size epochs."""
    return lr_scheduler.StepLR(**locals())


def torch_multi_step(optimizer: Optimizer, *, milestones: Milestones, gamma: Positive = 0.1) -> LRScheduler:
    """Multiply the learning rate by gamma after each milestone."""
    return lr_scheduler.MultiStepLR(**locals())


def torch_constant(
    optimizer: Optimizer, *, factor: BelowOne = 0.3333333333333333, total_iters: PositiveInt = 5
) -> LRScheduler:
    """Multiply the learning rate by factor for the first total_iters epochs."""
    return lr_scheduler.ConstantLR(**locals())


def torch_linear(
    optimizer: Optimizer,
    *,
    start_factor: Positive = 0.3333333333333333,
    end_factor: NonNegative = 1.0,
    total_iters: PositiveInt = 5,
) -> LRScheduler:
    """Bring the factor on the learning rate from one value to another in total_iters epochs."""
    return lr_scheduler.LinearLR(**locals())


def torch_exponential(optimizer: Optimizer, *, gamma: Positive) -> LRScheduler:
    """Multiply the learning rate by gamma every epoch."""
    return lr_scheduler.ExponentialLR(**locals())


def torch_polynomial(
    optimizer: Optimizer, *, total_iters: PositiveInt = 5, power: Positive = 1.0
) -> LRScheduler:
    """Bring the learning rate to 0 in total_iters epochs, as (1 − epoch/total_iters)^power."""
    return lr_scheduler.PolynomialLR(**locals())


def torch_cosine(
    optimizer: Optimizer,
    *,
    T_max: PositiveInt,
    eta_min: NonNegative = 0.0,
) -> LRScheduler:
    """Bring the learning rate to eta_min in T_max epochs, along a cosine (Loshchilov & Hutter 2017)."""
    return lr_scheduler.CosineAnnealingLR(**locals())


def torch_restarts(
    optimizer: Optimizer,
    *,
    T_0: PositiveInt,
    T_mult: PositiveInt = 1,
    eta_min: NonNegative = 0.0,
) -> LRScheduler:
    """Start a cosine again after T_0 epochs, each T_mult times as long (Loshchilov & Hutter 2017)."""
    return lr_scheduler.CosineAnnealingWarmRestarts(**locals())


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
    "Adadelta": torch_adadelta,
    "Adafactor": torch_adafactor,
    "Adagrad": torch_adagrad,
    "Adam": torch_adam,
    "AdamW": torch_adamw,
    "Adamax": torch_adamax,
    "ASGD": torch_asgd,
    "NAdam": torch_nadam,
    "RAdam": torch_radam,
    "RMSprop": torch_rmsprop,
    "SGD": torch_sgd,
}

# Each number is adjusted by its own gradient alone, so parameters may be laid side by side in one tensor
ELEMENTWISE = tuple(made for made in OPTIMIZERS.values() if made is not torch_adafactor)

SCHEDULES: dict[str, Callable[..., LRScheduler]] = {
    "constant": constant,
    "step": step,
    "StepLR": torch_step,
    "MultiStepLR": torch_multi_step,
    "ConstantLR": torch_constant,
    "LinearLR": torch_linear,
    "ExponentialLR": torch_exponential,
    "PolynomialLR": torch_polynomial,
    "CosineAnnealingLR": torch_cosine,
    "CosineAnnealingWarmRestarts": torch_restarts,
}
