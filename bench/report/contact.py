"""Contact sheets: pages of variants side by side, cut from the pictures that their runs left behind.

Pixels are as they were drawn. A run that diverged keeps its row, and says so. A sheet that would show
pictures which are not here is not drawn; where there is none of these runs, it has its last columns alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from textwrap import wrap
from typing import Any

from PIL import Image, PngImagePlugin

from bench.report import copies
from bench.report.cells import plain
from bench.report.copies import Picture
from bench.report.results import Results, Run, Variant
from bench.store.files import picture
from bench.store.tiles import COLUMNS, GREY, TILE, fitted, page, without_colour, write

NEAREST = Image.Resampling.NEAREST
STRIP = COLUMNS * TILE  # 560
CELL = STRIP // 2  # five tiles above five
MARGIN, GAP = 12, 10
NAMES = 250  # screen pixels for a variant's name beside its pictures
EPOCHS = (1, 5)  # and the last
LAST: Mapping[str, Sequence[int]] = {"samples": (), "reconstructions": ()}
ABOUT = (
    "samples from the prior (decoder means), the same z in all of one latent size."
    " On the right are test images and their reconstructions."
)
ROWS, PLANES = 12, 4  # a page, so that it is no longer than a screen or two
RUNS = "runs"  # the key of a PNG's text
LARGE = 84  # screen pixels of a tile on the sheet of systems


@dataclass(frozen=True)
class Shown:
    """A variant, and the run whose pictures stand for it."""

    variant: Variant
    run: Run
    pictures: Sequence[Picture]  # by kind and epoch

    @cached_property
    def samples(self) -> dict[int, Path]:
        """Sample grids by epoch."""
        return {p.epoch: p.source for p in self.of("samples") if p.epoch and p.source}

    def of(self, kind: str) -> list[Picture]:
        """The pictures of a kind by epoch, also those that are not here."""
        return [picture for picture in self.pictures if picture.kind == kind]

    def after_the_last(self, kind: str) -> Path | None:
        """The last picture of a kind, if it is here."""
        return next((picture.source for picture in reversed(self.of(kind))), None)

    def lost(self, kind: str, epochs: Sequence[int] = ()) -> bool:
        """Whether a picture of a kind is not here: of these epochs, or the last."""
        found = self.of(kind)
        return any(p.source is None for p in found if p is found[-1] or p.epoch in epochs)

    @property
    def last(self) -> int:
        """The last epoch that it was to train, or the one that patience chose."""
        if chosen := (self.run.record.get("chosen") or {}).get("epoch"):
            return int(chosen)
        return int(self.variant.settings.get("epochs") or max(self.samples, default=0))

    def facts(self, seed: int) -> list[str]:
        """What distinguishes it, a line each; a seed only if it is not the sheet's."""
        beta, run = self.variant.beta_eff, self.run
        told = [f"z {self.variant.latent} · " if self.variant.latent else ""]
        told[0] += f"β_eff {plain(beta, 3)}" if beta is not None else ""
        told += [self.variant.likelihood_class, f"seed {run.seed}" if run.seed != seed else ""]
        told += [f"diverged in epoch {run.diverged.get('epoch')}" if run.diverged else ""]
        return [fact for fact in told if fact]


@dataclass(frozen=True)
class Sheet:
    """What a sheet shows: its caption, its variants, how they are drawn, and which pictures that takes."""

    caption: str
    shown: Sequence[Shown]
    bands: Callable[[], list[Image.Image]]
    takes: Mapping[str, Sequence[int]]  # kinds of pictures, and at which epochs besides the last

    @property
    def runs(self) -> str:
        """What its PNG says of itself: the runs that it shows."""
        return " ".join(each.run.id for each in self.shown)

    def stands(self, path: Path) -> bool:
        """Tell whether a sheet is there and shows these runs; one that does not say so is taken to."""
        try:
            with picture(path) as there:
                return str(there.info.get(RUNS, self.runs)) == self.runs
        except (OSError, SyntaxError, ValueError):
            return False

    def drawn(self) -> bytes | None:
        """Its PNG; None where a picture is not here or cannot be read, nothing where none was made."""
        if any(each.lost(*take) for each in self.shown for take in self.takes.items()):
            return None
        if not any(each.after_the_last(kind) for each in self.shown for kind in self.takes):
            return b""
        try:
            return _png(self.bands(), self.runs)
        except (OSError, SyntaxError):  # Pillow's words for a damaged PNG
            return None


