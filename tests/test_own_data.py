"""Data sets of one's own, and torchvision's: what is read, and what is refused."""

from __future__ import annotations

import bz2
import json
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factory import trained
from PIL import Image
from test_groups import quickly

from bench.data.dataset import DataUnavailable
from bench.data.datasets import load as load_named
from bench.data.vision import VISION
from bench.engine.images import data_of
from bench.errors import BenchError
from bench.evaluation import samples
from bench.parts.check import check_file
from bench.report import write_report
from bench.runs.generate import Drawing, Places, generate
from bench.runs.matrix import shared_context
from bench.runs.plan import Plan, make_plan
from bench.runs.request import Request
from bench.saved import load_model
from bench.spec.experiment import Experiment
from bench.spec.images import npz_shape
from bench.spec.resolve import load
from bench.verify import verify

Arrays = dict[str, Any]
NETWORKS = "{encoder: {name: mlp, hidden: [8]}, decoder: {name: mlp, hidden: [8]}, latent: 2}"


def images(count: int = 40, shape: tuple[int, ...] = (9, 12), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def spec(folder: Path, dataset: str, variants: str = f"a: {NETWORKS}") -> Path:
    path = folder / "f.yaml"
    path.write_text(f"question: Why?\ndataset: {dataset}\nvariants:\n  {variants}\n", encoding="utf-8")
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def loaded(experiment: Experiment, data_dir: Path | None = None) -> Any:
    return data_of(experiment.dataset, experiment.own_data, data_dir, download=False)


def test_an_npz_is_a_data_set_whose_content_is_its_identity(tmp_path: Path) -> None:
    grey, labels = images(), np.arange(40) % 3
    npz(tmp_path / "mine.npz", images=grey[..., None], labels=labels[:, None])
    first = load(spec(tmp_path, "{file: mine.npz}", f"a: {NETWORKS[:-1]}, objective: {{beta: dz/dx}}}}"))
    found = loaded(first)
    assert (first.dataset, found.shape, found.classes, found.train_images.dtype) == (
        "mine.npz", (9, 12), 3, torch.uint8,
    )  # fmt: skip
    assert next(iter(first.variants.values())).objective.options["beta"] == 2 / 108
    # Every image is in one set, with its own label
    pairs = zip(grey, labels, strict=True)
    whole = sorted((image.tobytes(), int(label)) for image, label in pairs)
    both = [*zip(found.train_images, found.train_labels, strict=True)]
    both += [*zip(found.test_images, found.test_labels, strict=True)]
    assert sorted((image.numpy().tobytes(), int(label)) for image, label in both) == whole
    assert len(found.test_images) == 10
    assert "holds 10 of 40 images out" in found.split
    # Another name, folder, layout in memory and compression are the same data, and the same run
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other/renamed.npz", images=np.asfortranarray(grey), labels=labels.astype(">i8"))
    second = load(
        spec(tmp_path / "other", "{file: renamed.npz}", f"a: {NETWORKS[:-1]}, objective: {{beta: dz/dx}}}}")
    )
    assert loaded(second).digest == found.digest
    one, two = (next(each.runs()) for each in (first, second))
    assert one.key(found.digest) == two.key(found.digest)
    assert "other" not in json.dumps(two.model_dump(mode="json"))
    again = type(two).model_validate(
        json.loads(two.model_dump_json())
    )  # as a record has it: found by its name
    assert again.key(found.digest) == one.key(found.digest)
    assert data_of(again.dataset, again.own_data, tmp_path / "other").digest == found.digest
    with pytest.raises(BenchError, match=r"renamed.npz was not found in .*; give --data-dir"):
        data_of(again.dataset, again.own_data, tmp_path)
    # One pixel more or less is another
    grey[7, 0, 0] ^= 1
    npz(tmp_path / "mine.npz", images=grey, labels=labels)
    assert loaded(first).digest != found.digest


def test_a_given_split_is_kept_and_labels_are_optional(tmp_path: Path) -> None:
    train, test = images(20, (20, 12)), images(11, (20, 12), seed=1)
    npz(tmp_path / "mine.npz", train_images=train, test_images=test, val_images=test)  # as MedMNIST's files
    found = loaded(load(spec(tmp_path, "{file: mine.npz}")))
    assert (found.train_images.numpy() == train).all()
    assert (found.test_images.numpy() == test).all()
    assert (found.train_labels, found.classes, found.split) == (None, 0, "")


def bomb(path: Path) -> None:
    header = np.lib.format
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as file:
        header.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (10**8, 64, 64)}
        )
        file.write(bytes(20_000_000))


