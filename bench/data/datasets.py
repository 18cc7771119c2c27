"""Data sets as uint8 images: found, verified and read whole, or fetched once with a bounded wait.

Files are looked for in `--data-dir`, in BENCH_DATA_DIR, then in the user's cache, in torchvision's layout
(`<folder>/MNIST/raw/train-images-idx3-ubyte`, or the same with `.gz`). A file that is there is read or
refused: a truncated or altered one is an error, never a reason to look further. IDX files are read with
NumPy, because importing torchvision takes over a second; torchvision only fetches.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from bench.data.dataset import FULL, Bytes, Dataset, DataUnavailable, assembled
from bench.data.fetch import cache_dir, fetch
from bench.data.vision import VISION, load_vision
from bench.errors import BenchError, did_you_mean


def load(name: str, data_dir: Path | None = None, *, download: bool = True) -> Dataset:
    """Read and verify the data set called `name`.

    Raises BenchError for an unknown name, a `data_dir` that is no folder and a file that is not the original;
    DataUnavailable where the files are nowhere and could not be fetched within a bounded wait.
    """
    if name not in DATASETS and name not in VISION:
        raise BenchError(f"no dataset is called {name!r}{did_you_mean(name, [*DATASETS, *VISION])}")
    if data_dir is not None and not data_dir.is_dir():
        raise BenchError(
            f"--data-dir {data_dir} is no folder; give the one that holds MNIST/raw, or leave it out"
        )
    return DATASETS[name](data_dir, download) if name in DATASETS else load_vision(name, data_dir, download)


# IDX files

_REMEDY = "delete it so that it is fetched again, or put the original file there"


@dataclass(frozen=True)
class _Idx:
    """Describe one IDX file: its name, the shape it must declare, the MD5 published for its content."""

    name: str
    shape: tuple[int, ...]
    md5: str = ""
    packed_md5: str = ""  # of the .gz file, from torchvision's `resources`

    @property
    def header(self) -> bytes:
        """Two zero bytes, 8 for unsigned bytes, the number of axes, then each axis as a big-endian int32."""
        axes = b"".join(n.to_bytes(4, "big") for n in self.shape)
        return bytes([0, 0, 8, len(self.shape)]) + axes

    def path(self, folder: Path) -> Path:
        """Name the file in a folder, or its .gz where only that exists."""
        plain, packed = folder / self.name, folder / f"{self.name}.gz"
        return packed if packed.exists() and not plain.exists() else plain

    def read(self, folder: Path) -> Bytes:
        """Read and verify the array; never more bytes than the right file has, whatever this one says."""
        path = self.path(folder)
        packed = path.suffix == ".gz"
        wanted = len(self.header) + int(np.prod(self.shape))
        try:
            if not path.is_file():  # a pipe would keep us waiting for ever
                raise OSError("no regular file")
            if packed and not self.md5:
                with path.open("rb") as file:
                    self._same("MD5", hashlib.file_digest(file, "md5").hexdigest(), self.packed_md5, path)
            with gzip.open(path) if packed else path.open("rb") as file:
                content = bytearray(file.read(wanted + 1))
        except (OSError, EOFError, zlib.error) as error:
            raise BenchError(f"{path} cannot be read ({error}); {_REMEDY}") from error
        self._same("IDX header", content[: len(self.header)].hex(" ", 4), self.header.hex(" ", 4), path)
        size = f"{len(content):,}" if len(content) <= wanted else f"over {wanted:,}"
        self._same("size in bytes", size, f"{wanted:,}", path)
        if self.md5:
            self._same("MD5", hashlib.md5(content, usedforsecurity=False).hexdigest(), self.md5, path)
        array = np.frombuffer(content, np.uint8, offset=len(self.header)).reshape(self.shape)
        if len(self.shape) == 1 and array.max() > 9:
            raise BenchError(f"{path} holds the label {array.max()}; labels are 0 to 9; {_REMEDY}")
        return array

    @staticmethod
    def _same(what: str, found: str, expected: str, path: Path) -> None:
        if found != expected:
            raise BenchError(
                f"{path} is not the published file: {what} {found}, expected {expected}; {_REMEDY}"
            )


def _files(md5: tuple[str, ...] = ("",) * 4, packed: tuple[str, ...] = ("",) * 4) -> tuple[_Idx, ...]:
    """List training images and labels, test images and labels of a data set of MNIST's form."""
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    shapes: tuple[tuple[int, ...], ...] = ((FULL, 28, 28), (FULL,), (10_000, 28, 28), (10_000,))
    rows = zip(names, shapes, md5, packed, strict=True)
    return tuple(_Idx(f"{name}-ubyte", shape, content, gz) for name, shape, content, gz in rows)


