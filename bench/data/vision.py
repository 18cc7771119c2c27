"""Torchvision's classification sets whose images are of one size, 8 to 64 pixels a side.

Files are looked for in torchvision's own layout and read by torchvision, which checks most of them. Importing
it takes over a second.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data.dataset import Dataset, DataUnavailable
from bench.data.fetch import cache_dir, fetch
from bench.data.own import from_arrays
from bench.errors import BenchError, printable


def load_vision(name: str, data_dir: Path | None, download: bool) -> Dataset:
    """Read a set of torchvision from the first folder that holds it; fetch it if none does.

    Raises BenchError for files that torchvision refuses, DataUnavailable where they are nowhere.
    """
    from torchvision import datasets

    layout, _, kind = name.partition("-")
    _, mark, _ = VISION[name]
    calls = _calls(getattr(datasets, layout), {"split": kind} if kind else {})
    own = cache_dir() / "torchvision" / layout
    folders = [Path(place) for place in (data_dir, os.environ.get("BENCH_DATA_DIR"), own) if place]
    root = next((folder for folder in folders if (folder / mark).exists()), None)
    if root is None:
        why = fetch(layout, own, ".", calls) if download else ""
        if why or not download:
            failed = f" and could not be fetched ({why})" if why else ""
            raise DataUnavailable(
                f"{name} was not found in {', '.join(map(str, folders))}{failed}; put {mark}, as torchvision "
                "keeps it, in FOLDER, then give --data-dir FOLDER or set BENCH_DATA_DIR"
            )
        root = own
    try:
        found = [_columns(getattr(datasets, layout)(str(root), **call)) for call in calls]
    except BenchError as error:
        raise BenchError(f"{name} in {root}: {error}") from None
    except Exception as error:  # whatever torchvision and its readers raise
        why = printable(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:200])
        raise BenchError(
            f"{root / mark}: torchvision cannot read it ({why}); put the original there, or delete it"
        ) from None
    named = ["train_", "test_"] if len(found) == 2 else [""]
    arrays = {
        f"{part}{key}": a for part, columns in zip(named, found, strict=True) for key, a in columns.items()
    }
    if len({key.partition("_")[2] for key in arrays}) == 2 and len(arrays) == 3:  # one set has no labels
        arrays = {key: array for key, array in arrays.items() if key.endswith("images")}
    return from_arrays(name, arrays, str(root), digest=name)


def _calls(build: Any, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Say how a class gives its training and its test set, or both as one."""
    known = inspect.signature(build).parameters
    if "train" in known or "kwargs" in known:  # of EMNIST, which hands it on
        return [options | {"train": train} for train in (True, False)]
    if "split" in known:
        return [options | {"split": split} for split in ("train", "test")]
    return [options | ({"download": False} if "download" in known else {})]


def _columns(found: Sequence[Any]) -> dict[str, Any]:
    """Bring the images and labels of a set to two arrays; labels are left out where an image has none."""
    images: list[Any] = []
    labels: list[int | None] = []
    for i in range(len(found)):
        image, label = found[i]
        if not isinstance(image, Image.Image):
            raise BenchError(f"an image is a {type(image).__name__}; allowed: pictures, each with a class")
        images.append(np.asarray(image if image.mode == "RGB" else image.convert("L")))
        labels.append(None if label is None else int(label))
        if images[-1].shape != images[0].shape:
            shown = " and ".join("×".join(map(str, each.shape)) for each in (images[0], images[-1]))
            raise BenchError(f"images of {shown}; allowed: of one size and kind")
    columns: dict[str, Any] = {"images": np.stack(images)}
    return columns if None in labels else columns | {"labels": np.array(labels)}


# name -> the shape of an image, the file or folder that says that the set is there, what it is.
# bench.spec reads this table from the source, without torch
VISION: Mapping[str, tuple[tuple[int, ...], str, str]] = {
    "CIFAR10": ((32, 32, 3), "cifar-10-batches-py", "Objects, 50,000 + 10,000 images (Krizhevsky 2009)."),
    "CIFAR100": ((32, 32, 3), "cifar-100-python", "Objects of a hundred classes (Krizhevsky 2009)."),
    "SVHN": ((32, 32, 3), "train_32x32.mat", "House numbers, 73,257 + 26,032 images (Netzer et al. 2011)."),
    "EMNIST-balanced": ((28, 28), "EMNIST/raw", "Letters and digits, 131,600 images (Cohen et al. 2017)."),
    "EMNIST-byclass": ((28, 28), "EMNIST/raw", "Letters and digits of 62 classes (Cohen et al. 2017)."),
    "EMNIST-bymerge": ((28, 28), "EMNIST/raw", "The same, like letters in one class (Cohen et al. 2017)."),
    "EMNIST-letters": ((28, 28), "EMNIST/raw", "Letters, 124,800 + 20,800 images (Cohen et al. 2017)."),
    "EMNIST-digits": ((28, 28), "EMNIST/raw", "Digits, 240,000 + 40,000 images (Cohen et al. 2017)."),
    "EMNIST-mnist": ((28, 28), "EMNIST/raw", "Digits, as many as MNIST has (Cohen et al. 2017)."),
    "QMNIST": ((28, 28), "QMNIST/raw", "MNIST with all 60,000 test images (Yadav & Bottou 2019)."),
    "USPS": ((16, 16), "usps.bz2", "Digits of postcodes, 7,291 + 2,007 images (Hull 1994)."),
    "SEMEION": ((16, 16), "semeion.data", "Digits in black and white, 1,593 images (Buscema 1998)."),
    "FER2013": ((48, 48), "fer2013", "Faces by expression, not to be fetched (Goodfellow et al. 2013)."),
    "EuroSAT": ((64, 64, 3), "eurosat", "Land from a satellite, 27,000 images (Helber et al. 2019)."),
}  # fmt: skip