REFUSED: dict[str, tuple[Arrays, str]] = {
    "floats": ({"images": images() / 255}, "images are float64; allowed: uint8, 0 to 255"),
    "nan": ({"images": np.full((40, 9, 9), np.nan, np.float32)}, "images are float32; allowed: uint8"),
    "pickle": ({"images": np.array([{}] * 40, object)}, "images are object; .*; objects are a pickle"),
    "rank": ({"images": images(40, (108,))}, r"the shape \[40, 108\]; allowed: \[N, H, W\] grey, or"),
    "channels first": ({"images": images(40, (3, 32, 32))}, "allowed: .* channels last"),
    "small": ({"images": images(40, (7, 20))}, "images are of 7×20 pixels; allowed: 8 to 64 a side"),
    "large": ({"images": images(10, (20, 65))}, "images are of 20×65 pixels; allowed: 8 to 64 a side"),
    "empty": ({"images": images(0)}, "images are 0; allowed: at least 10"),
    "few": ({"images": images(19)}, "images are 19; allowed: at least 20, as some are the test set"),
    "key": ({"labels": np.arange(40)}, "no array images; allowed: images, or train_images and test_images"),
    "typo": ({"images": images(), "label": np.arange(40)}, "unknown array 'label'; allowed: images, or"),
    "half a split": ({"train_images": images()}, "no array test_images; allowed"),
    "half the labels": (
        {"train_images": images(), "test_images": images(), "test_labels": np.arange(40)},
        "no array train_labels; allowed",
    ),
    "both": ({"images": images(), "train_images": images(), "test_images": images()}, "arrays for a given"),
    "two sizes": ({"train_images": images(), "test_images": images(40, (9, 13))}, "are of 9×12 and 9×13"),
    "short labels": ({"images": images(), "labels": np.arange(39)}, r"the shape \[39\]; allowed: \[40\]"),
    "real labels": ({"images": images(), "labels": np.full(40, np.nan)}, "labels are float64; allowed"),
    "negative labels": ({"images": images(), "labels": np.arange(40) - 1}, "are -1 to 38; allowed: 0 to 999"),
    "one class": ({"images": images(), "labels": np.ones(40, int)}, "are of one class; allowed: two or more"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_make_no_data_set_are_refused_in_a_line(name: str, tmp_path: Path) -> None:
    arrays, told = REFUSED[name]
    npz(tmp_path / "mine.npz", **arrays)
    with pytest.raises(BenchError, match=told) as error:
        loaded(load(spec(tmp_path, "{file: mine.npz}")))
    assert re.match(r"(.*f\.yaml:2:17: )?dataset: mine\.npz: |dataset: ", str(error.value))
    assert "\n" not in str(error.value)


def truncated(path: Path) -> None:
    path.write_bytes(npz(path, images=images()).read_bytes()[:-30])


def altered(path: Path) -> None:
    np.savez(path, images=np.zeros((40, 20, 20), np.uint8))
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)


def headed(header: str, path: Path) -> None:
    content = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + bytes(2560)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", content)


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "absent": (lambda path: None, "no such file; correct the path"),
    "a folder": (Path.mkdir, "no regular file"),
    "text": (lambda path: path.write_text("images"), "cannot be read as .npz"),
    "truncated": (truncated, "cannot be read as .npz"),
    "altered": (altered, "cannot be read as .npz .*CRC"),
    "bomb": (bomb, r".*images announces 409,600,000,000 bytes and holds 20,000,000\)"),
    "a deep header": (partial(headed, "(" * 9000), "cannot be read as .npz .*header of images"),
    "a header of Python 2": (
        partial(headed, "{'descr': '|u1', 'fortran_order': False, 'shape': (40L, 8)}"),
        "cannot be read as .npz .*header of images",
    ),
    "a header of anything": (partial(headed, "{" + "1:1," * 2000), "cannot be read .*header of images"),
    "packed by LZMA": (
        lambda path: zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA).writestr("images.npy", b"x"),
        "cannot be read as .npz .*packed as NumPy packs nothing",
    ),
    "other files": (lambda path: zipfile.ZipFile(path, "w").writestr("a.exe", b""), "cannot be read as .npz"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_npz_is_refused_in_a_line(name: str, tmp_path: Path) -> None:
    make, told = FILES[name]
    make(tmp_path / "mine.npz")
    with pytest.raises(BenchError, match=f"dataset: mine.npz: {told}") as error:
        loaded(load(spec(tmp_path, "{file: mine.npz}"), code=False))
    assert "\n" not in str(error.value)


def test_a_bomb_that_tells_its_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    shape = (2**20, 64, 64)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("images.npy", "w") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
        [info] = archive.infolist()
        info.file_size += 2**32  # what the directory says
    with pytest.raises(
        BenchError, match=r"mine.npz: (the arrays have 4,294,967,296 elements|cannot be read)"
    ):
        npz_shape(path)


MISTAKES = {
    "{file: mine.txt}": "'mine.txt' is neither an .npz nor a Python file; allowed: FILE.npz, FILE.py",
    "{file: mine.npz, name: x}": "unknown key 'name' in a dataset of an .npz",
    "{file: mine.py, name: Mine, side: 7}": "dataset Mine: side is 7; allowed: 8 or 9",
    "{file: mine.py, name: mime}": "unknown dataset in mine.py 'mime'; did you mean 'Mine'",
    "{name: CIFAR10, offline_fallback: digits}": "offline_fallback digits has images of another shape",
    "STL10": "unknown dataset 'STL10'",
}
MINE = """
import numpy as np
from typing import Literal


class Mine:
    images: np.ndarray

    def __init__(self, *, side: Literal[8, 9] = 8):
        self.images = np.random.default_rng(0).integers(0, 256, (30, side, side, 3), np.uint8)



def restless():
    return {"images": np.random.default_rng().integers(0, 256, (30, 8, 8), np.uint8)}


def failing():
    raise KeyError("no such thing")
"""


@pytest.mark.parametrize("dataset", MISTAKES)
def test_a_wrong_dataset_is_told_by_its_line(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    npz(tmp_path / "mine.npz", images=images())
    with pytest.raises(BenchError, match=rf"f\.yaml:2:\d+: .*{MISTAKES[dataset]}"):
        load(spec(tmp_path, dataset))


def test_a_python_file_gives_data_by_the_rule_of_parts(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    path = spec(tmp_path, "{file: mine.py, name: Mine, side: 9}")
    experiment = load(path)
    found = loaded(experiment)
    assert (experiment.dataset, found.shape, found.classes) == ("mine.Mine", (9, 9, 3), 0)
    run = next(experiment.runs())
    assert run.own_data is not None
    assert run.own_data.options == {"side": 9}
    assert run.own_data in run.parts  # so that a copy of the file is kept
    record = json.loads(run.model_dump_json())
    with pytest.raises(
        BenchError, match=r"Mine comes from a Python file \(SHA-256 .*\), which no record names"
    ):
        data_of(run.dataset, type(run).model_validate(record).own_data)
    with pytest.raises(BenchError, match="is code, which --no-code refuses"):
        load(path, code=False)
    with pytest.raises(BenchError, match="dz/dx; allowed: in a variant, where the latent size and the shape"):
        load(
            spec(tmp_path, "{file: mine.py, name: Mine}", f"a: {NETWORKS[:-1]}, objective: {{beta: dz/dx}}}}")
        )
    with pytest.raises(
        BenchError, match=r"dataset mine.failing: failing raises KeyError: .* \(line \d+\); correct"
    ):
        loaded(load(spec(tmp_path, "{file: mine.py, name: failing}")))
    faults = {found.name: (found.kind, found.fault) for found in check_file(tmp_path / "mine.py")}
    assert faults["Mine"] == ("dataset", "")
    assert faults["restless"][1].startswith("it gives other data each time")
    assert faults["failing"][1].startswith("failing raises KeyError")


def usps(folder: Path) -> None:
    """Files as USPS has them: a line an image, its label from 1, its pixels from −1 to 1."""
    rng = np.random.default_rng(0)
    for name, count in (("usps.bz2", 24), ("usps.t.bz2", 12)):
        lines = [
            f"{1 + i % 10} " + " ".join(f"{k + 1}:{v:.4f}" for k, v in enumerate(rng.uniform(-1, 1, 256)))
            for i in range(count)
        ]
        (folder / name).write_bytes(bz2.compress("\n".join(lines).encode()))


def test_a_set_of_torchvision_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    with pytest.raises(
        DataUnavailable, match=r"USPS was not found in .*; put usps.bz2, as torchvision keeps it"
    ):
        load_named("USPS", tmp_path, download=False)
    usps(tmp_path)
    found = load_named("USPS", tmp_path, download=False)
    assert (found.name, found.shape, found.classes) == ("USPS", (16, 16), 10)
    assert (len(found.train_images), len(found.test_images), found.split) == (24, 12, "")
    assert found.train_labels is not None
    assert found.train_labels[:3].tolist() == [0, 1, 2]
    assert load_named("USPS", tmp_path, download=False).digest == found.digest
    (tmp_path / "usps.t.bz2").write_bytes(b"no longer")
    with pytest.raises(
        BenchError, match=r"usps.bz2: torchvision cannot read it .*; put the original there"
    ) as error:
        load_named("USPS", tmp_path, download=False)
    assert not isinstance(error.value, DataUnavailable)


class Stand:
    """A class of torchvision with a `split`, which says what it holds."""

    sizes = (16, 16)

    def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
        self.split = split

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> tuple[Image.Image, int | None]:
        side = self.sizes[i % 2]
        return Image.new("RGB", (side, side), (i, 255, 0)), i % 3 if self.split == "train" else None


def test_what_torchvision_gives_is_held_to_the_rules_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.SVHN", Stand)
    (tmp_path / "train_32x32.mat").write_bytes(b"")
    found = load_named("SVHN", tmp_path, download=False)
    assert (found.shape, found.train_labels) == ((16, 16, 3), None)  # as the test images have none
    assert found.train_images[5, 0, 0].tolist() == [5, 255, 0]
    monkeypatch.setattr(Stand, "sizes", (16, 17))
    with pytest.raises(BenchError, match="images of 16×16×3 and 17×17×3; allowed: of one size and kind"):
        load_named("SVHN", tmp_path, download=False)
    monkeypatch.setattr(Stand, "sizes", (96, 96))
    with pytest.raises(BenchError, match="images are of 96×96 pixels; allowed: 8 to 64 a side"):
        load_named("SVHN", tmp_path, download=False)


def test_every_set_of_torchvision_that_is_named_is_there() -> None:
    from torchvision import datasets

    assert all(hasattr(datasets, name.partition("-")[0]) for name in VISION)


# Runs from end to end

COLOUR = """
question: Does colour train?
dataset: {file: discs.npz}
seeds: 1
evaluation: {importance_samples: 2}
defaults: {epochs: 1, batch_size: 16, latent: 3}
variants:
  mlp: {encoder: {name: mlp, hidden: [16]}, decoder: {name: mlp, hidden: [16]}}
  conv: {encoder: conv-bn, decoder: conv-bn}
"""
GREY = """
question: And without labels?
dataset: {file: bars.npz}
seeds: 1
evaluation: {importance_samples: 2}
defaults: {epochs: 1, batch_size: 16}
variants:
  linear: {encoder: {name: linear, hidden: 16}, decoder: conv-bn, latent: 3}
"""


def discs(count: int = 60, side: int = 32) -> Arrays:
    """Red discs on the left, blue ones on the right, on grounds of any colour."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    x, y = labels * side / 2 + rng.uniform(6, 10, count), rng.uniform(8, side - 8, count)
    rows, columns = np.mgrid[:side, :side]
    inside = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2 < 36
    grounds = rng.integers(60, 200, (count, 1, 1, 3)) + np.zeros((1, side, side, 1), int)
    colours = np.array([[255, 0, 0], [0, 0, 255]])[labels][:, None, None]
    return {"images": np.where(inside[..., None], colours, grounds).astype(np.uint8), "labels": labels}


def bars(count: int = 60, shape: tuple[int, int] = (20, 12)) -> Arrays:
    """A white bar at any height."""
    rows = np.arange(shape[0])[:, None] - np.random.default_rng(0).uniform(2, shape[0] - 2, (count, 1, 1))
    return {"images": (255 * (abs(rows) < 2) * np.ones(shape)).astype(np.uint8)}


def done(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Do an experiment in this process, with feature networks that were never trained, and report on it."""
    (folder / "f.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(samples, "_train", lambda data, seed: samples.FeatureNet(data.shape, data.classes))
    plan = make_plan(
        Request(load(folder / "f.yaml"), device="cpu", reports=folder / "reports"), download=False
    )
    display: Any = SimpleNamespace(say=lambda _: None)
    plan.write()
    with quickly():
        shared = shared_context(plan, display)
        for planned in plan.todo:
            trained(planned.run, plan.home.runs / planned.key, shared, planned.id)
    write_report(plan.folder)
    return plan


def test_images_in_colour_train_are_drawn_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npz(tmp_path / "discs.npz", **discs())
    plan = done(tmp_path, COLOUR, monkeypatch)
    for planned in plan.runs:
        run = plan.home.runs / planned.key
        record = json.loads((run / "record.json").read_text())
        assert record["data"]["shape"] == [32, 32, 3]
        assert record["data"]["split"].startswith("split made: ")
        assert {"frechet_distance", "knn_accuracy", "log_px_bernoulli"} <= record["metrics"].keys()
        with Image.open(run / "pictures/reconstructions-epoch-001.png") as drawn:
            pixels = np.asarray(drawn)
        assert pixels.ndim == 3
        assert (pixels[10:50, :, 0] == 255).any()  # a red disc of the first row
        assert load_model(run).decode(torch.zeros(1, 3)).shape == (1, 3072)
    with Image.open(plan.folder / "figures/contact-variants.png") as sheet:
        assert sheet.mode == "RGB"
        assert (np.ptp(np.asarray(sheet).astype(int), axis=-1) > 200).sum() > 100
    report = (plan.folder / "report.md").read_text(encoding="utf-8")
    assert "discs.npz: 48 train, 12 test, digest" in report
    assert "split made: a permutation of seed 0 holds 12 of 60 images out" in report
    out = generate(str(run), Drawing("reconstructions", 10, data_dir=tmp_path), Places(), tmp_path / "a.png")
    with Image.open(out) as drawn:
        assert drawn.mode == "RGB"
    out = generate(str(run), Drawing("reconstructions", 1, images=(out,)), Places(), tmp_path / "b.png")
    with Image.open(out) as drawn:
        assert drawn.mode == "RGB"


def test_without_labels_what_needs_them_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz(tmp_path / "bars.npz", **bars())
    plan = done(tmp_path, GREY, monkeypatch)
    for planned in plan.runs:
        record = json.loads((plan.home.runs / planned.key / "record.json").read_text())
        assert (record["data"]["shape"], record["data"]["unlabelled"]) == ([20, 12], True)
        assert {"elbo_bernoulli", "log_px_bernoulli", "prior_mmd"} <= record["metrics"].keys()
        assert not {"knn_accuracy", "linear_probe_accuracy", *samples.SCORES} & record["metrics"].keys()
    report = (plan.folder / "report.md").read_text(encoding="utf-8")
    assert "not defined: the data have no labels" in report
    assert "; no labels; split made" in report
    assert "by class" not in report
    assert "classifiers" not in report
    assert verify(plan.folder, deep=True, data_dir=tmp_path).differences == []
