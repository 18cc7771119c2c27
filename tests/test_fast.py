"""The fast step equals autograd, part by part, and refuses whatever it does not know exactly."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from factory import PIXELS, SHAPE, a_run, a_vae, normal, random
from torch import Tensor, nn

from bench.engine.fast import FastStep, refusal
from bench.engine.loop import make_step
from bench.engine.step import MakeOptimizer, ReferenceStep
from bench.parts import lookup
from bench.parts.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian, LearnedGaussian
from bench.parts.networks import MLPDecoder, MLPEncoder, linear_encoder
from bench.parts.objectives import Elbo
from bench.parts.optimizers import adam, adamw, sgd
from bench.parts.pixels import Grey, Normalised, Threshold
from bench.parts.posteriors import gaussian, gaussian_raw_sigma
from bench.parts.priors import StandardNormal
from bench.parts.protocols import Likelihood, Posterior
from bench.parts.vae import VAE, build

SHARP = Bernoulli(form="probabilities", eps=1e-20)
LIKELIHOODS = [Bernoulli(), Gaussian(), Gaussian(variance=0.03), Gaussian(variance=0.2, mean="linear"), SHARP]
OBJECTIVES = [
    Elbo(),
    Elbo(beta=32 / 784),
    Elbo(beta=0.0, reconstruction="sum", kl="sum"),
    Elbo(beta=0.1, reconstruction="mean", kl="mean"),
    Elbo(reconstruction="mean", kl="sum"),
]
OPTIMIZERS: list[MakeOptimizer] = [adam, adamw, functools.partial(sgd, lr=1e-3, momentum=0.9)]


def gradient_of(step: FastStep, p: nn.Parameter) -> Tensor:
    """The part of the flat gradient that belongs to a parameter, which is a view of the flat tensor."""
    assert step.flat.grad is not None
    start = p.storage_offset()
    return step.flat.grad[start : start + p.numel()].view_as(p)


def check_gradients(model: VAE, objective: Elbo, x: Tensor, noise: Tensor, rtol: float) -> None:
    """Gradients and both terms' sums against autograd's, each tensor within `rtol` of its norm."""
    reference = copy.deepcopy(model)
    terms = reference(x, noise[None])
    objective(terms, 0).mean().backward()
    step = FastStep(model, objective, adam)
    for _ in range(2):  # a second time into the same buffers
        sums = step.gradients(x, noise)
    expected = torch.stack([terms.reconstruction_loss.sum(), terms.charged_kl.sum()]).detach()
    torch.testing.assert_close(sums, expected, rtol=10 * rtol, atol=0)
    for (name, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert q.grad is not None
        assert (gradient_of(step, p) - q.grad).norm() <= rtol * q.grad.norm(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda v: v.label)
@pytest.mark.parametrize("posterior", [gaussian, gaussian_raw_sigma])
def test_gradients_are_autograds(dtype: torch.dtype, likelihood: Likelihood, posterior: Posterior) -> None:
    rtol = 1e-12 if dtype == torch.float64 else 2e-6  # 1e-6 for either side's rounding
    activations: list[str | list[str]] = ["relu", "tanh", "identity", ["relu", "tanh"], ["identity", "relu"]]
    x, noise = random(5, PIXELS).to(dtype), normal(5, 3).to(dtype)
    for activation, objective in itertools.product(activations, OBJECTIVES):
        model = a_vae(likelihood=likelihood, posterior=posterior, activation=activation).to(dtype)
        assert refusal(model, objective, "fp32") is None
        check_gradients(model, objective, x, noise, rtol)


@pytest.mark.parametrize("pixels", [Threshold(), Normalised()])
def test_gradients_with_other_pixels_and_a_linear_encoder(pixels: Threshold | Normalised) -> None:
    x, noise = random(5, PIXELS).double(), normal(5, 3).double()
    model = a_vae(likelihood=Gaussian(mean="linear"), input_pixels=Normalised(), target_pixels=pixels)
    model.encoder = linear_encoder((PIXELS,), 3, hidden=11)
    check_gradients(model.double(), Elbo(), x, noise, 1e-12)


@pytest.mark.parametrize("posterior", [gaussian, gaussian_raw_sigma])
@pytest.mark.parametrize(
    "likelihood", [Bernoulli(), Gaussian(variance=0.03), *LIKELIHOODS[3:]], ids=lambda v: v.label
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adam", "adamw", "sgd"])
def test_fifty_steps_give_the_same_losses_and_weights(
    optimizer: MakeOptimizer, likelihood: Likelihood, posterior: Posterior
) -> None:
    """With a smaller last batch in every epoch of five."""
    model = a_vae(likelihood=likelihood, posterior=posterior, pixels=37)
    twin = copy.deepcopy(model)
    fast, reference = FastStep(model, Elbo(), optimizer), ReferenceStep(twin, Elbo(), optimizer)
    losses = []
    for index in range(50):
        images = 7 if index % 5 < 4 else 3
        x, noise = random(images, 37, seed=index), normal(1, images, 3, seed=index)
        losses.append((fast(x, noise), reference(x, noise)))
    a, b = (torch.stack(curve).sum(1) for curve in zip(*losses, strict=True))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=0)
    state = model.state_dict()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("eps", [0.0, 1e-20])
def test_a_saturated_sigmoid_is_non_finite_where_autograd_says_so(eps: float) -> None:
    """Document 000's NaN: log(0)·0, which eps takes away."""
    model = a_vae(likelihood=Bernoulli(form="probabilities", eps=eps))
    with torch.no_grad():
        model.decoder.output.bias.copy_(torch.linspace(-200, 200, PIXELS))
    x, noise = random(5, PIXELS).round(), normal(5, 3)  # black or white, as most pixels are
    reference = copy.deepcopy(model)
    loss = reference(x, noise[None]).reconstruction_loss.sum()
    loss.backward()
    step = FastStep(model, Elbo(reconstruction="sum", kl="sum", beta=0.0), adam)
    sums = step.gradients(x, noise)
    torch.testing.assert_close(sums[0], loss.detach(), equal_nan=True)
    for p, q in zip(model.decoder.parameters(), reference.decoder.parameters(), strict=True):
        assert q.grad is not None
        assert torch.equal(gradient_of(step, p).isfinite(), q.grad.isfinite())
    assert bool(sums.isfinite().all()) == (eps > 0)


