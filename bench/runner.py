"""One run: build, train, evaluate, record.

Whatever happens to it becomes a record, never the end of the matrix.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from bench import pictures, plots
from bench.data import Dataset, split
from bench.device import describe, initialised, reset_peak_memory
from bench.evaluate import Labels, Measured
from bench.model.posteriors import Q
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
    full: bool = False  # draw what takes seconds too: t-SNE


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
        record |= _train_and_measure(job, shop, folder, emit)
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


def _train_and_measure(job: Job, shop: Workshop, folder: RunFolder, emit: Emit) -> dict[str, Any]:
    reset_peak_memory(shop.device)
    run = job.run
    images, labels = divide(run, shop.data, shop.device)
    model = untrained(run).to(shop.device)
    album = _Album(job, images.test, labels.test, folder, emit)

    def on_epoch(row: Row, model: VAE) -> None:
        emit("epoch", dict(row))
        album.epoch(model, int(row["epoch"] or 0))

    training = train(run, model, images, on_epoch)
    _save_weights(training.weights, folder)
    emit("evaluate", {})
    measured = Measured(run, model, training, images, labels, shop.net, shop.reference)
    metrics = measured.metrics()
    album.close(model, measured.q)
    return {
        "status": "finished",
        "reason": None,
        "beta_eff": objective_of(run).beta_eff(run.batch_size, images.train.shape[1], run.latent),
        "likelihood_class": likelihood_class(model),
        "metrics": metrics,
        "monte_carlo_error": measured.monte_carlo_error(),
        "kl_per_unit": measured.kl_per_unit(),
        "calibration": vars(measured.calibration),
        "curves": training.curves,
        "evaluation_seconds": measured.seconds | {"pictures": album.seconds},
        "environment": describe(shop.device) | {"precision": run.precision, "engine": training.engine},
        "data": {
            "name": shop.data.name,
            "digest": shop.data.digest,
            "train": len(images.train),
            "validation": 0 if images.validation is None else len(images.validation),
            "test": len(images.test),
        },
    }


class _Album:
    """The pictures of one run, drawn as it goes on, and the seconds they took."""

    def __init__(self, job: Job, test: Tensor, labels: Tensor, folder: RunFolder, emit: Emit) -> None:
        self.run = job.run
        self.full = job.full
        self.test = test
        self.labels = labels
        self.folder = folder
        self.emit = emit
        self.shown = pictures.epochs_shown(job.run.epochs)
        self.samples: dict[int, Image.Image] = {}
        self.seconds = 0.0

    def epoch(self, model: VAE, epoch: int) -> None:
        """What the model makes of noise and of test images by now."""
        if epoch not in self.shown:
            return
        started = time.perf_counter()
        self.samples[epoch] = pictures.samples(model, self.run.seed)
        reconstructions = pictures.reconstructions(model, self.test, self.labels, self.run.seed)
        for key, image in {"samples": self.samples[epoch], "reconstructions": reconstructions}.items():
            self._keep(key, image, f"{key}-epoch-{epoch:03d}.png", epoch)
        self.seconds += time.perf_counter() - started

    def close(self, model: VAE, q: Q) -> None:
        """What is drawn once, of the trained model and its posteriors of the test images."""
        started = time.perf_counter()
        drawn = {
            "interpolations": pictures.interpolations(model, self.test, self.labels),
            "latent": plots.latent(q.mean, self.labels),
            "tsne": plots.tsne(q.mean, self.labels) if self.full else None,
            "kl": plots.kl(q),
            "manifold": pictures.manifold(model) if self.run.latent == 2 else None,
        }
        for key, image in drawn.items():
            if image is not None:
                self._keep(key, image, f"{key}.png", self.run.epochs)
        pictures.progress(self.samples, self.folder.pictures / "progress.gif")
        self.seconds += time.perf_counter() - started

    def _keep(self, key: str, image: Image.Image, file: str, epoch: int) -> None:
        path = pictures.save(image, self.folder.pictures / file)
        self.emit("image", {"path": str(path), "key": key, "step": epoch})


def _save_weights(weights: dict[str, Tensor], folder: RunFolder) -> None:
    """The state_dict as safetensors; nothing where no epoch was finite."""
    if weights:
        folder.path.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous().cpu() for name, value in weights.items()}, folder.weights)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
