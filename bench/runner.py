"""One run: build, train, evaluate, record.

Whatever happens to it becomes a record, never the end of the matrix.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench import pictures
from bench.data import Dataset, split
from bench.device import describe, initialised, reset_peak_memory
from bench.evaluate import Labels, Measured
from bench.model.vae import VAE, build, likelihood_class
from bench.records import Record, RunFolder
from bench.samples import FeatureNet, Reference
from bench.spec import Run
from bench.train import DivergedError, Images, Row, objective_of, train

Emit = Callable[[str, dict[str, Any]], None]  # ("epoch", row) and ("image", {path, key, step}) as they happen


@dataclass(frozen=True)
class Job:
    """One run to do.

    What, under which id, where its folder is, and what its record says of the experiment.
    """

    id: str
    run: Run
    folder: Path
    about: dict[str, Any]  # experiment, axes, git, command: copied into the record


@dataclass(frozen=True)
class Workshop:
    """What every run of a process shares: the data and the yardstick of the sample metrics."""

    data: Dataset
    device: torch.device
    net: FeatureNet
    reference: Reference


def execute(job: Job, shop: Workshop, emit: Emit) -> Record:
    """Do one run and write its folder; returns the record, whose status says how it went."""
    shutil.rmtree(job.folder, ignore_errors=True)  # an unfinished earlier attempt: the record is written last
    folder = RunFolder(job.folder)
    record: Record = {
        "id": job.id,
        "variant": job.run.variant,
        "seed": job.run.seed,
        "run": job.run.model_dump(mode="json"),
        **job.about,
        "environment": describe(shop.device) | {"precision": job.run.precision},
        "started": _now(),
    }
    try:
        record |= _train_and_measure(job.run, shop, folder, emit)
    except DivergedError as error:
        _save_weights(error.training.weights, folder)
        record |= {
            "status": "diverged",
            "reason": f"{error.term} became non-finite in epoch {error.epoch}",
            "diverged": {"epoch": error.epoch, "term": error.term},
            "curves": error.training.curves,
        }
    except Exception as error:  # isolation: the matrix goes on without this run, and the record tells why
        reason = f"{type(error).__name__}: {error}"
        record |= {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}
    record |= {"finished": _now(), "artifacts": folder.artifacts()}
    folder.write_record(record)
    return record


def divide(run: Run, data: Dataset, device: torch.device) -> tuple[Images, Labels]:
    """The run's images and labels on the device, its validation images held out of the training set."""
    train_index, validation_index = split(data, run.validation, run.seed)
    images = data.train_images.flatten(1)
    validation = images[validation_index].to(device) if len(validation_index) else None
    whole = len(train_index) == len(images)  # no copy where nothing is held out
    train_images = images if whole else images[train_index]
    train_labels = data.train_labels if whole else data.train_labels[train_index]
    return (
        Images(train_images.to(device), data.test_images.flatten(1).to(device), validation),
        Labels(train_labels, data.test_labels),
    )


def untrained(run: Run) -> VAE:
    """The run's model as its seed initialises it, on the CPU."""
    with initialised(run.seed):
        return build(run)


def _train_and_measure(run: Run, shop: Workshop, folder: RunFolder, emit: Emit) -> dict[str, Any]:
    reset_peak_memory(shop.device)
    images, labels = divide(run, shop.data, shop.device)
    model = untrained(run).to(shop.device)
    shown = pictures.epochs_shown(run.epochs)

    def on_epoch(row: Row, model: VAE) -> None:
        emit("epoch", dict(row))
        epoch = int(row["epoch"] or 0)
        if epoch in shown:
            _draw(model, run, images.test, labels.test, epoch, folder, emit)

    training = train(run, model, images, on_epoch)
    _save_weights(training.weights, folder)
    if run.latent == 2:
        path = pictures.save(pictures.manifold(model), folder.pictures / "manifold.png")
        emit("image", {"path": str(path), "key": "manifold", "step": run.epochs})
    emit("evaluate", {})
    measured = Measured(run, model, training, images, labels, shop.net, shop.reference)
    return {
        "status": "finished",
        "reason": None,
        "beta_eff": objective_of(run).beta_eff(run.batch_size, images.train.shape[1], run.latent),
        "likelihood_class": likelihood_class(model),
        "metrics": measured.metrics(),
        "monte_carlo_error": measured.monte_carlo_error(),
        "kl_per_unit": measured.kl_per_unit(),
        "calibration": vars(measured.calibration),
        "curves": training.curves,
        "evaluation_seconds": measured.seconds,
        "environment": describe(shop.device) | {"precision": run.precision, "engine": training.engine},
        "data": {
            "name": shop.data.name,
            "digest": shop.data.digest,
            "train": len(images.train),
            "validation": 0 if images.validation is None else len(images.validation),
            "test": len(images.test),
        },
    }


def _draw(
    model: VAE, run: Run, test: Tensor, labels: Tensor, epoch: int, folder: RunFolder, emit: Emit
) -> None:
    drawn = {
        "samples": pictures.samples(model, run.seed),
        "reconstructions": pictures.reconstructions(model, test, labels, run.seed),
    }
    for key, image in drawn.items():
        path = pictures.save(image, folder.pictures / f"{key}-epoch-{epoch:03d}.png")
        emit("image", {"path": str(path), "key": key, "step": epoch})


def _save_weights(weights: dict[str, Tensor], folder: RunFolder) -> None:
    """The state_dict as safetensors; nothing where no epoch was finite."""
    if weights:
        folder.path.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous().cpu() for name, value in weights.items()}, folder.weights)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
