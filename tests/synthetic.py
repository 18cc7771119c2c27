"""Synthetic experiments: a folder as a matrix leaves it behind, with numbers that follow from simple laws."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from PIL import Image

from bench.store.experiments import RUNS, ExperimentFolder
from bench.store.lock import LOCK

Settings = dict[str, Any]
Edit = Callable[[dict[str, Any]], Any]
Measure = Callable[[str, Settings, int], dict[str, float]]

ARCHITECTURES = {
    "mlp-512-256-2": ("mlp", 2, 736532),
    "mlp-512-512-20": ("mlp", 20, 1098040),
    "conv-bn-16": ("conv-bn", 16, 96481),
    "linear-400-20": ("linear", 20, 652824),
    "mlp-100-100-32": ("mlp", 32, 187648),
}
SMALL = 32 / 784
NOISE = (0.0, 0.02, -0.01, 0.03, -0.02)  # of seeds


def settings(
    *,
    latent: int = 20,
    encoder: str = "mlp",
    likelihood: str = "bernoulli",
    beta: float = 1.0,
    axes: Mapping[str, Any] | None = None,
    published: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> Settings:
    """One resolved variant."""
    return {
        "latent": latent,
        "encoder": {"name": encoder, "options": {}},
        "decoder": {"name": "conv-bn" if encoder == "conv-bn" else "mlp", "options": {}},
        "posterior": {"name": "gaussian", "options": {}},
        "likelihood": {"name": likelihood, "options": {}},
        "objective": {"name": "elbo", "options": {"beta": beta}},
        "optimizer": {"name": "adam", "options": {"lr": 0.001}},
        "batch_size": 128,
        "epochs": 20,
        "axes": dict(axes or {}),
        "published": [dict(row) for row in published],
        **more,
    }


def matrix() -> dict[str, Settings]:
    """The controlled matrix: five architectures, two likelihoods, two β."""
    return {
        f"{architecture}-{likelihood}-beta{beta:.3g}": settings(
            latent=latent,
            encoder=encoder,
            likelihood=likelihood,
            beta=beta,
            axes={"architecture": architecture, "likelihood": likelihood, "beta": beta},
            parameters=parameters,
        )
        for architecture, (encoder, latent, parameters) in ARCHITECTURES.items()
        for likelihood in ("bernoulli", "gaussian")
        for beta in (1.0, SMALL)
    }


def documents() -> dict[str, Settings]:
    """Nine variants written out by name, with published numbers of every kind."""
    row = {"metric": "test_loss", "unit": "nats/image", "to_nats": 1.0, "source": "README"}
    training = "training loss on a thresholded target"
    return {
        "000-recsys": settings(
            latent=2, document="000", posterior={"name": "gaussian-raw-sigma", "options": {}},
            published=[row | {"value": 170.4045, "epoch": 1}, row | {"value": 147.6945, "epoch": 14}],
        ),
        "001-bvezilic": settings(
            latent=10, document="001",
            published=[row | {"value": 5905.0, "unit": "per batch of 64", "epoch": 20, "to_nats": 938 / 60000,
                              "metric": "train_loss", "uncertainty": 10.0, "not_comparable": training}],
        ),
        "002-conv": settings(
            latent=16, encoder="conv-bn", beta=0.1, document="002",
            objective={"name": "elbo", "options": {"beta": 0.1, "reconstruction": "mean", "kl": "mean"}},
            published=[row | {"value": 0.191699, "unit": "per pixel", "epoch": 20, "to_nats": 784.0}],
        ),
        "003-linear-20": settings(
            latent=20, encoder="linear", document="003", note="test loss divided by 79 batches",
            published=[row | {"value": 0.8558, "unit": "per image", "epoch": 20, "to_nats": 10000 / 79}],
        ),
        "003-linear-10": settings(latent=10, encoder="linear", document="003"),
        "003-linear-2": settings(latent=2, encoder="linear", document="003"),
        "004-beta-1": settings(latent=32, likelihood="gaussian", document="004", optimizer={"name": "adamw"}),
        "004-beta-small": settings(
            latent=32, likelihood="gaussian", beta=SMALL, document="004", optimizer={"name": "adamw"}
        ),
        "pytorch-example": settings(latent=20, published=[row | {"value": 106.66, "epoch": 7}]),
    }  # fmt: skip


def measure(name: str, variant: Settings, seed: int) -> dict[str, float]:
    """Plausible metrics: a level that follows from the settings, noise shared by seed, noise of its own."""
    shared, own = random.Random(f"seed {seed}"), random.Random(f"{name} {seed}")
    noise = shared.gauss(0, 0.3) + own.gauss(0, 0.15)
    beta, z = variant["objective"]["options"]["beta"], variant["latent"]
    beta = 4.9 if variant["objective"]["options"].get("kl") == "mean" else beta
    gaussian = variant["likelihood"]["name"] == "gaussian"
    linear = variant["encoder"]["name"] == "linear"
    kl = min(8 + 5 * math.log(z + 1) - 3 * math.log(beta), 90.0) + (4 if gaussian else 0) + 0.3 * noise
    elbo = -150 + 14 * math.log(z) - abs(math.log(beta)) * 6 - 5 * gaussian - 3 * linear + noise
    return {
        "test_loss": -elbo / (784 if beta == 4.9 else 1),
        "test_loss_nats": -elbo + (3 if "raw" in variant["posterior"]["name"] else 0),
        "elbo": elbo + (900 if gaussian else 0),
        "reconstruction": -elbo - kl - (900 if gaussian else 0),
        "kl": kl,
        "elbo_bernoulli": elbo,
        "log_px_bernoulli": elbo + 5 + 0.1 * noise,
        "iwae_bernoulli": elbo + 4 + 0.1 * noise,
        "gaussian_bits_per_dim": 2.5 - elbo / 200 - (0.1 if gaussian else 0),
        "mse": 0.02 - elbo / 1e4 - (0.002 if gaussian else 0),
        "active_units": float(min(z, 18)),
        "aggregate_kl": max(0.3, 0.8 - 2.5 * math.log(beta)) + 0.05 * own.gauss(0, 1),
        "mutual_information": min(kl - 1, 8.0),
        "linear_probe_accuracy": 0.8 + 0.1 * math.tanh(z / 10) + 0.003 * noise,
        "knn_accuracy": 0.85 + 0.1 * math.tanh(z / 10) + 0.003 * noise,
        "frechet_distance": 20 - 6 * math.log(beta) * (beta < 1) + 2 * own.gauss(0, 0.5),
        "density": 0.6 + 0.01 * noise,
        "recall": 0.5 + 0.01 * noise,
        "coverage": 0.55 + 0.01 * noise,
        "parameters": float(variant.get("parameters", 652824)),
        "train_seconds": 20 + z / 2 + 60 * (variant["encoder"]["name"] == "conv-bn") + own.gauss(0, 0.4),
        "images_per_second": 60000 - 500 * z + own.gauss(0, 900),
        "peak_memory_mb": 412.5,
    }


def measured(levels: Mapping[str, Mapping[str, float]]) -> Measure:
    """A measure with given levels and the same small noise in every variant, more in each next one."""
    names = list(levels)

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        scale = 1 + 0.1 * names.index(name)
        return {metric: value + scale * NOISE[seed] for metric, value in levels[name].items()}

    return measure


def record(
    run_id: str, name: str, variant: Settings, seed: int, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """A finished run's record, its curves falling towards the final test loss."""
    beta = variant["objective"]["options"]["beta"]
    final = metrics.get("test_loss_nats", 100.0)
    kind = {"bernoulli": "Bernoulli", "gaussian": "Gaussian"}.get(variant["likelihood"]["name"], "other")
    last = variant["epochs"]
    curves = [
        {"epoch": e, "test_loss": final, "test_loss_nats": final * (1 + 0.4 * (1 / e - 1 / last)),
         "train_loss_nats": final * 0.98, "elbo": -final, "train_seconds": 1.0}
        for e in range(1, last + 1)
    ]  # fmt: skip
    return {
        "format": 2, "yardstick": 2, "id": run_id, "experiment": "synthetic", "variant": name, "seed": seed,
        "run": {"importance_samples": 200}, "status": "finished", "reason": None,
        "beta_eff": 4.9 if variant["objective"]["options"].get("kl") == "mean" else beta,
        "likelihood_class": f"{kind}, grey target",
        "metrics": dict(metrics), "monte_carlo_error": {"iwae_bernoulli": 0.05}, "curves": curves,
        "calibration": {"temperature": 1.1 + 0.01 * seed, "variance": 0.01},
        "evaluation_seconds": {"log_px": 3.0, "samples": 1.5},
        "environment": {"device": "cpu", "device_name": "Example CPU", "threads": 1, "precision": "fp32",
                        "engine": "reference", "torch": "2.15.0", "platform": "Linux"},
        "data": {"name": "mnist", "digest": "0f1e2d3c", "train": 60000, "validation": 0, "test": 10000},
        "git": {"commit": "0123456789abcdef", "dirty": False},
    }  # fmt: skip


