"""Optimizers and schedules of torch's names are torch's; a clipped gradient has the norm asked for."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from typing import Any

import pytest
import torch
from factory import PIXELS, a_run, a_vae, normal, random
from torch import nn, optim
from torch.optim import lr_scheduler

from bench.engine.fast import FastStep
from bench.engine.loop import make_step
from bench.engine.step import ReferenceStep
from bench.parts.objectives import Elbo
from bench.parts.optimizers import ELEMENTWISE, OPTIMIZERS, SCHEDULES, TORCH_OPTIMIZERS, TORCH_SCHEDULES
from bench.spec.registry import entries

ABSENT = {
    "LBFGS": "evaluates the loss several times a step",
    "Muon": "takes matrices only",
    "Rprop": "made for the gradient of all images",
    "SparseAdam": "takes sparse gradients only",
    "ChainedScheduler": "made of other schedules",
    "SequentialLR": "made of other schedules",
    "LambdaLR": "takes a function",
    "MultiplicativeLR": "takes a function",
    "CyclicLR": "counts in batches",
    "OneCycleLR": "counts in batches",
    "ReduceLROnPlateau": "takes a metric",
}
# How torch computes, not what; and options that are no number, text or truth value
NOT_OPTIONS = {"foreach", "capturable", "differentiable", "fused", "maximize", "last_epoch"}
UNTYPED = {("Adafactor", "eps")}


@pytest.mark.parametrize(
    ("module", "base"), [(optim, optim.Optimizer), (lr_scheduler, lr_scheduler.LRScheduler)]
)
def test_every_class_of_torch_has_a_name_or_a_reason(module: Any, base: type) -> None:
    classes = {
        name for name, item in vars(module).items() if isinstance(item, type) and issubclass(item, base)
    }
    public = {name for name in classes if not name.startswith("_")} - {base.__name__}
    assert public - set(OPTIMIZERS) - set(SCHEDULES) - {"LRScheduler"} == public & set(ABSENT)


@pytest.mark.parametrize("name", [*TORCH_OPTIMIZERS, *TORCH_SCHEDULES])
def test_options_and_defaults_are_torchs(name: str) -> None:
    kind, module = ("optimizer", optim) if name in TORCH_OPTIMIZERS else ("schedule", lr_scheduler)
    theirs = inspect.signature(getattr(module, name)).parameters
    expected = {
        key: list(p.default) if isinstance(p.default, tuple) else p.default
        for key, p in list(theirs.items())[1:]
        if key not in NOT_OPTIONS and (name, key) not in UNTYPED
    }
    ours = entries(kind)[name].model.model_fields
    assert {k: inspect.Parameter.empty if f.is_required() else f.default for k, f in ours.items()} == expected


def weights() -> nn.Parameter:
    return nn.Parameter(normal(4, 3).double())


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_steps_are_torchs(name: str) -> None:
    ours, theirs = weights(), weights()
    pairs = [(ours, OPTIMIZERS[name]([ours])), (theirs, getattr(optim, name)([theirs]))]
    for _ in range(5):
        for p, optimizer in pairs:
            optimizer.zero_grad()
            (p**4).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)
    assert not torch.equal(ours, weights())


@pytest.mark.parametrize("made", ELEMENTWISE)
def test_elementwise_optimizers_are_the_same_over_one_flat_tensor(made: Any) -> None:
    model = a_vae().double()
    twin = copy.deepcopy(model)
    make = partial(made, lr=1e-3)
    fast, reference = FastStep(model, Elbo(), make), ReferenceStep(twin, Elbo(), make)
    for index in range(10):
        x, noise = random(5, PIXELS, seed=index).double(), normal(1, 5, 3, seed=index).double()
        torch.testing.assert_close(fast(x, noise), reference(x, noise), rtol=1e-9, atol=0)


@pytest.mark.parametrize("norm", [1e-3, 1e3])
def test_a_gradient_is_scaled_down_to_the_norm_and_never_up(norm: float) -> None:
    model = a_vae(pixels=784).double()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    run = a_run(optimizer="sgd", clip_norm=norm)
    run.optimizer.options["lr"] = 1.0
    plain, clipped = a_run(optimizer=run.optimizer), run
    moved = []
    for each in (plain, clipped):
        copied = copy.deepcopy(model)
        step = make_step(each, copied)
        step(random(5, 784).double(), normal(1, 5, 3).double())
        moved.append(nn.utils.parameters_to_vector(copied.parameters()).detach() - before)
    assert isinstance(make_step(plain, copy.deepcopy(model)), FastStep)
    assert make_step(clipped, model).note == "reference: clip_norm may need the parameters apart"
    length = moved[0].norm()
    torch.testing.assert_close(moved[1], moved[0] * min(1.0, norm / float(length)), rtol=1e-4, atol=1e-9)
