"""A run's record and folder, and what an MLflow store holds of it, for the tests of tracking."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from factory import key_of
from PIL import Image

from bench.store.records import RunFolder
from bench.tracking import Attempt, Tracker, Writer

EPOCHS = 5
SETTINGS = {
    "encoder": {"name": "mlp", "options": {"hidden": [512, 256]}},
    "document": "000", "beta": 1.0, "epochs": EPOCHS,
}  # fmt: skip


def curve(epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch, "train_loss": 200.0 / epoch, "test_loss": 210.0 / epoch, "validation_loss": None,
        "elbo": -100.0 - 1.0 / epoch, "kl": 25.0, "train_seconds": 0.5, "images_per_second": 4e4,
    }  # fmt: skip


def record(
    seed: int = 0, status: str = "finished", variant: str = "mlp", settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A finished run's record, its settings by default a few."""
    return {
        "format": 2, "id": f"{variant}-s{seed}-0123abcd", "experiment": "all",
        "variant": variant, "seed": seed,
        "run": SETTINGS | (settings or {}),
        "status": status, "reason": None, "beta_eff": 1.0, "likelihood_class": "Bernoulli, grey target",
        "metrics": {"elbo_bernoulli": -105.5 - seed, "kl": 25.0, "gaussian_bits_per_dim": None},
        "monte_carlo_error": {"iwae_bernoulli": 0.01}, "evaluation_seconds": {"elbo": 1.0, "log_px": 2.5},
        "curves": [curve(epoch) for epoch in range(1, EPOCHS + 1)],
        "environment": {"device": "cpu", "torch": "2.15.0"},
        "data": {"name": "digits", "digest": "d" * 64, "train": 1500, "test": 297},
        "git": {"commit": "abc123", "dirty": True},
        "command": "bench run all.yaml --tracking-uri http://me:secret@host:5000",
        "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:00:10+00:00",
    }  # fmt: skip


def run_folder(reports: Path, made: dict[str, Any]) -> RunFolder:
    """The folder of a run with weights, pictures and its record, planned by the experiment `reports`."""
    file, key = reports / "experiment.json", key_of(made["id"])
    spec = json.loads(file.read_text()) if file.exists() else {"dataset": "digits", "variants": {}}
    plan = {"variant": made["variant"], "seed": made["seed"], "run": key}
    spec["planned"] = {**spec.get("planned", {}), made["id"]: plan}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(spec))
    folder = RunFolder(reports.parent / "runs" / key)
    folder.pictures.mkdir(parents=True, exist_ok=True)
    folder.weights.write_bytes(b"weights")
    for name in ("samples-epoch-001", "samples-epoch-005", "manifold"):
        Image.fromarray(np.full((28, 56), 128, np.uint8)).save(folder.pictures / f"{name}.png")
    folder.write_record(made)
    return folder


def known(made: dict[str, Any], epochs: int = 0) -> dict[str, Any]:
    """What is known of a run that goes on, some epochs long."""
    late = ("status", "finished", "metrics", "monte_carlo_error", "evaluation_seconds")
    return {key: value for key, value in made.items() if key not in late} | {
        "curves": made["curves"][:epochs]
    }


def begin(
    tracker: Tracker, made: dict[str, Any], folder: Path, epochs: int, *, resume: bool = False
) -> Attempt:
    """A run that goes on, with its first picture, in the store."""
    attempt = Attempt(folder, resume, [(folder / "pictures/samples-epoch-001.png", "samples", 1)])
    tracker.deliver(known(made, epochs), attempt)
    return attempt


def tell(writes: Writer, reports: Path, seed: int = 0) -> dict[str, Any]:
    """Tell all that a worker tells of one run; give its record."""
    made = record(seed)
    folder = run_folder(reports, made)
    writes.start(known(made), folder.path)
    for row in made["curves"]:
        writes.epoch(made["id"], row)
    writes.image(made["id"], folder.pictures / "samples-epoch-005.png", "samples", 5)
    writes.finish(made, folder.path)
    return made


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def artifacts(tracker: Tracker, run: str, inside: str | None = None) -> list[str]:
    """Give the paths of a run's artifacts."""
    return sorted(item.path for item in tracker._client.list_artifacts(run, inside))


def steps(tracker: Tracker, run: str, metric: str) -> list[int]:
    """The steps of a metric, each as often as it was logged."""
    return [point.step for point in tracker._client.get_metric_history(run, metric)]


def attempts(tracker: Tracker, made: dict[str, Any]) -> list[Any]:
    """Every MLflow run of a record's id."""
    return list(tracker._client.search_runs([tracker.experiment_id], f"tags.`bench.id` = '{made['id']}'"))


def assert_whole_once(tracker: Tracker, made: dict[str, Any]) -> str:
    """One attempt of a run counts and has everything once; no other is left open. Gives its MLflow id."""
    found = attempts(tracker, made)
    (latest,) = [run for run in found if run.data.tags["bench.attempt"] == "latest"]
    assert latest.data.tags["outcome"] == made["status"]
    assert {run.info.status for run in found if run is not latest} <= {"KILLED", "FAILED", "FINISHED"}
    run = str(latest.info.run_id)
    epochs = [row["epoch"] for row in made["curves"]]
    for metric in ("test/elbo", "train/loss", "time/total_seconds"):
        assert sorted(steps(tracker, run, metric)) == epochs, metric
    assert steps(tracker, run, "elbo_bernoulli") == [0]
    assert {"record.json", "weights.safetensors", "pictures", "images"} == set(artifacts(tracker, run))
    assert len(artifacts(tracker, run, "images")) == 6, "three pictures, and the UI's copy of each"
    assert latest.info.status == "FINISHED"
    assert latest.info.end_time >= latest.info.start_time
    assert len(tracker._client.get_run(run).inputs.dataset_inputs) == 1
    return run
