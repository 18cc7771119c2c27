"""Data sets of the user's own: arrays of an .npz or of a Python file, held to `bench.spec.images`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data.dataset import Bytes, Dataset, assembled
from bench.errors import BenchError
from bench.spec.images import FEWEST, arrays_of, check_arrays, read_npz

TEST_SHARE = 0.2  # of the images, where a set comes without a split


def find_npz(name: str, data_dir: Path | None) -> Path:
    """Find an .npz by its name, where only a record is at hand: no record holds a path.

    Looks in `data_dir`, in BENCH_DATA_DIR, then in the working directory. Raises BenchError.
    """
    places = [Path(place) for place in (data_dir, os.environ.get("BENCH_DATA_DIR"), ".") if place]
    for place in places:
        if (place / name).is_file():
            return place / name
    told = ", ".join(map(str, places))
    raise BenchError(f"{name} was not found in {told}; give --data-dir with the folder that holds it")


def read(path: Path, name: str) -> Dataset:
    """Read a data set from an .npz. Raises BenchError for one that is not as docs/yaml.md says."""
    try:
        return from_arrays(name, read_npz(path), str(path), digest="own")
    except BenchError as error:
        raise BenchError(f"dataset: {error}") from None


def of_part(made: Any, name: str, source: str) -> Dataset:
    """Make a data set of what a part gives. Raises BenchError as `read` does."""
    return from_arrays(name, arrays_of(made), source, digest="own")


def from_arrays(name: str, arrays: Mapping[str, NDArray[Any]], source: str, digest: str) -> Dataset:
    """Make a data set of `images` and `labels`, or of those of a training and a test set.

    Labels are optional. Without a split the last fifth of a permutation, the same one every time, is the test
    set. `digest` stands in place of the name in the data set's digest.
    """
    check_arrays(arrays)
    images = {key: _images(a) for key, a in arrays.items() if key.endswith("images")}
    labels = {key: a.reshape(-1).astype(np.int64) for key, a in arrays.items() if key.endswith("labels")}
    made = ""
    if "images" in images:
        whole, count = images["images"], len(images["images"])
        held = max(FEWEST, round(TEST_SHARE * count))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).numpy()
        parts = {"train": np.sort(order[:-held]), "test": np.sort(order[-held:])}
        images = {f"{part}_images": whole[index] for part, index in parts.items()}
        labels = {f"{part}_labels": labels["labels"][i] for part, i in parts.items()} if labels else {}
        made = f"split made: a permutation of seed 0 holds {held} of {count} images out as the test set"
    train, test = ((images[f"{part}_images"], labels.get(f"{part}_labels")) for part in ("train", "test"))
    return assembled(name, train, test, source, digest=digest, split=made)


def _images(array: Bytes) -> Bytes:
    """Give grey images two axes each, in memory of their own."""
    return np.array(array[..., 0] if array.shape[3:] == (1,) else array, np.uint8, order="C")
