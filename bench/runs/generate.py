"""Pictures made with a trained model: samples, the manifold, reconstructions, interpolations.

All on the CPU, and all that is random from the seed: the same request gives the same bytes.

Shapes: N images of H x W pixels.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bench.engine.device import stream
from bench.engine.images import data_of
from bench.errors import BenchError, did_you_mean
from bench.pictures import grids
from bench.saved import Saved, model_of, read_saved
from bench.store.experiments import RUNS, ExperimentFolder, experiments
from bench.store.files import picture
from bench.store.records import RECORD
from bench.tracking.fetch import MLFLOW_ID, fetch

KINDS = ("samples", "manifold", "reconstructions", "interpolations")
STEPS = 10  # from one image to the next, both ends included


@dataclass(frozen=True)
class Drawing:
    """Describe a picture: `n` images; `images` are files to use in place of the run's test images."""

    kind: str = "samples"
    n: int = 100
    seed: int = 0
    images: tuple[Path, ...] = ()
    data_dir: Path | None = None


@dataclass(frozen=True)
class Places:
    """Say where a run is looked for: a folder of reports, one experiment in it, an MLflow store."""

    reports: Path = Path("reports")
    experiment: str | None = None
    tracking_uri: str | None = None


def generate(
    what: str, drawing: Drawing, places: Places, out: Path | None = None, *, force: bool = False
) -> Path:
    """Draw with the model of the run that `what` names, as `find` does; give the PNG that was written.

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


def find(what: str, places: Places, scratch: Path) -> Saved:
    """Find a run by its folder, its MLflow run id, its key or id in the store, or its variant.

    A run out of MLflow is copied into the folder `scratch`. Of a variant it is the finished run of the
    smallest seed. Raises BenchError where nothing fits, or runs of more than one experiment do.
    """
    path, key = Path(what), places.reports / RUNS / what
    if _is_run(path) or path.name == RECORD or len(path.parts) > 1:
        return read_saved(path)
    if MLFLOW_ID.fullmatch(what):
        return read_saved(fetch(places.tracking_uri, what, scratch))
    if path.parts and _is_run(key):
        return read_saved(key)
    homes = _experiments(places)
    found = {home: what for home in homes if what in home.planned and _is_run(home.run(what).path)}
    if not found:
        found = _of_variant(what, places.reports, homes)
    if len({home.run(run_id).path for home, run_id in found.items()}) > 1:
        names = ", ".join(home.path.name for home in found)
        raise BenchError(f"{what} is in {names}; say which with --experiment")
    home, run_id = next(iter(found.items()))
    return read_saved(home.run(run_id).path, home.record(run_id))


def _experiments(places: Places) -> list[ExperimentFolder]:
    """List the experiments in question."""
    known = {home.path.name: home for home in experiments(places.reports)}
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


def _of_variant(
    variant: str, reports: Path, homes: Sequence[ExperimentFolder]
) -> dict[ExperimentFolder, str]:
    """Give the id of the variant's finished run of the smallest seed in each experiment that has one."""
    seeds = {
        home: sorted(
            (run["seed"], run_id) for run_id, run in home.planned.items() if run["variant"] == variant
        )
        for home in homes
        if variant in home.spec["variants"]
    }
    if not seeds:
        known = {name for home in homes for name in home.spec["variants"]}
        raise BenchError(
            f"{variant!r} is no run's folder, run id, MLflow run id or variant in {reports}"
            f"{did_you_mean(variant, known)}"
        )
    found = {}
    for home, runs in seeds.items():
        finished = (i for _, i in runs if (home.record(i) or {}).get("status") == "finished")
        if run_id := next(finished, None):
            found[home] = run_id
    if not found:
        raise BenchError(
            f"{variant} has no finished run in {', '.join(home.path.name for home in seeds)}; "
            "finish one with bench run, or give the id of another run"
        )
    return found


def _is_run(folder: Path) -> bool:
    return os.path.isfile(folder / RECORD)  # unlike Path.is_file, at ease with a name no file can have


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
    """Read a PNG or JPEG as an image uint8 [H, W] or [H, W, 3]: scaled to fit, black where it is clear.

    Raises BenchError for a file that is no such picture.
    """
    height, width, *channels = shape
    try:
        with picture(path, formats=("PNG", "JPEG")) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
                image = Image.fromarray((np.asarray(image, np.float64) / 257).round().astype(np.uint8))
            if image.has_transparency_data:
                clear = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", clear.size, "black"), clear)
            small = ImageOps.pad(image.convert("RGB" if channels else "L"), (width, height), color=0)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or "no PNG or JPEG that can be read"
        raise BenchError(f"--from-images {path}: {why}; give a PNG or JPEG file") from None
    return torch.from_numpy(np.array(small, np.uint8))


def _check(drawing: Drawing, out: Path | None) -> None:
    """Refuse what no model could draw, before anything is loaded."""
    kind, n, given = drawing.kind, drawing.n, drawing.images
    if kind not in KINDS:
        raise BenchError(f"--kind {kind!r}{did_you_mean(kind, KINDS)}")
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
    data = data_of(saved.run.dataset, saved.run.own_data, drawing.data_dir)
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
    if drawing.kind == "reconstructions" and data.test_labels is not None:
        index = index[data.test_labels[index].sort(stable=True).indices]
    return data.test_images[index]