def draw(results: Results) -> dict[str, bytes | None]:
    """Draw every sheet that there are pictures for, as PNG by file name; equal pictures give equal bytes.

    None for a sheet of which a picture is not here, or cannot be read. Published runs keep no pictures of
    epochs: what lacks these alone, and was not drawn of these runs before, is drawn without.
    """
    due, figures = sheets(results), results.folder / "figures"
    drawn = {file: sheet.drawn() for file, sheet in due.items()}
    if new := [file for file, made in drawn.items() if made is None and not due[file].stands(figures / file)]:
        without = sheets(results, epochs=())
        drawn |= {file: without[file].drawn() for file in new}
    return {file: content for file, content in drawn.items() if content != b""}


def is_sheet(path: Path) -> bool:
    """Tell whether a file is a contact sheet, of these variants or of earlier ones."""
    return path.name.startswith("contact-") and path.suffix == ".png"


def sheets(results: Results, epochs: Sequence[int] = EPOCHS) -> dict[str, Sheet]:
    """Give by file name the sheets of systems, of architectures in pages, and of planes of two latents.

    Those of architectures show samples after `epochs` and after the last.
    """
    shown, found = list(_shown(results)), dict[str, Sheet]()
    seed = min((run.seed for run in results.runs), default=0)

    def add(name: str, about: str, rows: Sequence[Shown], bands: Any, takes: Mapping[str, Any]) -> None:
        stem = f"contact-{re.sub('[^A-Za-z0-9.]+', '-', name)[:40].strip('-.').lower()}"
        numbers = (f"{stem}{'' if k == 1 else f'-{k}'}.png" for k in range(1, len(found) + 2))
        file = next(file for file in numbers if file not in found)
        told = f"{about} Seed {seed} throughout, but for rows that name another"
        found[file] = Sheet(told, rows, partial(bands, rows, seed), takes)

    firsts = {v.settings.get("document"): each for each in reversed(shown) if not (v := each.variant).axes}
    firsts.pop(None, None)
    if len(firsts) > 1:
        real = "digits" if results.class_word == "digit" else "images"
        about = f"One variant of each document: real {real}, and ten samples from each prior (decoder means)."
        add("systems", about, [*firsts.values()][::-1], partial(_systems, real), LAST)
    rest = "documents" if firsts else "variants"
    groups: dict[str, list[Shown]] = {}
    for each in shown:
        axes = each.variant.axes if len(shown) > ROWS else {}
        groups.setdefault(axes.get("architecture") or next(iter(axes.values()), rest), []).append(each)
    for name, group in groups.items():
        for k in range(0, len(group), ROWS):
            bands = partial(_variants, epochs)
            add(name, f"{name}: {ABOUT}", group[k : k + ROWS], bands, {**LAST, "samples": epochs})
    planes = [each for each in shown if each.variant.latent == 2]
    about = "Manifolds: decoder means over the plane of two latents, in steps of equal prior probability."
    for k in range(0, len(planes), PLANES):
        add("manifolds", about, planes[k : k + PLANES], _manifolds, {"manifold": ()})
    return found