def _load_idx(
    name: str, layout: str, files: tuple[_Idx, ...], data_dir: Path | None, download: bool
) -> Dataset:
    """Read the four files from the first folder that holds any of them; fetch them if none does."""
    places = (data_dir, os.environ.get("BENCH_DATA_DIR"), cache_dir())
    folders = [Path(place) / layout / "raw" for place in places if place]
    raw = next((folder for folder in folders if any(f.path(folder).exists() for f in files)), None)
    if raw is None:
        why = fetch(layout, cache_dir() / layout / "raw", f"{layout}/raw") if download else ""
        if why or not download:
            failed = f" and could not be fetched ({why})" if why else ""
            raise DataUnavailable(
                f"{name} was not found in {', '.join(map(str, folders))}{failed}; "
                f"put {files[0].name} and its three companions (or their .gz) in FOLDER/{layout}/raw, "
                "then give --data-dir FOLDER or set BENCH_DATA_DIR"
            )
        raw = folders[-1]
    if missing := [file.name for file in files if not file.path(raw).exists()]:
        raise BenchError(f"{raw} lacks {', '.join(missing)}; put the files there, or delete the folder")
    train_x, train_y, test_x, test_y = (file.read(raw) for file in files)
    return assembled(name, (train_x, train_y), (test_x, test_y), str(raw))


# The data sets: `name -> function(data_dir, download)`


def mnist(data_dir: Path | None, download: bool) -> Dataset:
    """Handwritten digits, 60,000 + 10,000 images of 28×28 (LeCun et al. 1998)."""
    md5 = ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
           "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637")  # fmt: skip
    return _load_idx("mnist", "MNIST", _files(md5), data_dir, download)


def fashion_mnist(data_dir: Path | None, download: bool) -> Dataset:
    """Articles of clothing, 60,000 + 10,000 images of 28×28 (Xiao et al. 2017)."""
    packed = ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
              "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310")  # fmt: skip
    return _load_idx("fashion-mnist", "FashionMNIST", _files(packed=packed), data_dir, download)


def kmnist(data_dir: Path | None, download: bool) -> Dataset:
    """Cursive Japanese characters, 60,000 + 10,000 images of 28×28 (Clanuwat et al. 2018)."""
    packed = ("bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344",
              "5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134")  # fmt: skip
    return _load_idx("kmnist", "KMNIST", _files(packed=packed), data_dir, download)


def digits(data_dir: Path | None, download: bool) -> Dataset:
    """scikit-learn's handwritten digits, 1,437 + 360 images of 8×8 resized to 28×28; needs no network."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    small, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(small / 16).float().view(-1, 1, 8, 8)  # the 8×8 images hold 0 to 16
    large = interpolate(grey, [28, 28], mode="bilinear", antialias=True)
    images = large.mul(255).round().to(torch.uint8).squeeze(1).numpy()
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels.astype(np.uint8), test_size=360, random_state=0, stratify=labels
    )
    return assembled("digits", (train_x, train_y), (test_x, test_y), "scikit-learn")


DATASETS = {"mnist": mnist, "fashion-mnist": fashion_mnist, "kmnist": kmnist, "digits": digits}

# Of one image of each; bench.spec reads this table from the source, without torch
SHAPES = {"mnist": (28, 28), "fashion-mnist": (28, 28), "kmnist": (28, 28), "digits": (28, 28)}
