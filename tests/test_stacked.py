"""The parity certificate: replicas trained as one stacked model are the replicas trained one by one."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import LATENT, SHAPE, a_run, normal, part, random
from torch import Tensor, nn

from bench.engine.images import untrained
from bench.engine.loop import make_step
from bench.engine.stacked import DIAGONAL, stack, unstack
from bench.engine.step import ReferenceStep
from bench.parts import lookup
from bench.parts.likelihoods import LIKELIHOODS
from bench.parts.lookup import make, objective_of
from bench.parts.networks import DECODERS, ENCODERS
from bench.parts.objectives import Elbo
from bench.parts.optimizers import OPTIMIZERS, adam
from bench.parts.pixels import INPUTS, PIXELS
from bench.parts.posteriors import POSTERIORS
from bench.parts.vae import VAE
from bench.spec.experiment import Run
from bench.spec.options import ACTIVATIONS
from bench.spec.resolve import load

DOCUMENTS = Path(__file__).parents[1] / "experiments" / "documents.yaml"
R, IMAGES, STEPS = 3, 5, 4
CONV = {"encoder": "conv-bn", "decoder": "conv-bn"}
EXACT = 1e-9  # of a float64 tensor's largest element, after several steps
# A bias in front of a BatchNorm has gradient zero; what rounding leaves of it, Adam divides by as little.
# It moves such a bias, and the running mean after it, and nothing that the model gives.
WITHOUT_GRADIENT = 1e-7


def replicas(run: Run, seeds: range | list[int] = range(R), dtype: torch.dtype = torch.float64) -> list[VAE]:
    return [untrained(run.model_copy(update={"seed": seed}), SHAPE).to(dtype) for seed in seeds]


def batch(step: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A batch of grey images and noise; the last of an epoch is smaller."""
    images = IMAGES if step % STEPS < STEPS - 1 else 2
    x = random(images, 784, seed=100 * seed + step)
    return x.to(dtype), normal(1, images, LATENT, seed=100 * seed + step).to(dtype)


def serial(run: Run, models: list[VAE], seeds: list[int], steps: int = STEPS) -> Tensor:
    """Train each alone; the loss terms' sums [R, steps, 2]."""
    sums = []
    for seed, model in zip(seeds, models, strict=True):
        dtype = next(model.parameters()).dtype
        optimizer = functools.partial(make, "optimizer", run.optimizer)
        step = ReferenceStep(model, objective_of(run), optimizer, run.precision)
        sums.append(torch.stack([step(*batch(i, seed, dtype)) for i in range(steps)]))
    return torch.stack(sums)


def together(run: Run, models: list[VAE], seeds: list[int], steps: int = STEPS) -> tuple[VAE, Tensor]:
    """Train all as one; the stacked model and the loss terms' sums [R, steps, 2]."""
    stacked = stack(models, objective_of(run))
    dtype = next(stacked.parameters()).dtype
    step = make_step(run, stacked)
    sums = []
    for i in range(steps):
        pairs = [batch(i, seed, dtype) for seed in seeds]
        greys, noises = zip(*pairs, strict=True)
        sums.append(step(torch.stack(greys), torch.stack(noises, 1)))
    return stacked, torch.stack(sums, 1)


def check_states(stacked: VAE, models: list[VAE], tolerance: float) -> None:
    """Every parameter and buffer of every replica, within a share of the largest element of its tensor."""
    for r, model in enumerate(models):
        into = copy.deepcopy(model)
        for value in into.state_dict().values():
            value.zero_()
        check_state(unstack(stacked, r, into), model.state_dict(), without_gradient(model), tolerance)


def check_state(
    state: dict[str, torch.Tensor], due: dict[str, torch.Tensor], loose: set[str], tolerance: float
) -> None:
    """Compare one replica's; `loose` are the names of what has no gradient."""
    for name, value in due.items():
        scale = max(1.0, float(value.abs().max()))
        difference = float((state[name] - value).abs().max())
        assert state[name].shape == value.shape
        allowed = max(tolerance, WITHOUT_GRADIENT) if name in loose else tolerance
        assert difference <= allowed * scale, (name, difference)


def without_gradient(model: nn.Module) -> set[str]:
    """Names of biases that a BatchNorm takes out again, and of its running means."""
    trunks = {name: m for name, m in model.named_modules() if isinstance(m, nn.Sequential)}
    return {
        f"{name}.{i}.{what}"
        for name, trunk in trunks.items()
        for j, m in enumerate(trunk)
        if isinstance(m, nn.BatchNorm2d)
        for i, what in ((j - 1, "bias"), (j, "running_mean"))
    }


CERTIFIED: list[dict[str, Any]] = [
    *({"likelihood": name, "posterior": other} for name in LIKELIHOODS for other in DIAGONAL),
    {"likelihood": part("bernoulli", form="probabilities", eps=1e-20)},
    *({"encoder": name, "decoder": other} for name in ENCODERS for other in DECODERS),
    *({"encoder": part("mlp", activation=name)} for name in ("tanh", "identity", *ACTIVATIONS)),
    *(
        {"optimizer": name, "likelihood": "gaussian-learned"} | networks
        for name in ("adam", "adamw", "sgd", part("sgd", momentum=0.9))
        for networks in ({}, CONV)
    ),
    # Others make more of the rounding that a bias before BatchNorm has for a gradient
    *({"optimizer": name} for name in OPTIMIZERS if not name.islower()),
    *(
        {"objective": part("elbo", beta=0.1, reconstruction=name, kl=other)}
        for name in ("sum", "batchmean", "mean")
        for other in ("sum", "mean")
    ),
    *(
        {"input": name if name in INPUTS else "target", "target": name, "likelihood": "gaussian"}
        for name in PIXELS
    ),
]