def _systems(real: str, shown: Sequence[Shown], seed: int) -> list[Image.Image]:
    """A row of test images, and a row of samples for each variant, large."""
    bands = []
    for kind, each in (("reconstructions", shown[0]), *(("samples", each) for each in shown)):
        band = page(MARGIN + NAMES + COLUMNS * LARGE + MARGIN, LARGE + GAP)
        if kind == "samples":
            _name(band, each, seed)
        else:
            write(band, MARGIN, LARGE / 2 - 12, f"real {real} (test set)", 18, bold=True)
        strip = _strip(each.after_the_last(kind), 0).resize((COLUMNS * LARGE, LARGE), NEAREST)
        band.paste(strip, (MARGIN + NAMES, GAP // 2))
        bands.append(band)
    return bands


def _variants(epochs: Sequence[int], shown: Sequence[Shown], seed: int) -> list[Image.Image]:
    """A variant a row: samples by epoch, and reconstructions under the test images."""
    lefts = [MARGIN + NAMES + k * (CELL + GAP) for k in range(len(epochs) + 2)]
    width = lefts[-1] + CELL + MARGIN
    heads, tests = page(width, 30), page(width, 2 * TILE + GAP)
    lasts = {each.last for each in shown}
    last = f"after the last, {max(lasts)}" if len(lasts) == 1 else "after the last"
    first, *others = [*(f"after epoch {k}" for k in epochs), last]
    for left, words in zip(lefts, [f"samples {first}", *others, "reconstructions"], strict=True):
        write(heads, left, 6, words, 17, bold=True)
    write(tests, lefts[-2] + 150, TILE - 10, "test images:", 17)
    reconstructed = (path for each in shown if (path := each.after_the_last("reconstructions")))
    tests.paste(_cell(next(reconstructed, None), 0), (lefts[-1], 0))
    bands = [heads, tests]
    for each in shown:
        band = page(width, 2 * TILE + GAP)
        _name(band, each, seed, [f"{each.last} epochs"] if len(lasts) > 1 else [])
        cells = [each.samples.get(epoch) if epoch < each.last else None for epoch in epochs]
        for left, path in zip(lefts, [*cells, each.samples.get(each.last)], strict=False):
            band.paste(_cell(path, 0), (left, 0))
        band.paste(_cell(each.after_the_last("reconstructions"), 1), (lefts[-1], 0))
        bands.append(band)
    return bands


def _manifolds(shown: Sequence[Shown], seed: int) -> list[Image.Image]:
    """The planes of variants of two latents, two abreast at half their size."""
    there = [(each, path) for each in shown if (path := each.after_the_last("manifold"))]
    bands = []
    for start in range(0, len(there), 2):
        bands.append(page(2 * (STRIP + GAP) + 2 * MARGIN - GAP, STRIP + 46 + GAP))
        for left, (each, path) in zip((MARGIN, MARGIN + STRIP + GAP), there[start : start + 2], strict=False):
            write(bands[-1], left, 2, fitted(each.variant.title, 17, STRIP, bold=True), 17, bold=True)
            write(bands[-1], left, 24, fitted(" · ".join(each.facts(seed)), 15, STRIP), 15, shade=GREY)
            with picture(path, under=3) as plane:  # its pixels are doubled
                bands[-1].paste(plane.convert("RGB").resize((STRIP, STRIP), NEAREST), (left, 46))
    return bands


def _shown(results: Results) -> Iterator[Shown]:
    """Each variant's finished run of the smallest seed, or else the first that diverged."""
    for variant in results.variants:
        run = variant.first or next((run for run in variant.runs if run.diverged), None)
        if run is not None:
            yield Shown(variant, run, copies.pictures(results.folder, run.id, run.record))


def _name(band: Image.Image, each: Shown, seed: int, more: Sequence[str] = ()) -> None:
    """A variant's name in at most two lines, and facts beside its pictures."""
    y = 2
    for line in wrap(each.variant.title, 23)[:2]:
        write(band, MARGIN, y, fitted(line, 16, NAMES - GAP, bold=True), 16, bold=True)
        y += 20
    for fact in [*more, *each.facts(seed)][: (band.height - y) // 19]:
        write(band, MARGIN, y, fitted(fact, 15, NAMES - GAP), 15, shade=GREY)
        y += 19


def _strip(path: Path | None, row: int) -> Image.Image:
    """One row of ten out of a grid; empty without one."""
    if path is None:
        return page(STRIP, TILE)
    with picture(path, under=3) as grid:
        tile = grid.width // COLUMNS
        strip = grid.convert("RGB").crop((0, row * tile, grid.width, (row + 1) * tile))
    return strip.resize((STRIP, TILE), NEAREST)


def _cell(path: Path | None, row: int) -> Image.Image:
    """One row of ten as five above five."""
    strip, cell = _strip(path, row), page(CELL, 2 * TILE)
    cell.paste(strip.crop((0, 0, CELL, TILE)), (0, 0))
    cell.paste(strip.crop((CELL, 0, STRIP, TILE)), (0, TILE))
    return cell


def _png(bands: Sequence[Image.Image], runs: str) -> bytes:
    """The bands one below the other, with a word on the runs that they show."""
    whole = page(bands[0].width, sum(band.height for band in bands) + MARGIN)
    y = 0
    for band in bands:
        whole.paste(band, (0, y))
        y += band.height
    out = io.BytesIO()
    about = PngImagePlugin.PngInfo()
    about.add_text(RUNS, runs)
    without_colour(whole).save(out, "PNG", compress_level=9, pnginfo=about)
    return out.getvalue()
