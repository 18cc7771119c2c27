"""Pictures of a run drawn once: each shows what it says, in equal bytes for equal numbers."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factory import a_run, part
from PIL import Image
from torch import Tensor

from bench.engine.device import initialised
from bench.evaluation.latent import active_units
from bench.evaluation.measure import encode
from bench.parts.posteriors import Q
from bench.parts.vae import VAE, build
from bench.pictures import grids as pictures
from bench.pictures import plots
from bench.pictures.album import Album
from bench.runs import matrix as campaign
from bench.runs.matrix import Campaign
from bench.store.records import RunFolder
from bench.store.tiles import SIDE, TILE, font, write

LABELS = torch.arange(60) % 10


def a_model(latent: int = 3) -> VAE:
    with initialised(0):
        return build(a_run(encoder=part("mlp", hidden=[20]), latent=latent))


def some_images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (60, SIDE * SIDE), generator=generator).to(torch.uint8)


def means(latent: int, count: int = 60, seed: int = 0) -> Tensor:
    return torch.randn(count, latent, generator=torch.Generator().manual_seed(seed))


def posterior(mean: Tensor) -> Q:
    return Q(mean, torch.ones_like(mean), torch.zeros_like(mean), torch.zeros_like(mean))


def png(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def tile(image: Image.Image, left: int, row: int) -> np.ndarray:
    """A tile's own pixels [28, 28], from the enlarged picture."""
    scale = TILE // SIDE
    return np.asarray(image)[row * TILE : (row + 1) * TILE : scale, left : left + TILE : scale]


def test_interpolations_go_from_digit_to_digit_by_posterior_means() -> None:
    model, images = a_model(), some_images()
    image = pictures.interpolations(model, images, LABELS, steps=4)
    gap = pictures.GAP
    assert image.size == (6 * TILE + 2 * gap, 10 * TILE)
    mean = encode(model, images[:10]).mean
    ends = model.grey_mean(model.decode(mean)).detach()
    right = TILE + gap + 4 * TILE + gap
    for row in range(10):
        after = (row + 1) % 10
        assert np.array_equal(tile(image, 0, row), images[row].view(SIDE, SIDE))
        assert np.array_equal(tile(image, right, row), images[after].view(SIDE, SIDE))
        for left, made in ((TILE + gap, ends[row]), (TILE + gap + 3 * TILE, ends[after])):
            expected = (made.view(SIDE, SIDE) * 255).round().numpy()
            assert np.abs(tile(image, left, row) - expected).max() <= 1
    middle = model.grey_mean(model.decode(mean[0] + (mean[1] - mean[0]) / 3)).detach().view(SIDE, SIDE)
    assert np.abs(tile(image, TILE + gap + TILE, 0) - (middle * 255).numpy()).max() <= 1


def test_interpolations_need_no_ten_digits_and_leave_the_mode() -> None:
    model = a_model().train()
    image = pictures.interpolations(model, some_images(), LABELS % 3)
    assert image.height == 3 * TILE
    assert model.training


def test_progress_has_a_frame_an_epoch_and_says_which(tmp_path: Path) -> None:
    frames = {epoch: pictures.samples(a_model(), epoch) for epoch in (20, 1, 5)}
    path = pictures.progress(frames, tmp_path / "new" / "progress.gif")
    with Image.open(path) as gif:
        assert gif.n_frames == 3
        assert gif.info["loop"] == 0
        shown = []
        for frame, epoch in enumerate((1, 5, 20)):
            gif.seek(frame)
            shown.append(gif.info["duration"])
            grey = np.asarray(gif.convert("L")).astype(int)
            drawn = np.asarray(frames[epoch])[: grey.shape[0] - 28]
            assert np.abs(grey[28:] - drawn).max() <= 255 / 31 / 2 + 1  # 32 levels, evenly spaced
            assert grey[:28].min() == 0
        assert shown == [700, 700, 3000]
    assert path.read_bytes() == pictures.progress(frames, tmp_path / "again.gif").read_bytes()


def test_progress_stays_small_whatever_it_shows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 280, 280), np.uint8)
    frames = {2**i: Image.fromarray(image).resize((560, 560), 0) for i, image in enumerate(noise)}
    assert pictures.progress(frames, tmp_path / "a.gif").stat().st_size < pictures.GIF_BYTES


