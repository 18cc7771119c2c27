"""Pictures: tiles lie where they should, at their own grey level, and variants of one latent size share z."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from factory import a_dataset, a_run, part
from PIL import Image
from scipy.stats import norm

from bench.engine.train import evaluation_noise
from bench.evaluation.measure import encode
from bench.parts.vae import VAE, build
from bench.pictures import grids as pictures

SIDE, SCALE = 28, pictures.SCALE


def tile(image: Image.Image, row: int, column: int) -> np.ndarray:
    """One tile's pixels, undone from their enlargement, [28, 28]."""
    pixels = np.asarray(image)[::SCALE, ::SCALE]
    return pixels[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]


def test_epochs_shown_are_1_2_5_and_the_last() -> None:
    assert pictures.epochs_shown(1) == {1}
    assert pictures.epochs_shown(20) == {1, 2, 5, 10, 20}
    assert pictures.epochs_shown(90) == {1, 2, 5, 10, 20, 50, 90}
    assert pictures.epochs_shown(1000) == {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}


def test_the_grid_places_tiles_row_by_row_at_their_own_grey_level() -> None:
    images = (torch.arange(7 * 784) % 256 / 255).view(7, 784)
    image = pictures.grid(images, 3)
    assert image.mode == "L"
    assert image.size == (3 * SIDE * SCALE, 3 * SIDE * SCALE)
    for index in range(7):
        expected = (images[index] * 255).round().byte().view(SIDE, SIDE).numpy()
        assert (tile(image, index // 3, index % 3) == expected).all()
    assert (tile(image, 2, 1) == 0).all()  # the rest of the last row is black
    pixels = np.asarray(image)  # enlarged by repetition, nothing between
    assert (pixels == np.repeat(np.repeat(pixels[::SCALE, ::SCALE], SCALE, 0), SCALE, 1)).all()


def test_the_grid_does_not_stretch_grey_levels() -> None:
    dim = pictures.grid(torch.full((1, 784), 0.2), 1)
    assert set(np.asarray(dim).ravel()) == {51}
    beyond = pictures.grid(torch.tensor([[-1.0] * 392 + [2.0] * 392]), 1)
    assert set(np.asarray(beyond).ravel()) == {0, 255}


def a_model(decoder: str = "mlp", latent: int = 3) -> VAE:
    """An untrained model."""
    torch.manual_seed(0)
    return build(a_run(decoder=part(decoder), latent=latent))


def test_odd_rows_are_originals_and_even_rows_their_reconstructions() -> None:
    data, model = a_dataset(), a_model()
    test, labels = data.test_images.flatten(1), data.test_labels.flip(0)  # not in the order of digits
    test = test.flip(0)
    image = pictures.reconstructions(model, test, labels, 0)
    assert image.size == (10 * SIDE * SCALE, 2 * 5 * SIDE * SCALE)
    index = [int(torch.nonzero(labels == digit).flatten()[nth]) for nth in range(5) for digit in range(10)]
    chosen = test[torch.tensor(index)]
    noise = evaluation_noise(0, 50, 3, torch.device("cpu"))
    with torch.no_grad():
        made = model.eval().grey_mean(model.decode(encode(model, chosen).sample(noise)))
    made = (made * 255).round().byte()
    for nth in range(5):
        for digit in range(10):
            original, reconstruction = chosen[10 * nth + digit], made[10 * nth + digit]
            assert (tile(image, 2 * nth, digit) == original.view(SIDE, SIDE).numpy()).all()
            assert (tile(image, 2 * nth + 1, digit) == reconstruction.view(SIDE, SIDE).numpy()).all()


def test_fewer_than_five_of_a_digit_give_fewer_rows() -> None:
    data = a_dataset(test=23)  # two or three of each
    image = pictures.reconstructions(a_model(), data.test_images.flatten(1), data.test_labels, 0)
    assert image.size == (10 * SIDE * SCALE, 2 * 2 * SIDE * SCALE)


def test_samples_share_z_over_variants_and_leave_the_model_as_it_was() -> None:
    seen: list[torch.Tensor] = []
    for decoder in ("mlp", "conv-bn"):
        model = a_model(decoder)
        model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        model.train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        image = pictures.samples(model, 0)
        assert model.training
        assert image.size == (10 * SIDE * SCALE, 10 * SIDE * SCALE)
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)  # BatchNorm saw nothing
    assert seen[0].shape == (100, 3)
    assert torch.equal(seen[0], seen[1])


def test_the_manifold_runs_through_the_priors_quantiles() -> None:
    model, seen = a_model(latent=2), []
    model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = pictures.manifold(model, side=5)
    assert image.size == (5 * SIDE * SCALE, 5 * SIDE * SCALE)
    z = seen[0].view(5, 5, 2)
    quantiles = torch.tensor(norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9]), dtype=torch.float32)
    for row in range(5):
        torch.testing.assert_close(z[row, :, 0], quantiles)  # left to right
        torch.testing.assert_close(z[:, row, 1], quantiles.flip(0))  # bottom to top


def test_a_picture_is_written_as_png_in_a_folder_of_its_own(tmp_path: Path) -> None:
    image = pictures.grid(torch.rand(3, 784), 3)
    path = pictures.save(image, tmp_path / "new" / "grid.png")
    with Image.open(path) as read:
        assert read.format == "PNG"
        assert (np.asarray(read) == np.asarray(image)).all()


@pytest.mark.parametrize("count", [1, 10, 11])
def test_the_grid_has_as_many_rows_as_it_needs(count: int) -> None:
    assert pictures.grid(torch.zeros(count, 784)).size[1] == -(-count // 10) * SIDE * SCALE