def lost(run: dict[str, Any], status: str) -> dict[str, Any]:
    """What becomes of a finished record when its run diverges in epoch 15, or fails."""
    run = {**run, "status": status, "reason": "reconstruction became non-finite in epoch 15"}
    if status == "diverged":
        whole = [row for row in run["curves"] if row["epoch"] < 15]
        return run | {"diverged": {"epoch": 15, "term": "reconstruction"}, "metrics": {}, "curves": whole}
    return run | {"reason": "RuntimeError: out of memory", "metrics": {}, "curves": []}


def write(
    folder: Path,
    variants: Mapping[str, Settings],
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    *,
    measure: Measure = measure,
    status: Mapping[tuple[str, int], str] | None = None,
    pictures: bool = False,
    **experiment: Any,
) -> Path:
    """Write an experiment's folder; `status` makes a run diverged, failed or missing instead of finished."""
    planned = {
        f"{name}-s{seed}-{i:04x}{seed:04x}": (name, seed) for i, name in enumerate(variants) for seed in seeds
    }
    save(
        folder / "experiment.json",
        {
            "name": "synthetic",
            "question": "Which documented VAE is best on one footing, and what do BCE/MSE and β change?",
            "dataset": "mnist", "declared_dataset": "mnist", "fallback": False, "seeds": list(seeds),
            "command": "bench run experiments/synthetic.yaml", "variants": dict(variants),
            "planned": {
                run_id: {"variant": name, "seed": seed, "run": key(folder, run_id, seed)}
                for run_id, (name, seed) in planned.items()
            },
            **experiment,
        },
    )  # fmt: skip
    for run_id, (name, seed) in planned.items():
        state = (status or {}).get((name, seed), "finished")
        if state == "missing":
            continue
        done = record(run_id, name, variants[name], seed, measure(name, variants[name], seed))
        run = folder.parent / RUNS / key(folder, run_id, seed)
        save(run / "record.json", done if state == "finished" else lost(done, state))
        if pictures:
            for epoch in (1, variants[name]["epochs"]):
                for kind in ("samples", "reconstructions"):
                    picture(run / "pictures" / f"{kind}-epoch-{epoch:03d}.png", seed + epoch)
    return folder


