"""Datasets: what is found is verified, what is missing says so, and nothing else is ever taken for it."""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data import datasets as data
from bench.data import fetch
from bench.data.dataset import Dataset, DataUnavailable, assembled, split
from bench.data.datasets import DATASETS, load
from bench.data.fetch import cache_dir
from bench.engine.device import stream
from bench.errors import BenchError

FOLDER = Path(os.environ.get("BENCH_DATA_DIR", "absent")).resolve()  # read before the fixture hides it
SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data folder, an empty cache and no way out: connections go to a port where nobody listens."""
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")


def idx(shape: tuple[int, ...], fill: int = 0) -> bytes:
    """An IDX file: magic number, axes, and ramps of bytes that repeat after `10 + fill`."""
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    return header + np.resize(np.arange(10 + fill, dtype=np.uint8), shape).tobytes()


@pytest.fixture(scope="session")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of Fashion-MNIST's form: no MD5 of its unpacked files is published, so their structure counts."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, shape in SHAPES.items():
        (raw / name).write_bytes(idx(shape, 7 if "images" in name else 0))
    return folder


@pytest.fixture
def copy(fashion: Path, tmp_path: Path) -> Path:
    """The same files, to be damaged by replacing them: hard links cost nothing."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in SHAPES:
        os.link(fashion / "FashionMNIST" / "raw" / name, raw / name)
    return tmp_path


def damage(folder: Path, name: str, content: bytes, suffix: str = "") -> None:
    path = folder / "FashionMNIST" / "raw" / name
    path.unlink()
    path.with_name(name + suffix).write_bytes(content)


def refusal(folder: Path, name: str = "fashion-mnist") -> str:
    with pytest.raises(BenchError) as error:
        load(name, folder, download=False)
    assert not isinstance(error.value, DataUnavailable), (
        "a file that is there but wrong is never a reason to fall back"
    )
    assert "\n" not in str(error.value)
    return str(error.value)


def test_idx_files_are_read_as_they_lie(fashion: Path) -> None:
    found = load("fashion-mnist", fashion, download=False)
    assert found.name == "fashion-mnist"
    assert found.source == str(fashion / "FashionMNIST" / "raw")
    assert (found.train_images.shape, found.train_images.dtype) == ((60_000, 28, 28), torch.uint8)
    assert (found.test_labels.shape, found.test_labels.dtype) == ((10_000,), torch.int64)
    assert found.train_images[0, 0, :18].tolist() == [*range(17), 0]
    assert found.train_images[1, 0, 0] == 784 % 17
    assert found.train_labels[:11].tolist() == [*range(10), 0]


def test_an_environment_variable_and_the_cache_are_looked_in_after_the_folder(
    fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_dir().mkdir(parents=True)
    (cache_dir() / "FashionMNIST").symlink_to(fashion / "FashionMNIST")
    by_cache = load("fashion-mnist", tmp_path, download=False)
    monkeypatch.setenv("BENCH_DATA_DIR", str(fashion))
    by_env = load("fashion-mnist", tmp_path, download=False)
    assert by_cache.source.startswith(str(cache_dir()))
    assert by_env.source.startswith(str(fashion))
    assert by_cache.digest == by_env.digest


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (IMAGES, idx(SHAPES[IMAGES])[:-1], "size in bytes 7,840,015, expected 7,840,016"),
        (LABELS, idx(SHAPES[LABELS]) + b"!", "size in bytes over 10,008, expected 10,008"),
        (LABELS, b"", "IDX header"),
        (LABELS, bytes(10_008), "IDX header"),
        (LABELS, idx((10_001,)), "IDX header 00000801 00002711, expected 00000801 00002710"),
        (LABELS, idx((10_000, 28, 28)), "IDX header 00000803 00002710, expected 00000801 00002710"),
        (IMAGES, idx(SHAPES[IMAGES])[:4] + b"\xff" * 12, "IDX header 00000803 ffffffff ffffffff ffffffff"),
        (LABELS, idx(SHAPES[LABELS], fill=3), "holds the label 12"),
    ],
    ids=["truncated", "longer", "empty", "zeros", "other length", "other axes", "terabytes", "label"],
)
def test_a_file_of_another_form_is_refused(copy: Path, name: str, content: bytes, told: str) -> None:
    damage(copy, name, content)
    assert re.search(rf"{name} (is not the published file: )?{told}", refusal(copy))


def test_a_missing_file_of_four_and_a_folder_in_place_of_one_are_errors(copy: Path) -> None:
    path = copy / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    path.unlink()
    assert "lacks train-labels-idx1-ubyte" in refusal(copy)
    path.mkdir()
    assert "cannot be read" in refusal(copy)


def test_an_altered_mnist_is_refused_by_its_md5(copy: Path) -> None:
    (copy / "FashionMNIST").rename(copy / "MNIST")
    message = refusal(copy, "mnist")
    assert "train-images-idx3-ubyte is not the published file: MD5" in message
    assert "expected 6bbc9ace898e44ae57da46a324031adb" in message


