"""Contact sheets: the tiles of the runs' own pictures, unchanged, each where its label says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
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
    windows = np.lib.stride_tricks.sliding_window_view(image, part.shape)
    rough = np.argwhere((windows[:, :, ::TILE, ::TILE] == part[::TILE, ::TILE]).all((2, 3)))
    return [(int(y), int(x)) for y, x in rough if (windows[y, x] == part).all()]


def test_a_variant_is_a_row_and_an_epoch_a_column(tmp_path: Path):
    image = sheet(experiment(tmp_path, four()), "contact-documents.png")
    assert 1200 <= image.shape[1] <= 1600
    rows, columns = [], []
    for shade in SHADE.values():
        drawn = [shade + 1, shade + 5, shade + 20 % 7, shade + 30]  # the last are its reconstructions
        spots = [places(image, cell(each)) for each in drawn]
        assert all(len(spot) == 1 for spot in spots)
        (y,) = {spot[0][0] for spot in spots}
        rows.append(y)
        columns.append([spot[0][1] for spot in spots])
    assert rows == sorted(rows)
    assert all(xs == columns[0] == sorted(set(xs)) for xs in columns)
    [(y, x)] = places(image, cell(SHADE["a"] + 20))  # test images, above the reconstructions
    assert y < rows[0]
    assert x == columns[0][-1]


def test_without_the_pictures_of_epochs_a_new_sheet_has_the_last_columns(tmp_path: Path):
    """One run's are not here, as published: the others' are not shown beside nothing. One of before stays.

    Unless it shows other runs, as one that was drawn when some were still to come.
    """
    whole = contact.draw(experiment(tmp_path, four()))["contact-documents.png"]
    run = next(iter(synthetic.runs_of(tmp_path, "b-s0*").values()))
    record = json.loads((run / "record.json").read_text())
    listed = {f"pictures/{path.name}": "" for path in (run / "pictures").iterdir()}
    synthetic.save(run / "record.json", record | {"artifacts": listed})
    for path in run.glob("pictures/*-epoch-00*.png"):
        path.unlink()
    results = load(tmp_path)
    image = sheet(results, "contact-documents.png")
    for shade in SHADE.values():
        (last,), (reconstructed,) = places(image, cell(shade + 20 % 7)), places(image, cell(shade + 30))
        assert last[1] < reconstructed[1]
        assert not places(image, cell(shade + 1))
    before = tmp_path / "figures/contact-documents.png"
    before.parent.mkdir()
    fewer = replace(results, variants=results.variants[:1] + results.variants[2:])
    for there, stays in (
        (whole, True),
        (contact.draw(results)["contact-documents.png"], True),
        (contact.draw(fewer)["contact-documents.png"], False),
        (b"no picture", False),
    ):
        assert there
        before.write_bytes(there)
        assert (contact.draw(results)["contact-documents.png"] is None) == stays


def test_the_sheet_of_systems_has_real_digits_above_one_variant_of_each_document(tmp_path: Path):
    image = sheet(experiment(tmp_path, four()), "contact-systems.png")
    large = contact.LARGE

    def there(shade: int) -> list[tuple[int, int]]:
        return places(image, np.kron(shade + np.arange(COLUMNS), np.ones((large, large))).astype(np.uint8))

    [digits], [first], [second] = (
        there(SHADE[name] + more) for name, more in (("a", 20), ("a", 6), ("c", 6))
    )
    assert digits[0] < first[0] < second[0]
    assert digits[1] == first[1] == second[1]
    assert not there(SHADE["b"] + 6)
    assert not there(SHADE["d"] + 6)


def test_manifolds_are_of_variants_of_two_latents_only(tmp_path: Path):
    results = experiment(tmp_path, four())
    image = sheet(results, "contact-manifolds.png")
    for name, there in {"a": 0, "b": 1, "c": 1, "d": 0}.items():
        assert len(places(image, row_of(SHADE[name]))) == there


def test_many_variants_are_split_by_architecture_and_no_page_is_long(tmp_path: Path):
    axes = [{"architecture": f"{x} / *", "beta": k} for x in ("mlp", "conv") for k in range(1, 16)]
    variants = {f"a{k}": settings(axes=place) for k, place in enumerate(axes)}
    drawn = contact.draw(experiment(tmp_path, variants))
    assert list(drawn) == ["contact-mlp.png", "contact-mlp-2.png", "contact-conv.png", "contact-conv-2.png"]
    for content in drawn.values():
        with Image.open(BytesIO(content)) as image:
            assert image.height * 1000 / image.width <= 1200
    assert contact.sheets(load(tmp_path)).keys() == drawn.keys()


def test_words_are_10_pixels_and_more_at_page_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    write, results = contact.write, experiment(tmp_path, four())
    monkeypatch.setattr(contact, "write", lambda *a, **k: (sizes.append(a[4]), write(*a, **k))[1])
    for file, each in contact.sheets(results).items():
        sizes.clear()
        with Image.open(BytesIO(each.drawn() or b"")) as image:
            assert min(sizes) * 1000 / image.width >= 10, file


def test_a_variant_that_diverged_keeps_its_place(tmp_path: Path):
    status = {("b", 0): "diverged", ("b", 1): "diverged"}
    whole = sheet(experiment(tmp_path / "whole", four()), "contact-documents.png")
    results = experiment(tmp_path / "lost", four(), status=status)
    for run in synthetic.runs_of(tmp_path / "lost", "b-*").values():
        for path in run.glob("pictures/*-epoch-020.png"):
            path.unlink()
    image = sheet(results, "contact-documents.png")
    assert image.shape == whole.shape
    assert len(places(whole, cell(SHADE["b"] + 20 % 7))) == 1
    assert not places(image, cell(SHADE["b"] + 20 % 7))
    [shown] = [each for each in contact._shown(results) if each.variant.name == "b"]
    assert shown.facts(0)[-1] == "diverged in epoch 15"


def test_another_seed_is_named(tmp_path: Path):
    results = experiment(tmp_path, four(), status={("c", 0): "failed"})
    facts = {each.variant.name: each.facts(0) for each in contact._shown(results)}
    assert facts["c"][-1] == "seed 1"
    assert not any("seed" in fact for name in "abd" for fact in facts[name])
    assert all("Seed 0 throughout" in sheet.caption for sheet in contact.sheets(results).values())


def test_the_report_shows_the_sheets_with_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.report.figures.FIGURES", {})  # they take seconds
    experiment(tmp_path, four())
    report = write_report(tmp_path).read_text()
    for file in contact.sheets(load(tmp_path)):
        assert f"](figures/{file})" in report
    assert "the same z in all of one latent size" in report
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


def test_names_of_any_length_and_few_epochs_are_drawn(tmp_path: Path):
    variants = {"a": settings(label="a very long name " * 20, epochs=2), "b": settings(label="β" + "x" * 300)}
    assert contact.draw(experiment(tmp_path, variants, epochs=(1, 2))).keys() == {"contact-variants.png"}