def key(folder: Path, run_id: str, seed: int) -> str:
    """A key of its own for each run of each folder."""
    return f"{hashlib.sha256(f'{folder.absolute()} {run_id}'.encode()).hexdigest()[:16]}-s{seed}"


def runs_of(folder: Path, pattern: str = "*") -> dict[str, Path]:
    """The folders of an experiment's runs whose ids match, as far as they are there."""
    home = ExperimentFolder(folder)
    found = {run_id: home.run(run_id).path for run_id in home.planned if fnmatch(run_id, pattern)}
    return {run_id: path for run_id, path in found.items() if path.exists()}


def baselines() -> dict[str, Any]:
    """Baselines as bench writes them."""
    return {
        "rows": [
            {"name": "PCA", "latent": 20, "mse": 0.0254},
            {"name": "probabilistic PCA", "latent": 20, "gaussian_bits_per_dim": 3.21},
            {
                "name": "pixel mean",
                "latent": 0,
                "mse": 0.067,
                "elbo_bernoulli": -206.7,
                "gaussian_bits_per_dim": 3.9,
            },
        ],
        "samples": {
            "floor": {"frechet_distance": 0.41, "density": 0.97, "recall": 0.97, "coverage": 0.97},
            "ceiling": {"frechet_distance": 812.3, "density": 0.0, "recall": 0.0, "coverage": 0.0},
        },
        "classifier": {"accuracy": 0.9907, "digest": "5f33e24a11b035d1"},
    }


def picture(path: Path, shade: int) -> None:
    """A grey square."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (280, 280), shade * 9 % 256).save(path)


def save(path: Path, value: object) -> None:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit(path: Path, change: Edit) -> None:
    """Change a file of JSON."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    save(path, content)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file by its place, but for a lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
