"""Pictures of a model: tiles lie where they should, at their own grey level.

Images are 5 x 7 wherever their size does not matter, so that no transposed axis can pass.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factory import a_run, a_vae, bytes_of
from PIL import Image
from scipy.stats import norm
from torch import Tensor

from bench.engine.device import evaluation_noise
from bench.evaluation.posteriors import encode
from bench.parts.vae import VAE
from bench.pictures import grids
from bench.pictures.album import Album
from bench.pictures.shown import epochs_shown
from bench.report import contact
from bench.runs import matrix
from bench.runs.matrix import Matrix
from bench.store.records import RunFolder
from bench.store.tiles import TILE, enlargement, font, page, without_colour, write

H, W = 5, 7
LABELS = torch.arange(60) % 10


def a_model(latent: int = 3, pixels: int = H * W) -> VAE:
    """An untrained model of images of 5 x 7, in eval mode."""
    return a_vae(pixels=pixels, latent=latent).eval()


def images_of(count: int = 60) -> Tensor:
    """Random uint8 images [N, 5, 7]."""
    return bytes_of(count, H * W).view(count, H, W)


def tiles(image: Image.Image, height: int = H, width: int = W) -> np.ndarray:
    """The images of a grid [rows, columns, H, W], undone from their enlargement."""
    side = max(height, width)
    scale = enlargement(side)
    pixels = np.asarray(image)[::scale, ::scale]
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    parted = pixels.reshape(rows, side, columns, side, *pixels.shape[2:])
    return parted.swapaxes(1, 2)[:, :, :height, :width]


def inputs_of(model: VAE) -> list[Tensor]:
    """What the decoder is given from now on."""
    seen: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    return seen


def test_epochs_shown_are_1_2_5_and_the_last() -> None:
    assert epochs_shown(1) == {1}
    assert epochs_shown(90) == {1, 2, 5, 10, 20, 50, 90}
    assert epochs_shown(1000) == {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}


@pytest.mark.parametrize(("height", "width"), [(28, 28), (5, 7), (64, 33), (8, 8)])
def test_the_grid_places_tiles_row_by_row_at_their_own_grey_level(height: int, width: int) -> None:
    pixels = torch.arange(7 * height * width) % 256
    image = grids.grid((pixels / 255).view(7, height, width), 3)
    side = max(height, width) * enlargement(max(height, width))
    assert image.mode == "L"
    assert image.size == (3 * side, 3 * side)
    assert 0.6 * TILE < side < 1.5 * TILE
    found = tiles(image, height, width).reshape(9, height, width)
    assert (found[:7] == pixels.byte().view(7, height, width).numpy()).all()
    assert not found[7:].any()  # the rest of the last row is black


def test_a_sheet_of_a_report_finds_the_tiles_of_any_grid(tmp_path: Path) -> None:
    grey = torch.arange(20).view(20, 1, 1).expand(20, 33, 30) * 10 / 255
    path = grids.save(grids.grid(grey), tmp_path / "new" / "grid.png")
    for row in (0, 1):
        strip = np.asarray(contact._strip(path, row))
        assert strip.shape == (TILE, 10 * TILE, 3)
        assert strip[10, 10::TILE, 1].tolist() == [10 * (10 * row + i) for i in range(10)]


def test_colour_images_are_drawn_in_colour_grey_ones_beside_them_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape, model = (H, W, 3), a_model(pixels=H * W * 3)
    images = bytes_of(10, H * W * 3).view(10, *shape)
    shown = tiles(grids.reconstructions(model, images, 0))
    assert (shown[0] == images.numpy()).all()
    drawn = grids.samples(model, shape, 0)
    made = grids.prior_means(model, 0, 100).mul(255).round().view(10, 10, *shape).numpy()
    assert (tiles(drawn) == made).all()
    assert tiles(grids.manifold(a_model(latent=2, pixels=H * W * 3), shape, 3)).shape == (3, 3, *shape)
    one, between = grids.interpolations(model, images[:2], steps=2), W * enlargement(W) + grids.GAP
    assert (tiles(one.crop((0, 0, between - grids.GAP, one.height)))[:, 0] == images[:2].numpy()).all()
    with Image.open(grids.progress({1: drawn, 2: drawn}, tmp_path / "a.gif")) as gif:
        pixels = np.asarray(gif.convert("RGB")).astype(int)[28:]
        assert np.abs(pixels - np.asarray(drawn)[: len(pixels)]).mean() < 16  # of 256 colours
    strip = np.asarray(contact._strip(grids.save(drawn, tmp_path / "grid.png"), 1))
    small = np.asarray(drawn.resize((10 * W, 10 * W), Image.Resampling.NEAREST))[W : 2 * W]
    assert (strip[TILE // W // 2 :: TILE // W, TILE // W // 2 :: TILE // W] == small).all()


@pytest.mark.parametrize("name", ["grid.png", "progress.gif"])
def test_a_picture_is_written_whole_or_not_at_all(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = grids.grid(torch.zeros(1, H, W))

    def write() -> None:
        if name == "grid.png":
            grids.save(image, tmp_path / name)
        else:
            grids.progress({1: image}, tmp_path / name)

    write()
    kept = (tmp_path / name).read_bytes()

    def killed(image: Image.Image, file: Path, *_: object, **__: object) -> None:
        file.write_bytes(b"half a picture")
        raise SystemExit

    monkeypatch.setattr(Image.Image, "save", killed)
    with pytest.raises(SystemExit):
        write()
    assert (tmp_path / name).read_bytes() == kept
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (1, 10)), (10, (1, 10)), (11, (2, 10)), (101, (10, 11)), (400, (20, 20))]
)
def test_a_grid_has_ten_columns_until_it_is_large(count: int, shape: tuple[int, int]) -> None:
    assert tiles(grids.grid(torch.zeros(count, H, W))).shape[:2] == shape


def test_classes_take_turns_whatever_their_number() -> None:
    assert grids.in_turns(torch.tensor([2, 0, 0, 2, 1, 1, 2, 0]), 5).tolist() == [1, 4, 0, 2, 5]
    assert grids.in_turns(torch.tensor([2, 0, 0, 2, 1, 2, 0]), 50).tolist() == [1, 4, 0]  # one of class 1
    assert grids.in_turns(torch.zeros(9), 4).tolist() == [0, 1, 2, 3]  # no classes to speak of
    assert grids.in_turns(torch.arange(100), 10).tolist() == [*range(10)]


def test_odd_rows_are_originals_and_even_rows_their_reconstructions() -> None:
    model, images = a_model(), images_of(23)
    found = tiles(grids.reconstructions(model, images, 4))
    assert found.shape[:2] == (6, 10)
    noise = evaluation_noise(4, 23, 3, torch.device("cpu"))
    with torch.no_grad():
        made = model.grey_mean(model.decode(encode(model, images.flatten(1)).sample(noise)))
    assert (found[::2].reshape(30, H, W)[:23] == images.numpy()).all()
    assert (found[1::2].reshape(30, H, W)[:23] == (made * 255).round().byte().view(23, H, W).numpy()).all()
    assert not found[4:, 3:].any()


def test_the_manifold_runs_through_the_priors_quantiles() -> None:
    model = a_model(latent=2)
    seen = inputs_of(model)
    assert tiles(grids.manifold(model, (H, W), side=5)).shape[:2] == (5, 5)
    z = seen[0].view(5, 5, 2)
    quantiles = torch.tensor(norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9]), dtype=torch.float32)
    for row in range(5):
        torch.testing.assert_close(z[row, :, 0], quantiles)  # left to right
        torch.testing.assert_close(z[:, row, 1], quantiles.flip(0))  # bottom to top


def test_interpolations_go_from_image_to_image_by_posterior_means() -> None:
    model, images = a_model(), images_of(3)
    image = grids.interpolations(model, images, steps=4)
    tile = W * enlargement(W)
    assert image.size == (6 * tile + 2 * grids.GAP, 3 * tile)
    bounds = (0, tile, tile + grids.GAP, 5 * tile + grids.GAP, 5 * tile + 2 * grids.GAP, image.width)
    start, made, end = (
        tiles(image.crop((left, 0, right, image.height)))
        for left, right in zip(bounds[::2], bounds[1::2], strict=True)
    )
    assert (start[:, 0] == images.numpy()).all()
    assert (end[:, 0] == images[[1, 2, 0]].numpy()).all()
    with torch.no_grad():
        mean = encode(model, images.flatten(1)).mean
        for step in range(4):
            z = mean + (mean[[1, 2, 0]] - mean) * step / 3
            expected = (model.grey_mean(model.decode(z)) * 255).view(3, H, W)
            assert np.abs(made[:, step] - expected.numpy()).max() <= 1


def test_progress_has_a_frame_an_epoch_and_says_which(tmp_path: Path) -> None:
    frames = {epoch: grids.samples(a_model(pixels=784), (28, 28), epoch) for epoch in (20, 1, 5)}
    path = grids.progress(frames, tmp_path / "new" / "progress.gif")
    with Image.open(path) as gif:
        assert gif.n_frames == 3
        assert gif.info["loop"] == 0
        shown = []
        for frame, epoch in enumerate((1, 5, 20)):
            gif.seek(frame)
            shown.append(gif.info["duration"])
            grey = np.asarray(gif.convert("L")).astype(int)
            assert grey.shape == (28 + grids.GIF_ROWS * TILE, 10 * TILE)
            drawn = np.asarray(frames[epoch])[: grey.shape[0] - 28]
            assert np.abs(grey[28:] - drawn).max() <= 255 / 31 / 2 + 1  # 32 levels, evenly spaced
            assert grey[:28].min() == 0
        assert shown == [700, 700, 3000]
    assert path.read_bytes() == grids.progress(frames, tmp_path / "again.gif").read_bytes()


def test_progress_stays_small_whatever_it_shows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 280, 280), np.uint8)
    frames = {2**i: Image.fromarray(image).resize((560, 560), 0) for i, image in enumerate(noise)}
    assert grids.progress(frames, tmp_path / "a.gif").stat().st_size < grids.GIF_BYTES


def test_words_are_written_in_greek_too() -> None:
    assert font(15).getmask("β").getbbox() != font(15).getmask("\uffff").getbbox()
    sheet = page(100, 30)
    end = write(sheet, 2, 2, "β = 1", 15)
    assert np.asarray(sheet).min() < 60
    assert without_colour(sheet).mode == "L"
    sheet.putpixel((0, 0), (255, 254, 255))
    assert without_colour(sheet) is sheet
    assert 30 < end < 70


@pytest.mark.parametrize("full", [True, False])
def test_an_album_holds_every_picture_tells_of_each_and_leaves_the_model_as_it_was(
    tmp_path: Path, full: bool
) -> None:
    told: list[tuple[str, int]] = []
    model, images, folder = a_model(latent=3), images_of(), RunFolder(tmp_path)

    def tell(_: object, data: dict[str, Any]) -> None:
        told.append((data["key"], data["step"]))

    album = Album(a_run(epochs=2, latent=3), images, LABELS, folder, tell, full=full)
    for epoch, training in ((1, True), (2, False)):
        album.epoch(model.train(training), epoch)
        assert model.training is training
    album.close(model, encode(model, images.flatten(1)), 2)
    each = [(key, epoch) for epoch in (1, 2) for key in ("samples", "reconstructions")]
    once = [(key, 2) for key in ("interpolations", "latent", *["tsne"] * full, "kl")]
    assert told == each + once
    names = {f"{key}-epoch-00{epoch}.png" for key, epoch in each} | {f"{key}.png" for key, _ in once}
    assert {path.name for path in folder.pictures.iterdir()} == names | {"progress.gif"}
    with Image.open(folder.pictures / "reconstructions-epoch-001.png") as picture:
        found = tiles(picture)
    assert (found[::2].reshape(50, H, W) == images[:50].numpy()).all()  # whose classes take turns
    assert album.seconds > 0


def test_only_the_first_seed_draws_what_takes_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(matrix, "git_state", dict)
    todo = [SimpleNamespace(id=f"s{seed}", run=a_run(seed=seed), resume=0) for seed in (3, 4, 5)]
    experiment = SimpleNamespace(name="x", seeds=(4, 3, 5))
    request = SimpleNamespace(command=lambda variant, seed: "")
    plan = SimpleNamespace(experiment=experiment, request=request, todo=todo)
    stub: Any = SimpleNamespace(plan=plan, _folder=lambda planned: tmp_path)
    assert {job.id: job.full for job in Matrix.jobs(stub, {})} == {"s3": True, "s4": False, "s5": False}