@pytest.mark.parametrize("latent", [1, 2, 3, 32])
def test_the_latent_space_is_drawn_whatever_its_size(latent: int) -> None:
    image = plots.latent(means(latent), LABELS)
    assert min(image.size) >= 500
    assert png(image) == png(plots.latent(means(latent), LABELS))
    assert png(image) != png(plots.latent(means(latent, seed=1), LABELS))


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_a_collapsed_latent_space_is_drawn_without_a_warning(latent: int) -> None:
    assert plots.latent(torch.zeros(60, latent), LABELS).size
    assert plots.tsne(torch.zeros(60, latent), LABELS) is None
    assert plots.kl(posterior(torch.zeros(60, latent))).size


def test_every_digit_has_its_own_look_and_every_colour_survives() -> None:
    assert len(set(zip(plots.COLOURS, plots.MARKERS, strict=True))) == 10
    assert len(set(plots.MARKERS)) == 10
    shown = np.asarray(plots.latent(means(1, 600), torch.arange(600) % 10).convert("RGB")).astype(int)
    for colour in set(plots.COLOURS):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(shown - wanted).max(-1) <= 16).sum() > 100


def test_no_more_points_than_are_legible_evenly_chosen() -> None:
    mean, labels = torch.arange(10_000.0).view(-1, 1), torch.arange(10_000) % 10
    points, digits = plots._chosen(mean, labels)
    assert len(points) == len(digits) == plots.POINTS
    assert points[0] == 0
    assert points[-1] == 9999
    assert set(np.diff(points[:, 0])) <= {4.0, 5.0, 6.0}


def test_tsne_puts_clusters_apart_and_is_repeatable() -> None:
    mean = 30 * torch.nn.functional.one_hot(LABELS, 10).float() + means(10)
    drawn = plots.tsne(mean, LABELS)
    assert drawn is not None
    again = plots.tsne(mean, LABELS)
    assert again is not None
    assert png(drawn) == png(again)
    assert plots.tsne(means(2), LABELS) is None


def test_kl_counts_what_the_metric_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    q = posterior(means(8, 500) * torch.tensor([2.0, 1, 0.5, 0.2, 0.05, 0.01, 0.001, 0]))
    titles: list[str] = []
    render = plots._rendered

    def seen(figure):  # type: ignore[no-untyped-def]
        above, below = figure.axes
        titles.append(above.get_title(loc="left"))
        heights = [bar.get_height() for bar in above.patches]
        assert heights == sorted(heights, reverse=True)
        assert sum(heights) == pytest.approx(float(q.kl().sum(-1).mean()), rel=1e-5)
        assert below.get_yscale() == "log"
        return render(figure)

    monkeypatch.setattr(plots, "_rendered", seen)
    plots.kl(q)
    assert titles[0].endswith(f"{active_units(q)} of 8 latents active")


def test_words_are_written_in_greek_too() -> None:
    assert font(15).getmask("β").getbbox() != font(15).getmask("\uffff").getbbox()
    page = Image.new("L", (100, 30), 255)
    end = write(page, 2, 2, "β = 1", 15)
    assert np.asarray(page).min() < 60
    assert 30 < end < 70


@pytest.mark.parametrize("full", [True, False])
def test_an_album_holds_every_picture_and_tells_of_each(tmp_path: Path, full: bool) -> None:
    told: list[tuple[str, int]] = []
    model, images = a_model(), some_images()
    album = Album(
        a_run(epochs=2, latent=3),
        images,
        LABELS,
        RunFolder(tmp_path),
        lambda _, data: told.append((data["key"], data["step"])),
        full=full,
    )
    for epoch in (1, 2):
        album.epoch(model, epoch)
    album.close(model, encode(model, images))
    once = ["interpolations", "latent", *["tsne"] * full, "kl"]
    assert told == [(key, e) for e in (1, 2) for key in ("samples", "reconstructions")] + [
        (key, 2) for key in once
    ]
    files = {path.name for path in (tmp_path / "pictures").iterdir()}
    by_epoch = {f"{key}-epoch-00{e}.png" for key in ("samples", "reconstructions") for e in (1, 2)}
    assert files == {f"{key}.png" for key in once} | by_epoch | {"progress.gif"}
    assert album.seconds > 0


def test_only_the_first_seed_draws_what_takes_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(campaign, "git_state", dict)
    monkeypatch.setattr(Campaign, "_about", lambda *_: {})
    todo = [SimpleNamespace(id=f"s{seed}", run=a_run(seed=seed), resume=0) for seed in (3, 4, 5)]
    plan = SimpleNamespace(experiment=SimpleNamespace(name="x", seeds=(4, 3, 5)), todo=todo, folder=tmp_path)
    jobs = Campaign(plan, None, SimpleNamespace(say=print)).jobs({})  # type: ignore[arg-type]
    assert {job.id: job.full for job in jobs} == {"s3": True, "s4": False, "s5": False}
