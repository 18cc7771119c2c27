"""Contact sheets: the tiles of the runs' own pictures, unchanged, each where its label says."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import synthetic
from PIL import Image
from synthetic import settings

from bench.report import contact, write_report
from bench.report.results import Results, load
from bench.store.tiles import COLUMNS, TILE

SHADE = {"a": 41, "b": 82, "c": 123, "d": 164}  # no grid holds a row of another


def grid(path: Path, shade: int) -> None:
    """Ten rows of ten tiles, doubled: the tile in row r and column c has the grey shade + 10 r + c."""
    small = shade + 10 * np.arange(10)[:, None] + np.arange(10)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.kron(small % 256, np.ones((TILE, TILE))).astype(np.uint8)).save(path)


def experiment(folder: Path, variants: dict[str, dict], epochs: tuple[int, ...] = (1, 2, 5, 20), **more):
    """An experiment whose runs left grids behind: samples shaded by variant and epoch, reconstructions."""
    synthetic.write(folder, variants, seeds=(0, 1), **more)
    for run_id, run in synthetic.runs_of(folder).items():
        shade = SHADE[run_id[0]]
        for epoch in epochs:
            grid(run / "pictures" / f"samples-epoch-{epoch:03d}.png", shade + epoch % 7)
            grid(run / "pictures" / f"reconstructions-epoch-{epoch:03d}.png", shade + 20)
        if variants[run_id.rpartition("-s")[0]]["latent"] == 2:
            grid(run / "pictures" / "manifold.png", shade)
    return load(folder)


def four() -> dict[str, dict]:
    return {
        "a": settings(latent=20, document="001"), "b": settings(latent=2, document="001"),
        "c": settings(latent=2, document="002", beta=0.5), "d": settings(latent=20, likelihood="gaussian"),
    }  # fmt: skip


def sheet(results: Results, file: str) -> np.ndarray:
    with Image.open(BytesIO(contact.draw(results)[file])) as image:
        assert image.mode == "L"
        return np.asarray(image)


def row_of(shade: int) -> np.ndarray:
    """One row of ten tiles."""
    return np.kron(shade + np.arange(COLUMNS), np.ones((TILE, TILE))).astype(np.uint8)


def cell(shade: int) -> np.ndarray:
    """One row of ten as it lies in the sheet of samples, five above five."""
    row = row_of(shade)
    return np.vstack([row[:, : 5 * TILE], row[:, 5 * TILE :]])


def places(image: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    """Where a part of a picture lies in it, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(image, part.shape)[:, :, ::TILE, ::TILE]
    rough = (windows == part[::TILE, ::TILE]).all((2, 3))
    height, width = part.shape
    return [
        (int(y), int(x))
        for y, x in np.argwhere(rough)
        if (image[y : y + height, x : x + width] == part).all()
    ]


def test_samples_are_in_the_column_of_their_epoch_and_grouped_by_latent_size(tmp_path: Path):
    image = sheet(experiment(tmp_path, four()), "contact-samples.png")
    assert 1200 <= image.shape[1] <= 1600
    found = {}
    for name, shade in SHADE.items():
        for epoch in (1, 2, 5, 20):
            [found[name, epoch]] = places(image, cell(shade + epoch % 7))
    for name in SHADE:
        xs = [found[name, epoch][1] for epoch in (1, 2, 5, 20)]
        assert xs == sorted(xs)
        assert len(set(xs)) == 4
        assert len({found[name, epoch][0] for epoch in (1, 2, 5, 20)}) == 1
    ys = [found[name, 1][0] for name in "bcad"]
    assert ys == sorted(ys)  # two latents first, in the experiment's order


def test_documents_show_test_images_above_reconstructions_above_samples(tmp_path: Path):
    image = sheet(experiment(tmp_path, four()), "contact-documents.png")
    assert 1200 <= image.shape[1] <= 1600
    for shade in (SHADE["a"], SHADE["c"], SHADE["d"]):
        [made] = places(image, row_of(shade + 30))
        [drawn] = places(image, row_of(shade + 20 % 7))
        originals = places(image, row_of(shade + 20))
        assert made[1] == drawn[1]
        assert made[1] in {x for _, x in originals}
        assert min(y for y, _ in originals) < made[0] < drawn[0]