def test_the_model_sees_each_step_and_loads_weights() -> None:
    model = a_vae()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = FastStep(model, Elbo(), adam)
    x, noise = random(5, PIXELS), normal(1, 5, 3)
    first = step(x, noise).clone()
    assert all(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.load_state_dict(before)
    torch.testing.assert_close(step(x, noise), first, rtol=0, atol=0)


def test_the_optimizer_is_the_runs_own_on_one_tensor() -> None:
    made: list[list[nn.Parameter]] = []

    def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        made.append(list(parameters))
        return adam(made[-1], lr=0.5)

    model = a_vae()
    step = FastStep(model, Elbo(), optimizer)
    assert [p.numel() for p in made[0]] == [sum(p.numel() for p in model.parameters())]
    assert step.optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    "optimizer",
    [
        adam,
        adamw,
        functools.partial(torch.optim.Adam, fused=True, weight_decay=0.1),
        functools.partial(torch.optim.Adam, fused=True, weight_decay=0.1, decoupled_weight_decay=True),
        functools.partial(torch.optim.Adam, fused=True, amsgrad=True),
    ],
    ids=["adam", "adamw", "decay", "decoupled", "amsgrad"],
)
def test_the_kernel_alone_is_the_optimizers_own_step(optimizer: MakeOptimizer) -> None:
    """Bit by bit, its state too, with a learning rate that changes as a schedule changes it."""
    models = [a_vae() for _ in range(2)]
    fast, plain = (FastStep(model, Elbo(), optimizer) for model in models)
    for index in range(4):
        x, noise = random(5, PIXELS, seed=index), normal(1, 5, 3, seed=index)
        fast(x, noise)
        plain.gradients(x, noise[0])
        plain.optimizer.step()
        assert torch.equal(fast.flat, plain.flat)
        for step in (fast, plain):
            step.optimizer.param_groups[0]["lr"] *= 0.5
    states = [step.optimizer.state[step.flat] for step in (fast, plain)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def mine(kind: Any, *given: Any, **options: Any) -> Any:
    """A part of a subclass, which may compute something else than the part that it is made of."""
    return type("Mine", (kind,), {})(*given, **options)


STRANGERS = {
    "objective Mine": mine(Elbo, beta=0.3),
    "likelihood Mine": mine(Bernoulli),
    "likelihood ContinuousBernoulli": ContinuousBernoulli(),
    "likelihood LearnedGaussian": LearnedGaussian(),
    "posterior partial": functools.partial(gaussian),
    "prior Mine": mine(StandardNormal),
    "input Mine": mine(Grey),
    "target Mine": mine(Grey),
    "encoder Mine": mine(MLPEncoder, (PIXELS,), 3, hidden=[11, 7]),
    "decoder Mine": mine(MLPDecoder, (PIXELS,), 3, hidden=[7, 11]),
}


@pytest.mark.parametrize("named", STRANGERS)
def test_a_stranger_takes_the_reference_step(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient is that of its loss's mean over images."""
    model, objective = a_vae(), Elbo()
    if named.startswith("objective"):
        objective = STRANGERS[named]
    else:
        setattr(model, named.split(maxsplit=1)[0], copy.deepcopy(STRANGERS[named]))
    assert refusal(model, objective, "fp32") == f"{named} has no written-out gradient"
    monkeypatch.setitem(lookup.REGISTRIES, "objective", {"elbo": lambda **_: objective})
    x, noise = random(5, PIXELS), normal(1, 5, 3)
    due = torch.autograd.grad(objective(model(x, noise), 7).mean(), list(model.parameters()))
    step = make_step(a_run(), model)
    assert (step.engine, step.note) == ("reference", f"reference: {named} has no written-out gradient")
    step(x, noise, 7)
    for p, gradient in zip(model.parameters(), due, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_what_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(a_vae().to("meta"), Elbo(), "fp32") == "the fast step is written for a CPU, not meta"
    odd = a_vae()
    odd.encoder.trunk.append(nn.Softplus())
    assert refusal(odd, Elbo(), "fp32") == "encoder Softplus has no written-out gradient"
    for network in ("encoder", "decoder"):
        model = build(a_run(**{network: "conv-bn"}), SHAPE)
        told = refusal(model, Elbo(), "fp32")
        assert told == f"{network} Conv{network.capitalize()} has no written-out gradient"
    # An optimizer may look at a layer as a whole, which a flat tensor does not show
    monkeypatch.setitem(lookup.REGISTRIES, "optimizer", {"adam": functools.partial(adam)})
    step = make_step(a_run(), build(a_run(), SHAPE))
    assert (step.engine, step.note) == (
        "reference",
        "reference: optimizer adam may need the parameters apart",
    )


def test_bf16_rounds_the_operands_of_large_layers_and_nothing_else() -> None:
    """Gradients within a few roundings (2^-8) of float32's; small layers' products are float32's own."""
    sizes = {"pixels": 400, "hidden": (300, 20)}
    full, half = a_vae(**sizes), a_vae(**sizes)  # type: ignore[arg-type]
    assert refusal(half, Elbo(), "bf16") is None
    steps = FastStep(full, Elbo(), adam), FastStep(half, Elbo(), adam, "bf16")
    assert [layer.weight.numel() for layer in steps[1].rounded] == [300 * 400, 400 * 300]
    x, noise = random(16, 400), normal(16, 3)
    sums = [step.gradients(x, noise) for step in steps]
    torch.testing.assert_close(sums[1], sums[0], rtol=1e-2, atol=0)
    assert not torch.equal(sums[1], sums[0])
    for p, q in zip(full.parameters(), half.parameters(), strict=True):
        expected = gradient_of(steps[0], p)
        assert q.dtype == torch.float32
        assert (gradient_of(steps[1], q) - expected).norm() <= 0.03 * expected.norm()
    small = a_vae(), a_vae()
    a = FastStep(small[0], Elbo(), adam)(random(5, PIXELS), normal(1, 5, 3))
    b = FastStep(small[1], Elbo(), adam, "bf16")(random(5, PIXELS), normal(1, 5, 3))
    assert torch.equal(a, b)


def test_bf16_takes_the_weights_of_each_step() -> None:
    """After many steps the loss is float32's up to rounding: stale rounded weights would leave it behind."""
    models = [a_vae(pixels=400, hidden=(300, 20)) for _ in range(2)]
    steps = FastStep(models[0], Elbo(), adam), FastStep(models[1], Elbo(), adam, "bf16")
    x = random(16, 400).round()
    losses = [[float(step(x, normal(1, 16, 3, seed=i)).sum()) for i in range(60)] for step in steps]
    assert losses[0][-1] < 0.8 * losses[0][0]
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.01)
