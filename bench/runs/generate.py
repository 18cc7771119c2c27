"""Pictures made with a trained model: samples, the manifold, reconstructions, interpolations.

All on the CPU, and all that is random from the seed: the same request gives the same bytes.

Shapes: N images, D pixels (28 x 28), Z latents.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bench.data.datasets import load as load_data
from bench.engine.device import stream
from bench.engine.train import evaluation_noise
from bench.errors import BenchError, did_you_mean
from bench.evaluation.measure import encode, prior_means
from bench.parts.vae import VAE
from bench.pictures import grids as pictures
from bench.report.results import Results
from bench.report.results import load as load_results
from bench.saved import Saved, model_of, read_saved
from bench.store.records import RECORD
from bench.tracking.fetch import MLFLOW_ID, fetch

KINDS = ("samples", "manifold", "reconstructions", "interpolations")
MOST = 10_000  # images of one picture
STEPS = 10  # from one image to the next, both ends included


@dataclass(frozen=True)
class Source:
    """Where a run is looked for."""

    reports: Path = Path("reports")
    experiment: str | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True)
class Wish:
    """What is to be drawn: `n` images; `images` are files to use in place of the run's test images."""

    kind: str = "samples"
    n: int = 100
    seed: int = 0
    images: tuple[Path, ...] = ()
    data_dir: Path | None = None


def generate(what: str, wish: Wish, source: Source, out: Path | None = None, *, force: bool = False) -> Path:
    """Draw with the model of a run (its folder, its id, its id in MLflow, or a variant); returns the PNG.

    `out` is by default `<variant>-<kind>.png` in the working directory; a file that exists is only replaced
    with `force`. Raises BenchError for what cannot be found, loaded, drawn or written.
    """
    _check(wish, out)
    with tempfile.TemporaryDirectory() as folder:
        saved = find(what, source, Path(folder))
        path = out or Path(f"{saved.run.variant}-{wish.kind}.png")
        if path.exists() and not force:
            raise BenchError(f"{path} exists; give another --out, or --force to replace it")
        image = draw(saved, wish)
    try:
        return pictures.save(image, path)
    except OSError as error:
        raise BenchError(
            f"cannot write {path}: {error.strerror}; give --out in a folder you may write to"
        ) from None


def find(what: str, source: Source, scratch: Path) -> Saved:
    """The run that `what` names; one that lies in MLflow is copied into the folder `scratch`.

    Of a variant it is the finished run of the smallest seed. Raises BenchError where nothing, or more than
    one experiment, fits.
    """
    path = Path(what)
    if _is_run(path) or path.name == RECORD or len(path.parts) > 1:
        return read_saved(path)
    if MLFLOW_ID.fullmatch(what):
        return read_saved(fetch(source.tracking_uri, what, scratch))
    folders = _experiments(source)
    runs = {folder.name: folder / "records" / what for folder in folders}
    runs = {name: folder for name, folder in runs.items() if _is_run(folder)}
    if runs:
        return read_saved(_only(what, runs))
    return read_saved(_of_variant(what, source, [load_results(folder) for folder in folders]))