def test_a_packed_file_is_checked_by_the_published_md5_read_to_its_size_and_never_in_part(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, content = load("fashion-mnist", copy, download=False), idx(SHAPES[LABELS])
    packed = gzip.compress(content, mtime=0)
    damage(copy, LABELS, packed, ".gz")
    assert "labels-idx1-ubyte.gz is not the published file: MD5" in refusal(copy)
    same = data._Idx._same
    monkeypatch.setattr(
        data._Idx, "_same", staticmethod(lambda what, *a: None if what == "MD5" else same(what, *a))
    )
    assert load("fashion-mnist", copy, download=False).digest == whole.digest
    path = copy / "FashionMNIST" / "raw" / f"{LABELS}.gz"
    for cut in (5, 30, -9):
        path.write_bytes(packed[:cut])
        assert f"{LABELS}.gz cannot be read" in refusal(copy)
    path.write_bytes(gzip.compress(content + bytes(50_000_000), 1))  # 50 MB in one: a bomb
    assert "size in bytes over 10,008" in refusal(copy)


def test_data_that_is_nowhere_says_how_to_provide_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataUnavailable, match=r"kmnist was not found in .*/KMNIST/raw, .*BENCH_DATA_DIR"
    ) as error:
        load("kmnist", tmp_path, download=False)
    assert str(tmp_path) in str(error.value)


def test_no_network_is_an_error_and_leaves_nothing_behind() -> None:
    with pytest.raises(DataUnavailable, match=r"could not be fetched \(.*refused.*\)"):
        load("fashion-mnist")
    assert list(cache_dir().iterdir()) == []


def test_a_download_that_falls_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "STALL", 0.3)
    (tmp_path / "started").write_text("a byte")
    assert fetch._watch(["sleep", "60"], tmp_path).startswith("no progress for")


def test_a_folder_that_does_not_exist_is_an_error_even_for_digits(tmp_path: Path) -> None:
    for name in DATASETS:
        assert "absent is no folder" in refusal(tmp_path / "absent", name)


def test_an_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(BenchError, match="did you mean 'mnist'"):
        load("mnits")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def test_digits_need_no_files_and_are_split_by_class(digits: Dataset) -> None:
    assert digits.train_images.shape == (1437, 28, 28)
    assert digits.test_images.shape == (360, 28, 28)
    assert digits.train_images.dtype == torch.uint8
    shares = digits.test_labels.bincount() / (digits.train_labels.bincount() + digits.test_labels.bincount())
    assert shares.sub(360 / 1797).abs().max() < 0.005
    assert digits.train_images.min() == 0
    assert digits.train_images.max() == 255
    assert load("digits").digest == digits.digest == "31adf89253b2563dfd9e903f426eb9c0"


def test_the_digest_sees_every_byte_and_the_name(digits: Dataset) -> None:
    pairs = [
        (digits.train_images.numpy(), digits.train_labels.numpy().astype(np.uint8)),
        (digits.test_images.numpy(), digits.test_labels.numpy().astype(np.uint8)),
    ]
    assert assembled("digits", *pairs, "here").digest == digits.digest
    assert assembled("other", *pairs, "here").digest != digits.digest
    altered = pairs[1][1].copy()
    altered[-1] ^= 1
    assert assembled("digits", pairs[0], (pairs[1][0], altered), "here").digest != digits.digest


def test_a_split_holds_out_a_fixed_share_of_sixty_thousand_images(digits: Dataset) -> None:
    train, held = split(digits, 6_000, stream(3, "split"))
    assert (len(train), len(held)) == (1437 - 144, 144)
    assert torch.equal(torch.cat([train, held]).sort().values, torch.arange(1437))
    assert torch.equal(train, train.sort().values)
    assert torch.equal(held, split(digits, 6_000, stream(3, "split"))[1])
    assert not torch.equal(held, split(digits, 6_000, stream(4, "split"))[1])
    train, held = split(digits, 0, stream(3, "split"))
    assert torch.equal(train, torch.arange(1437))
    assert len(held) == 0
    full = replace(digits, train_images=torch.zeros(60_000, 1, 1, dtype=torch.uint8))
    train, held = split(full, 6_000, stream(0, "split"))
    assert (len(train), len(held)) == (54_000, 6_000)


@pytest.mark.parametrize("validation", [-1, 1, 59_999, 60_000, 10**9])
def test_a_split_that_leaves_nothing_is_refused(digits: Dataset, validation: int) -> None:
    with pytest.raises(BenchError, match=f"validation {validation} would hold out"):
        split(digits, validation, stream(0, "split"))


def test_sharing_keeps_the_content_and_the_data_say_their_shape(digits: Dataset) -> None:
    assert digits.share().train_images.is_shared()
    assert load("digits").digest == digits.digest
    other = replace(digits, train_images=torch.zeros(6, 5, 7), train_labels=torch.tensor([0, 3, 1, 2, 0, 1]))
    assert (digits.shape, digits.classes, other.shape, other.classes) == ((28, 28), 10, (5, 7), 4)


@pytest.mark.mnist
@pytest.mark.skipif(not (FOLDER / "MNIST" / "raw").is_dir(), reason="MNIST is absent: set BENCH_DATA_DIR")
def test_real_mnist() -> None:
    mnist = load("mnist", FOLDER, download=False)
    assert mnist.digest == "2d4c110e289321763fc9235137518560"
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.train_images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)
