"""Pictures made with a trained model: samples, the manifold, reconstructions, interpolations.

All on the CPU, and all that is random from the seed: the same request gives the same bytes.

Shapes: N images of H x W pixels.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bench.data.datasets import load as load_data
from bench.engine.device import stream
from bench.errors import BenchError, did_you_mean
from bench.pictures import grids
from bench.report.results import Results
from bench.report.results import load as load_results
from bench.saved import Saved, model_of, read_saved
from bench.store.experiments import ExperimentFolder
from bench.store.records import RECORD
from bench.tracking.fetch import MLFLOW_ID, fetch

KINDS = ("samples", "manifold", "reconstructions", "interpolations")
MOST = 10_000  # images of one picture
STEPS = 10  # from one image to the next, both ends included


@dataclass(frozen=True)
class Places:
    """Say where a run is looked for: a folder of reports, one experiment in it, an MLflow store."""

    reports: Path = Path("reports")
    experiment: str | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True)
class Drawing:
    """Describe a picture: `n` images; `images` are files to use in place of the run's test images."""

    kind: str = "samples"
    n: int = 100
    seed: int = 0
    images: tuple[Path, ...] = ()
    data_dir: Path | None = None


def generate(
    what: str, drawing: Drawing, places: Places, out: Path | None = None, *, force: bool = False
) -> Path:
    """Draw with the model of a run (its folder, key or id, its id in MLflow, or a variant); give the PNG.

    `out` is by default `<variant>-<kind>.png` in the working directory; a file that exists is only replaced
    with `force`. Raises BenchError for what cannot be found, loaded, drawn or written.
    """
    _check(drawing, out)
    with tempfile.TemporaryDirectory() as folder:
        saved = find(what, places, Path(folder))
        path = out or Path(f"{saved.run.variant}-{drawing.kind}.png")
        if path.exists() and not force:
            raise BenchError(f"{path} exists; give another --out, or --force to replace it")
        image = draw(saved, drawing)
    try:
        return grids.save(image, path)
    except OSError as error:
        raise BenchError(
            f"cannot write {path}: {error.strerror}; give --out in a folder you may write to"
        ) from None


def draw(saved: Saved, drawing: Drawing) -> Image.Image:
    """Draw with a run's model. Raises BenchError for what this model or its data cannot give."""
    model, n = model_of(saved), drawing.n
    if drawing.kind == "samples":
        return grids.samples(model, saved.shape, drawing.seed, n)
    if drawing.kind == "manifold":
        if model.latent != 2:
            raise BenchError(
                f"{saved.run.variant} has {model.latent} latents; a manifold needs 2; "
                "give a variant of latent size 2, or --kind samples"
            )
        return grids.manifold(model, saved.shape, math.isqrt(n))
    count = n if drawing.kind == "reconstructions" else n // STEPS
    if drawing.images:
        images = torch.stack([read_image(path, saved.shape) for path in drawing.images])
    else:
        images = _test_images(saved, drawing, count)
    if drawing.kind == "reconstructions":
        return grids.reconstructions(model, images, drawing.seed)
    return grids.interpolations(model, images, STEPS)


def read_image(path: Path, shape: Sequence[int]) -> Tensor:
    """Read a PNG or JPEG as a grey image uint8 [H, W]: scaled to fit, the rest and what is clear black.

    Raises BenchError for a file that is no such picture.
    """
    height, width = shape
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
                image = Image.fromarray((np.asarray(image, np.float64) / 257).round().astype(np.uint8))
            if image.has_transparency_data:
                clear = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", clear.size, "black"), clear)
            small = ImageOps.pad(image.convert("L"), (width, height), color=0)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or "no PNG or JPEG that can be read"
        raise BenchError(f"--from-images {path}: {why}; give a PNG or JPEG file") from None
    return torch.from_numpy(np.array(small, np.uint8))