def draw(saved: Saved, wish: Wish) -> Image.Image:
    """The picture of a run's model that a wish describes."""
    model = model_of(saved)
    with torch.no_grad():
        if wish.kind == "samples":
            made = prior_means(model, wish.seed, wish.n)
            return pictures.grid(made, _columns(wish.n))
        if wish.kind == "manifold":
            return _manifold(saved, model, wish.n)
        if wish.kind == "reconstructions":
            return reconstructions(model, _images(saved, wish, wish.n), wish.seed)
        images = _images(saved, wish, wish.n // STEPS)
        return pictures.interpolations(model, images, torch.arange(len(images)), STEPS)  # each its own class


def reconstructions(model: VAE, images: Tensor, seed: int) -> Image.Image:
    """Odd rows uint8 images [N, D], even rows their reconstructions: decoder means at one sampled z."""
    noise = evaluation_noise(seed, len(images), model.latent, images.device)
    made = model.grey_mean(model.decode(encode(model, images).sample(noise)))
    columns = _columns(len(images))
    rows = zip((images.float() / 255).split(columns), made.split(columns), strict=True)
    padded = (_filled(part, columns) for pair in rows for part in pair)
    return pictures.grid(torch.cat(list(padded)), columns)


def read_image(path: Path) -> Tensor:
    """A PNG or JPEG as a grey image uint8 [784]: scaled to fit 28 x 28, the rest and what is clear black.

    Raises BenchError for a file that is no such picture.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
                image = Image.fromarray((np.asarray(image, np.float64) / 257).round().astype(np.uint8))
            if image.has_transparency_data:
                clear = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", clear.size, "black"), clear)
            small = ImageOps.pad(image.convert("L"), (pictures.SIDE, pictures.SIDE), color=0)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or "no PNG or JPEG that can be read"
        raise BenchError(f"--from-images {path}: {why}; give a PNG or JPEG file") from None
    return torch.from_numpy(np.array(small, np.uint8)).flatten()


def _check(wish: Wish, out: Path | None) -> None:
    """Refuse what no model could draw, before anything is loaded."""
    if wish.kind not in KINDS:
        raise BenchError(f"--kind {wish.kind!r}{did_you_mean(wish.kind, KINDS)}")
    if not 1 <= wish.n <= MOST:
        raise BenchError(f"--n {wish.n}; allowed: 1 to {MOST} images; give such a number")
    if not 0 <= wish.seed < 2**32:
        raise BenchError(f"--seed {wish.seed}; allowed: a whole number from 0; give such a number")
    if out is not None and out.suffix.lower() != ".png":
        raise BenchError(f"--out {out}; allowed: a file that ends in .png; give such a name")
    if wish.kind == "manifold" and math.isqrt(wish.n) ** 2 != wish.n:
        raise BenchError(f"--n {wish.n}; a manifold is a square; give --n 100, 225 or 400")
    if wish.kind == "interpolations" and not wish.images and (wish.n % STEPS or wish.n == STEPS):
        raise BenchError(
            f"--n {wish.n}; a row has {STEPS} images, and there are two at least; give 20, 30, …"
        )
    if wish.images and wish.kind not in ("reconstructions", "interpolations"):
        raise BenchError(
            f"--from-images with --kind {wish.kind}; it goes with reconstructions and interpolations"
        )
    if wish.images and wish.kind == "interpolations" and len(wish.images) < 2:
        raise BenchError("--from-images names one file; an interpolation needs two; give one more")


def _manifold(saved: Saved, model: VAE, n: int) -> Image.Image:
    if model.latent != 2:
        raise BenchError(
            f"{saved.run.variant} has {model.latent} latents; a manifold needs 2; "
            "give a variant of latent size 2, or --kind samples"
        )
    return pictures.manifold(model, math.isqrt(n))


def _images(saved: Saved, wish: Wish, count: int) -> Tensor:
    """uint8 [N, D]: the files given, or `count` test images."""
    if not wish.images:
        return _test_images(saved, wish, count)
    return torch.stack([read_image(path) for path in wish.images])


def _test_images(saved: Saved, wish: Wish, count: int) -> Tensor:
    """`count` images of the run's test set, drawn by the seed; for reconstructions ordered by label."""
    data = load_data(saved.run.dataset, wish.data_dir)
    measured = (saved.record.get("data") or {}).get("digest", data.digest)
    if measured != data.digest:
        raise BenchError(
            f"{data.name} in {data.source} is not what the run was measured on (digest {data.digest[:12]}, "
            f"not {str(measured)[:12]}); give --data-dir with that, or --from-images"
        )
    if count > len(data.test_images):
        raise BenchError(
            f"--n {wish.n} takes {count} test images, of which {data.name} has {len(data.test_images)}; "
            "give a smaller --n"
        )
    index = torch.randperm(len(data.test_images), generator=stream(wish.seed, "pictures"))[:count]
    if wish.kind == "reconstructions":
        index = index[data.test_labels[index].sort(stable=True).indices]
    return data.test_images.flatten(1)[index]


def _experiments(source: Source) -> list[Path]:
    """The experiments' folders in question."""
    known = {file.parent.name: file.parent for file in sorted(source.reports.glob("*/experiment.json"))}
    if not known:
        raise BenchError(
            f"{source.reports} holds no experiment; give --reports with the folder that bench run wrote to"
        )
    if source.experiment is None:
        return list(known.values())
    if source.experiment not in known:
        raise BenchError(
            f"--experiment {source.experiment!r} is not in {source.reports}"
            f"{did_you_mean(source.experiment, known)}"
        )
    return [known[source.experiment]]


def _of_variant(name: str, source: Source, found: Iterable[Results]) -> Path:
    """The folder of a variant's finished run of the smallest seed."""
    results = list(found)
    planned = {r.folder.name: v for r in results for v in r.variants if v.name == name}
    first = {experiment: v.first for experiment, v in planned.items() if v.first}
    if not planned:
        variants = {v.name for r in results for v in r.variants}
        raise BenchError(
            f"{name!r} is no run's folder, run id, MLflow run id or variant in {source.reports}"
            f"{did_you_mean(name, variants)}"
        )
    if not first:
        raise BenchError(
            f"{name} has no finished run in {', '.join(planned)}; finish one with bench run, "
            "or give the id of another run"
        )
    folders = {
        experiment: source.reports / experiment / "records" / run.id for experiment, run in first.items()
    }
    return _only(name, folders)


def _only(what: str, folders: dict[str, Path]) -> Path:
    """The one folder there is. Raises BenchError naming the experiments where there are more."""
    if len(folders) > 1:
        raise BenchError(f"{what} is in {', '.join(folders)}; say which with --experiment")
    return next(iter(folders.values()))


def _is_run(folder: Path) -> bool:
    return os.path.isfile(folder / RECORD)  # unlike Path.is_file, at ease with a name no file can have


def _columns(count: int) -> int:
    """Ten to a row, as in a report; more only where that keeps a big picture square."""
    return max(pictures.COLUMNS, math.isqrt(count - 1) + 1)


def _filled(images: Tensor, count: int) -> Tensor:
    """A row of images with black ones at its end."""
    return torch.cat([images, images.new_zeros(count - len(images), images.shape[1])])