@pytest.mark.parametrize("changes", CERTIFIED, ids=str)
def test_replicas_come_out_as_they_do_alone(changes: dict[str, Any]) -> None:
    """Over every part there is; one without a stacked form is trained alone."""
    run = a_run(**changes)
    models = replicas(run)
    try:
        stacked, sums = together(run, models, list(range(R)))  # stack copies: the serial ones start afresh
    except TypeError as error:
        pytest.skip(str(error))
    expected = serial(run, models, list(range(R)))
    torch.testing.assert_close(sums, expected, rtol=EXACT, atol=EXACT)
    check_states(stacked, models, EXACT)
    x, noise = batch(0, 9)
    with torch.no_grad():  # eval mode: BatchNorm by its running statistics; the same images for all
        stacked.eval()
        got = stacked(x, noise.expand(R, -1, -1)[None])
        for r, model in enumerate(models):
            alone = model.eval()(x, noise)
            for term in ("reconstruction_loss", "log_px", "log_pz", "log_qz"):
                a, b = getattr(got, term)[:, r], getattr(alone, term)
                torch.testing.assert_close(a, b, rtol=EXACT, atol=EXACT)
            torch.testing.assert_close(got.charged_kl[r], alone.charged_kl, rtol=EXACT, atol=EXACT)


def test_bf16_stays_within_its_rounding() -> None:
    run = a_run(precision="bf16")
    models = replicas(run, dtype=torch.float32)
    _, sums = together(run, models, [0, 1, 2])
    torch.testing.assert_close(sums, serial(run, models, [0, 1, 2]), rtol=2e-2, atol=0)


@pytest.mark.parametrize("networks", [{}, CONV], ids=["mlp", "conv-bn"])
def test_a_replica_is_the_same_in_any_company(networks: dict[str, str]) -> None:
    run = a_run(**networks)
    results = {}
    for seeds in ([2], [0, 2], [2, 1, 0, 3]):
        stacked, sums = together(run, replicas(run, seeds), seeds)
        place = seeds.index(2)
        [into] = replicas(run, [2])
        results[len(seeds)] = (sums[place], unstack(stacked, place, into))
    for sums, state in results.values():
        torch.testing.assert_close(sums, results[1][0], rtol=EXACT, atol=EXACT)
        check_state(state, results[1][1], without_gradient(into), EXACT)


@pytest.mark.parametrize("networks", [{}, CONV], ids=["mlp", "conv-bn"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_nan_stays_in_its_own_slices(networks: dict[str, str], dtype: torch.dtype) -> None:
    run = a_run(**networks)
    results = []
    for spoil in (False, True):
        models = replicas(run, dtype=dtype)
        if spoil:
            with torch.no_grad():
                next(models[1].encoder.parameters()).fill_(torch.nan)
        stacked, sums = together(run, models, [0, 1, 2])
        results.append((stacked.state_dict(), sums))
    (clean, clean_sums), (spoilt, spoilt_sums) = results
    assert not spoilt_sums[1].isfinite().any()
    for r in (0, 2):
        assert torch.equal(clean_sums[r], spoilt_sums[r])
        assert all(torch.equal(clean[name][r], spoilt[name][r]) for name in clean)


def test_names_and_shapes_are_a_replicas_with_the_axis_in_front() -> None:
    for changes in ({}, CONV, {"encoder": "linear"}):
        run = a_run(**changes)
        models = replicas(run)
        state = stack(models, Elbo()).state_dict()
        assert {n: v.shape for n, v in state.items()} == {
            n: (R, *v.shape) for n, v in models[0].state_dict().items()
        }


def test_what_the_documents_use_is_stacked() -> None:
    for variant in load(DOCUMENTS).variants.values():
        run = variant.run(0)
        stack(replicas(run, [0]), objective_of(run))


def test_what_is_not_known_is_not_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.Linear):
        """Whose forward nobody has stacked."""

    class Mine(Elbo):
        """Another loss, which may mix the replicas."""

    def changed(name: str, part: Any) -> VAE:
        [model] = replicas(a_run(), [0])
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, part)
        return model

    for name, part_, told in (
        ("decoder.output", Odd(9, 784), "decoder Odd"),
        ("posterior", functools.partial(POSTERIORS["gaussian"]), "posterior partial"),
        ("prior", object(), "prior object"),
        ("target", object(), "target object"),
    ):
        with pytest.raises(TypeError, match=f"^{told} has no stacked form"):
            stack([changed(name, part_)], Elbo())
    with pytest.raises(TypeError, match="objective Mine has no stacked form"):
        stack(replicas(a_run(), [0]), Mine())
    monkeypatch.setitem(lookup.REGISTRIES, "optimizer", {"adam": functools.partial(adam)})
    with pytest.raises(TypeError, match="optimizer adam has no stacked form"):
        make_step(a_run(), stack(replicas(a_run(), [0]), Elbo()))