def _check(drawing: Drawing, out: Path | None) -> None:
    """Refuse what no model could draw, before anything is loaded."""
    kind, n, given = drawing.kind, drawing.n, drawing.images
    if kind not in KINDS:
        raise BenchError(f"--kind {kind!r}{did_you_mean(kind, KINDS)}")
    if not 1 <= n <= MOST:
        raise BenchError(f"--n {n}; allowed: 1 to {MOST} images; give such a number")
    if not 0 <= drawing.seed < 2**32:
        raise BenchError(f"--seed {drawing.seed}; allowed: a whole number from 0; give such a number")
    if out is not None and out.suffix.lower() != ".png":
        raise BenchError(f"--out {out}; allowed: a file that ends in .png; give such a name")
    if kind == "manifold" and math.isqrt(n) ** 2 != n:
        raise BenchError(f"--n {n}; a manifold is a square; give --n 100, 225 or 400")
    if kind == "interpolations" and not given and (n % STEPS or n == STEPS):
        raise BenchError(f"--n {n}; a row has {STEPS} images, and there are two at least; give 20, 30, …")
    if given and kind not in ("reconstructions", "interpolations"):
        raise BenchError(f"--from-images with --kind {kind}; it goes with reconstructions and interpolations")
    if len(given) == 1 and kind == "interpolations":
        raise BenchError("--from-images names one file; an interpolation needs two; give one more")


def _test_images(saved: Saved, drawing: Drawing, count: int) -> Tensor:
    """Choose `count` images of the run's test set by the seed; for reconstructions ordered by label."""
    data = load_data(saved.run.dataset, drawing.data_dir)
    measured = (saved.record.get("data") or {}).get("digest", data.digest)
    if measured != data.digest:
        raise BenchError(
            f"{data.name} in {data.source} is not what the run was measured on (digest {data.digest[:12]}, "
            f"not {str(measured)[:12]}); give --data-dir with that, or --from-images"
        )
    if count > len(data.test_images):
        raise BenchError(
            f"--n {drawing.n} takes {count} test images, of which {data.name} has {len(data.test_images)}; "
            "give a smaller --n"
        )
    index = torch.randperm(len(data.test_images), generator=stream(drawing.seed, "pictures"))[:count]
    if drawing.kind == "reconstructions":
        index = index[data.test_labels[index].sort(stable=True).indices]
    return data.test_images[index]


# Finding


def find(what: str, places: Places, scratch: Path) -> Saved:
    """The run that `what` names; one that lies in MLflow is copied into the folder `scratch`.

    Of a variant it is the finished run of the smallest seed. Raises BenchError where nothing, or more than
    one experiment, fits.
    """
    path = Path(what)
    if _is_run(path) or path.name == RECORD or len(path.parts) > 1:
        return read_saved(path)
    if MLFLOW_ID.fullmatch(what):
        return read_saved(fetch(places.tracking_uri, what, scratch))
    folders = _experiments(places)
    homes = [ExperimentFolder(folder) for folder in folders]
    runs = {home.path.name: home.run(what).path for home in homes if what in home.planned}
    runs = {name: folder for name, folder in runs.items() if _is_run(folder)}
    if runs:
        return read_saved(_only(what, runs))
    return read_saved(_of_variant(what, places, [load_results(folder) for folder in folders]))


def _experiments(places: Places) -> list[Path]:
    """The experiments' folders in question."""
    known = {file.parent.name: file.parent for file in sorted(places.reports.glob("*/experiment.json"))}
    if not known:
        raise BenchError(
            f"{places.reports} holds no experiment; give --reports with the folder that bench run wrote to"
        )
    if places.experiment is None:
        return list(known.values())
    if places.experiment not in known:
        raise BenchError(
            f"--experiment {places.experiment!r} is not in {places.reports}"
            f"{did_you_mean(places.experiment, known)}"
        )
    return [known[places.experiment]]


def _of_variant(name: str, places: Places, found: Iterable[Results]) -> Path:
    """The folder of a variant's finished run of the smallest seed."""
    results = list(found)
    planned = {r.folder.name: v for r in results for v in r.variants if v.name == name}
    first = {experiment: v.first for experiment, v in planned.items() if v.first}
    if not planned:
        variants = {v.name for r in results for v in r.variants}
        raise BenchError(
            f"{name!r} is no run's folder, run id, MLflow run id or variant in {places.reports}"
            f"{did_you_mean(name, variants)}"
        )
    if not first:
        raise BenchError(
            f"{name} has no finished run in {', '.join(planned)}; finish one with bench run, "
            "or give the id of another run"
        )
    folders = {
        experiment: ExperimentFolder(places.reports / experiment).run(run.id).path
        for experiment, run in first.items()
    }
    return _only(name, folders)


def _only(what: str, folders: dict[str, Path]) -> Path:
    """The one folder there is. Raises BenchError naming the experiments where there are more."""
    if len(set(folders.values())) > 1:
        raise BenchError(f"{what} is in {', '.join(folders)}; say which with --experiment")
    return next(iter(folders.values()))


def _is_run(folder: Path) -> bool:
    return os.path.isfile(folder / RECORD)  # unlike Path.is_file, at ease with a name no file can have
