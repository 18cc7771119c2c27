"""A data set in memory, its digest, and the images of it that are held out for validation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import BenchError

Bytes = NDArray[np.uint8]
Columns = tuple[Bytes, NDArray[Any] | None]  # images and labels

FULL = 60_000  # the training images that `validation` counts among: as many as MNIST has


class DataUnavailable(BenchError):  # noqa: N818  a state of the world, not a mistake
    """Say that a data set's files are nowhere and could not be fetched: the one error with a fallback."""


@dataclass(frozen=True)
class Dataset:
    """Hold uint8 images [N, H, W] or [N, H, W, 3] and int64 labels [N] of the training and the test set.

    Labels of both sets may be None. `digest` is 32 hex digits of the SHA-256 over name, shapes and bytes;
    `source`, a folder, file or package, is where they came from. `split` says how the test set was made, if
    it did not come with the data.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor | None
    digest: str
    source: str
    split: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Give the shape of one image: (H, W), or (H, W, 3) in colour."""
        return tuple(self.train_images.shape[1:])

    @property
    def classes(self) -> int:
        """Count the classes: labels are 0 to classes − 1. There are none without labels."""
        return 0 if self.train_labels is None else int(self.train_labels.max()) + 1

    def share(self) -> Dataset:
        """Move the tensors to shared memory, so that worker processes read one copy."""
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            if tensor is not None:
                tensor.share_memory_()
        return self


def held_out(dataset: Dataset, validation: int) -> int:
    """Count the training images held out where `validation` of the 60,000 that MNIST has would be."""
    count = len(dataset.train_images)
    return validation if count >= FULL else round(validation * count / FULL)


def split(dataset: Dataset, validation: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Give int64 indices, ascending, of the training images to train on and of those held out.

    Held out are the last `validation` images of a permutation drawn from the generator. `validation` counts
    images of the 60,000 that MNIST has (document 002 holds out 6,000); a smaller set gives up the same share.
    Raises BenchError unless images remain on both sides.
    """
    count = len(dataset.train_images)
    held = held_out(dataset, validation)
    if not (0 < held < count or validation == 0):
        raise BenchError(
            f"validation {validation} would hold out {held} of {dataset.name}'s {count} training images; "
            f"give 0, or a number from 1 to {FULL - 1} that leaves images on both sides"
        )
    order = torch.randperm(count, generator=generator)
    return order[: count - held].sort().values, order[count - held :].sort().values


def assembled(
    name: str, train: Columns, test: Columns, source: str, *, digest: str = "", split: str = ""
) -> Dataset:
    """Make tensors of (images, labels or None), and their digest, which begins with `digest` or the name."""
    arrays = [array for array in (*train, *test) if array is not None]
    sha = hashlib.sha256(f"{digest or name} {[a.shape for a in arrays]}".encode())
    for array in arrays:
        sha.update(np.ascontiguousarray(array).data)
    x, y, test_x, test_y = (None if a is None else torch.from_numpy(a) for a in (*train, *test))
    assert x is not None  # noqa: S101  for mypy: images are always there
    assert test_x is not None  # noqa: S101
    y, test_y = (None if labels is None else labels.long() for labels in (y, test_y))
    return Dataset(name, x, y, test_x, test_y, sha.hexdigest()[:32], source, split)