def test_manifolds_are_of_variants_of_two_latents_only(tmp_path: Path):
    results = experiment(tmp_path, four())
    image = sheet(results, "contact-manifolds.png")
    for name, there in {"a": 0, "b": 1, "c": 1, "d": 0}.items():
        assert len(places(image, row_of(SHADE[name]))) == there


def test_a_matrix_is_grouped_by_its_first_axis(tmp_path: Path):
    axes = [{"architecture": x, "beta": beta} for x in ("mlp", "conv") for beta in (1, 0.5)]
    variants = {name: settings(axes=place) for name, place in zip("abcd", axes, strict=True)}
    image = sheet(experiment(tmp_path, variants), "contact-documents.png")
    spots = {name: places(image, row_of(SHADE[name] + 20 % 7))[0] for name in "abcd"}
    assert spots["a"][0] == spots["b"][0] < spots["c"][0] == spots["d"][0]
    assert spots["a"][1] == spots["c"][1] < spots["b"][1] == spots["d"][1]


def test_a_variant_that_diverged_keeps_its_place(tmp_path: Path):
    status = {("b", 0): "diverged", ("b", 1): "diverged"}
    whole = sheet(experiment(tmp_path / "whole", four()), "contact-samples.png")
    results = experiment(tmp_path / "lost", four(), status=status)
    for run in synthetic.runs_of(tmp_path / "lost", "b-*").values():
        for path in run.glob("pictures/*-epoch-020.png"):
            path.unlink()
    image = sheet(results, "contact-samples.png")
    assert image.shape == whole.shape
    assert len(places(whole, cell(SHADE["b"] + 20 % 7))) == 1
    assert not places(image, cell(SHADE["b"] + 20 % 7))
    [shown] = [each for each in contact._shown(results) if each.name == "b"]
    assert shown.facts(0)[-1] == "diverged in epoch 15"


def test_another_seed_is_named(tmp_path: Path):
    results = experiment(tmp_path, four(), status={("c", 0): "failed"})
    facts = {each.name: each.facts(0) for each in contact._shown(results)}
    assert facts["c"][-1] == "seed 1"
    assert not any("seed" in fact for name in "abd" for fact in facts[name])
    assert all("Seed 0 throughout" in caption for caption in contact.captions(results).values())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_variants_and_few_epochs_are_enough(tmp_path: Path, count: int):
    variants = dict(list(four().items())[:count])
    for variant in variants.values():
        variant["epochs"] = 2
    drawn = contact.draw(experiment(tmp_path, variants, epochs=(1, 2)))
    assert drawn.keys() >= {"contact-samples.png", "contact-documents.png"}
    assert ("contact-manifolds.png" in drawn) == (count == 3)


def test_without_pictures_there_is_no_sheet(tmp_path: Path):
    synthetic.write(tmp_path, four())
    assert contact.draw(load(tmp_path)) == {}


def test_the_report_shows_the_sheets_with_captions_and_the_same_bytes_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bench.report.figures.FIGURES", {})  # they take seconds
    experiment(tmp_path, four())
    report = write_report(tmp_path).read_text()
    sheets = {file: (tmp_path / "figures" / file).read_bytes() for file in contact.SHEETS}
    for file in sheets:
        assert f"](figures/{file})" in report
    assert "the same z in every epoch and every variant of a latent size" in report
    contact._cut.cache_clear()
    write_report(tmp_path)
    assert {file: (tmp_path / "figures" / file).read_bytes() for file in sheets} == sheets
    for folder in synthetic.runs_of(tmp_path).values():
        shutil.rmtree(folder / "pictures")
    assert "contact-" not in write_report(tmp_path).read_text()
    assert not list((tmp_path / "figures").glob("contact-*"))


def test_a_gif_is_shown_too(tmp_path: Path):
    experiment(tmp_path, four())
    for run in synthetic.runs_of(tmp_path).values():
        Image.new("P", (9, 9)).save(run / "pictures" / "progress.gif")
    report = write_report(tmp_path, figures=False).read_text()
    assert "**Samples as training goes on.**" in report
    assert (tmp_path / "figures/runs/a-s0-00000000-progress.gif").is_file()


def test_names_of_any_length_stay_on_the_sheet(tmp_path: Path):
    variants = {"a": settings(label="a very long name " * 20), "b": settings(label="β · " + "x" * 300)}
    assert contact.draw(experiment(tmp_path, variants)).keys() == {
        "contact-samples.png",
        "contact-documents.png",
    }
