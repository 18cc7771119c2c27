"""Runs, models and images for tests: small, random, and of odd and pairwise distinct sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.data.dataset import Dataset
from bench.engine.checkpoint import State
from bench.engine.images import Images
from bench.engine.loop import Row, Training, train
from bench.parts.likelihoods import Bernoulli
from bench.parts.networks import MLPDecoder, MLPEncoder
from bench.parts.pixels import Grey
from bench.parts.posteriors import gaussian
from bench.parts.protocols import Likelihood, Pixels, Posterior
from bench.parts.vae import VAE
from bench.spec.experiment import Part, Run

PIXELS, LATENT = 13, 3
SHAPE = (28, 28)  # of the images of `a_run` and `a_dataset`
TIMES = {"train_seconds", "images_per_second", "peak_memory_mb"}  # differ between any two runs

# Options of parts that have no default for them
REQUIRED: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [11, 7]},
    "linear": {"hidden": 11},
    "sgd": {"lr": 1e-3},
    "step": {"every": 1, "gamma": 0.1},
    "StepLR": {"step_size": 1},
    "MultiStepLR": {"milestones": [1, 3]},
    "ExponentialLR": {"gamma": 0.7},
    "CosineAnnealingLR": {"T_max": 4},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "free-bits": {"nats": 0.3},
    "beta-tcvae": {"beta": 6.0},
    "mmd": {"mmd": 10.0},
    "vamp": {"components": 9},
}


def part(name: str, **options: Any) -> Part:
    """A part with the options it needs."""
    return Part(name=name, options=REQUIRED.get(name, {}) | options)


def a_run(**changes: Any) -> Run:
    """A small run of 28 x 28 images; parts may be given by name."""
    settings: dict[str, Any] = {
        "variant": "small",
        "seed": 0,
        "dataset": "tiny",
        "validation": 0,
        "encoder": "mlp",
        "decoder": part("mlp", hidden=[9]),
        "latent": LATENT,
        "posterior": "gaussian",
        "input": "grey",
        "target": "grey",
        "likelihood": "bernoulli",
        "objective": "elbo",
        "optimizer": "adam",
        "schedule": "constant",
        "batch_size": 8,
        "epochs": 2,
        "shuffle": True,
        "drop_last": False,
        "precision": "fp32",
        "importance_samples": 5,
    } | changes
    kinds = ("encoder", "decoder", "posterior", "input", "target", "likelihood")
    for kind in (*kinds, "objective", "optimizer", "schedule"):
        if isinstance(settings[kind], str):
            settings[kind] = part(settings[kind])
    return Run(**settings)


def a_vae(
    *,
    likelihood: Likelihood | None = None,
    posterior: Posterior = gaussian,
    activation: str | list[str] = "relu",
    input_pixels: Pixels | None = None,
    target_pixels: Pixels | None = None,
    pixels: int = PIXELS,
    latent: int = LATENT,
    hidden: tuple[int, ...] = (11, 7),
    seed: int = 0,
) -> VAE:
    """A small fully connected VAE of any number of pixels, on torch's default dtype."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VAE(
            MLPEncoder((pixels,), latent, hidden=list(hidden), activation=activation),  # type: ignore[arg-type]
            MLPDecoder((pixels,), latent, hidden=list(hidden[::-1]), activation=activation),  # type: ignore[arg-type]
            posterior,
            likelihood or Bernoulli(),
            input_pixels or Grey(),
            target_pixels or Grey(),
            latent,
        )


def train_one(
    run: Run,
    model: VAE,
    images: Images,
    on_epoch: Callable[[Row, VAE], Any] = lambda row, model: None,
    start: State | None = None,
    keep: Callable[[State], Any] = lambda state: None,
) -> Training:
    """Train one run, not stacked."""
    starts = [start] if start else []
    [training] = train(
        [run], [model], [images], lambda _, row, m: on_epoch(row, m), starts, lambda _, state: keep(state)
    )
    return training


def trained(run: Run, folder: Path, shared: Any, run_id: str = "") -> dict[str, Any]:
    """The record of a run that is trained and measured in this process, and finishes."""
    from bench.runs.execute import Job, execute

    job = Job(run_id or f"{run.variant}-s{run.seed}", run, folder, {"git": {}})
    record = execute(job, shared, lambda *_: None)
    assert record["status"] == "finished", record.get("traceback")
    return record


def random(*shape: int, seed: int = 0) -> Tensor:
    """Uniform numbers on [0, 1), in torch's default dtype."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, in torch's default dtype."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bytes_of(count: int, pixels: int = 784, seed: int = 0) -> Tensor:
    """Random uint8 images [N, D]: smooth in no way, but every grey level occurs."""
    return (random(count, pixels, seed=seed) * 256).to(torch.uint8)


def a_dataset(train: int = 130, test: int = 70, seed: int = 0) -> Dataset:
    """Ten classes: one bright row each, at a place of its own, over noise."""

    def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 10
        pixels = (random(count, 28, 28, seed=seed) * 100).to(torch.uint8)
        pixels[torch.arange(count), 3 + 2 * labels] += 150
        return pixels, labels

    train_images, train_labels = images(train, seed)
    test_images, test_labels = images(test, seed + 1)
    digest = hashlib.sha256(train_images.numpy().tobytes()).hexdigest()[:32]
    return Dataset("tiny", train_images, train_labels, test_images, test_labels, digest, "tests")


def timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of curves, or metrics, less what a clock says."""
    return {name: value for name, value in row.items() if name not in TIMES}


def key_of(run_id: str) -> str:
    """A key in the store for a run of this id: its digits twice, and its seed."""
    name, _, digits = run_id.rpartition("-")
    return f"{digits}{digits}-s{name.rpartition('-s')[2]}"


def a_record(name: str, status: str = "finished") -> dict[str, Any]:
    """The least that a record has to say."""
    return {"id": name, "status": status, "variant": "small", "seed": 0, "run": {}}
