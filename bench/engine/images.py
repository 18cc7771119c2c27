"""What one run trains and is judged on, and the model that it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.data.dataset import Dataset, split
from bench.data.datasets import load
from bench.data.own import find_npz, of_part, read
from bench.engine.device import initialised, stream
from bench.errors import BenchError
from bench.parts.files import raised
from bench.parts.lookup import find
from bench.parts.protocols import Shape
from bench.parts.vae import VAE, build
from bench.spec.experiment import Judged, Part, Run


@dataclass(frozen=True)
class Images:
    """What one run trains and is judged on: uint8 images [N, D] on the device, each image flat."""

    train: Tensor
    test: Tensor
    validation: Tensor | None = None


@dataclass(frozen=True)
class Labels:
    """Classes of the images, for the probes of the latent space only: [N]."""

    train: Tensor
    test: Tensor


def data_of(name: str, own: Part | None, data_dir: Path | None = None, *, download: bool = True) -> Dataset:
    """Load a data set: one that bench knows, or one of the user's `own`.

    Raises BenchError and DataUnavailable as `bench.data.datasets.load` does, and BenchError for a data set of
    one's own that is not as docs/yaml.md says, or whose Python file no record names.
    """
    if own is None:
        return load(name, data_dir, download=download)
    if own.sha256 is None:
        return read(own.file or find_npz(Path(name).name, data_dir), name)
    make_data = find("dataset", own)
    try:
        return of_part(make_data(**own.options), name, str(own.file))
    except BenchError as error:
        raise BenchError(f"dataset {name}: {error}") from None
    except Exception as error:  # whatever a user's own code raises
        raise BenchError(f"dataset {name}: {raised(error, own.file)}; correct the file") from None


def divide(run: Run | Judged, data: Dataset, device: torch.device) -> tuple[Images, Labels | None]:
    """Bring the run's images to the device, validation images held out of the training set.

    Also gives the labels of the others, if the data set has labels.
    """
    train_index, validation_index = split(data, run.validation, stream(run.seed, "split"))
    images = data.train_images.flatten(1)
    validation = images[validation_index].to(device) if len(validation_index) else None
    whole = len(train_index) == len(images)  # no copy where nothing is held out
    train_images = images if whole else images[train_index]
    divided = Images(train_images.to(device), data.test_images.flatten(1).to(device), validation)
    if data.train_labels is None or data.test_labels is None:
        return divided, None
    return divided, Labels(data.train_labels if whole else data.train_labels[train_index], data.test_labels)


def untrained(run: Run, shape: Shape) -> VAE:
    """Make the run's model for images of a shape, as its seed initialises it, on the CPU."""
    with initialised(run.seed):
        return build(run, shape)
