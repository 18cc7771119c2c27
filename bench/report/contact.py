"""Contact sheets: every variant on one page, cut from the pictures that its run left behind.

One scale for all, greys as they were drawn. A run that diverged keeps its place, and says so. A sheet that
would show pictures which are not here is not drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from textwrap import wrap
from typing import TypeVar

from PIL import Image

from bench.report import copies
from bench.report.cells import plain
from bench.report.copies import Picture
from bench.report.results import Results, Run, Variant, label
from bench.store.tiles import COLUMNS, GREY, TILE, fitted, page, write

K = TypeVar("K", int, str)
STRIP = COLUMNS * TILE  # 560
MARGIN, GAP = 12, 10
EPOCHS = (1, 2, 5)  # and the last
NAMES = 220  # screen pixels for a variant's name beside its strips
KINDS = 130  # for the names of strips beside them


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

    @property
    def name(self) -> str:
        """The variant as the experiment labels it."""
        return self.variant.title

    @property
    def outcome(self) -> str:
        """Where it diverged, if it did."""
        return f"diverged in epoch {self.run.diverged.get('epoch')}" if self.run.diverged else ""

    def facts(self, seed: int) -> list[str]:
        """What distinguishes it: β_eff, likelihood, a seed that is not the sheet's, divergence."""
        beta = self.variant.beta_eff
        told = [f"β_eff {plain(beta, 3)}" if beta is not None else "", self.variant.likelihood_class]
        told += [f"seed {self.run.seed}" if self.run.seed != seed else "", self.outcome]
        return [fact for fact in told if fact]


def captions(results: Results) -> dict[str, str]:
    """File name of each sheet in `figures/` -> what it shows."""
    seed = f"Seed {_seed(results)} throughout, but for rows that name another"
    return {file: f"{sheet.caption} {seed}" for file, sheet in SHEETS.items()}


def draw(results: Results) -> dict[str, bytes | None]:
    """File name -> PNG bytes of every sheet that there are pictures for; equal pictures give equal bytes.

    None for a sheet of which a picture is not here, or cannot be read.
    """
    shown = _shown(results)
    drawn: dict[str, bytes | None] = {}
    for file, sheet in SHEETS.items():
        if any(sheet.lost(each) for each in shown):
            drawn[file] = None
            continue
        try:
            if bands := sheet.bands(shown, _seed(results)):
                drawn[file] = _png(bands)
        except (OSError, SyntaxError):  # Pillow's words for a damaged PNG
            drawn[file] = None
    return drawn


def _samples(shown: Sequence[Shown], seed: int) -> list[Image.Image]:
    """Variant by epoch, grouped by latent size."""
    shown = [each for each in shown if each.samples]
    if not shown:
        return []
    cell = STRIP // 2
    left = MARGIN + NAMES
    lasts = {each.last for each in shown}
    columns = [epoch for epoch in EPOCHS if epoch < max(lasts)]
    width = left + (len(columns) + 1) * (cell + GAP) + MARGIN - GAP
    width = max(width, left + 3 * (cell + GAP))  # so that headings fit
    head = _heading(width, "Ten samples from the prior", "the same ten z in every cell of a latent size")
    marks = page(width, 26)
    last = f"last: {max(lasts)}" if len(lasts) == 1 else "last"
    for place, words in enumerate([*(f"epoch {epoch}" for epoch in columns), last]):
        write(marks, left + place * (cell + GAP), 3, words, 16, bold=True)
    bands = [head, marks]
    for latent, group in sorted(_grouped(shown, lambda each: each.variant.latent or 0).items()):
        bands.append(_heading(width, f"{latent} latent{'s' * (latent != 1)}"))
        for each in group:
            band = page(width, 2 * TILE + GAP)
            _name(band, each, seed, several=len(lasts) > 1)
            for place, epoch in enumerate([*columns, each.last]):
                x = left + place * (cell + GAP)
                if epoch in each.samples and (epoch < each.last or place == len(columns)):
                    strip = _strip(each.samples[epoch], 0)
                    band.paste(strip.crop((0, 0, cell, TILE)), (x, 0))
                    band.paste(strip.crop((cell, 0, STRIP, TILE)), (x, TILE))
                elif each.outcome and epoch >= int(each.run.diverged.get("epoch") or 0):
                    write(band, x + 8, TILE - 10, each.outcome, 15, shade=GREY)
            bands.append(band)
    return bands


def _documents(shown: Sequence[Shown], seed: int) -> list[Image.Image]:
    """Variant by document, or by the matrix's axes: reconstructions over samples, two variants abreast."""
    found = {each.variant.name: each.after_the_last("reconstructions") for each in shown}
    shown = [each for each in shown if each.samples and found[each.variant.name]]
    if not shown:
        return []
    lefts = [MARGIN + KINDS + place * (STRIP + 2 * GAP) for place in (0, 1)][: min(2, len(shown))]
    width = lefts[-1] + STRIP + MARGIN
    bands = [_heading(width, "Reconstructions and samples", "after the last epoch that was drawn")]
    axes = _axes(shown)
    for name, group in _grouped(shown, lambda each: _group(each.variant, axes)).items():
        first = found[group[0].variant.name]
        bands.append(_heading(width, name) if name else page(width, GAP))
        originals = page(width, TILE + GAP)
        write(originals, MARGIN, TILE / 2 - 10, "test images", 15)
        for left in lefts[: len(group)]:
            originals.paste(_strip(first, 0), (left, 0))
        bands.append(originals)
        for start in range(0, len(group), 2):
            band = page(width, 46 + 2 * TILE + 2 + GAP)
            write(band, MARGIN, 46 + TILE / 2 - 10, "reconstructed", 15)
            write(band, MARGIN, 48 + TILE * 1.5 - 10, "prior samples", 15)
            for left, each in zip(lefts, group[start : start + 2], strict=False):
                write(band, left, 2, fitted(each.name, 17, STRIP, bold=True), 17, bold=True)
                facts = [f"z {each.variant.latent}", *each.facts(seed)]
                write(band, left, 24, fitted(" · ".join(facts), 15, STRIP), 15, shade=GREY)
                band.paste(_strip(found[each.variant.name], 1), (left, 46))
                band.paste(_strip(each.after_the_last("samples"), 0), (left, 48 + TILE))
            bands.append(band)
    return bands


def _manifolds(shown: Sequence[Shown], seed: int) -> list[Image.Image]:
    """The planes of all variants of two latents, two abreast at half their size."""
    found = [(each, path) for each in shown if (path := each.after_the_last("manifold"))]
    if len(found) < 2:
        return []
    width = 2 * (STRIP + GAP) + 2 * MARGIN - GAP
    bands = [_heading(width, "Manifolds of two latents", "the same plane of z in every variant")]
    for start in range(0, len(found), 2):
        band = page(width, STRIP + 46 + GAP)
        for place, (each, path) in enumerate(found[start : start + 2]):
            left = MARGIN + place * (STRIP + GAP)
            write(band, left, 2, fitted(each.name, 17, STRIP, bold=True), 17, bold=True)
            write(band, left, 24, fitted(" · ".join(each.facts(seed)), 15, STRIP), 15, shade=GREY)
            band.paste(_half(path, _stamp(path)), (left, 46))
        bands.append(band)
    return bands


def _shown(results: Results) -> list[Shown]:
    """Each variant's finished run of the smallest seed, or else the first that diverged."""
    found = []
    for variant in results.variants:
        run = variant.first or next((run for run in variant.runs if run.diverged), None)
        if run is not None:
            found.append(Shown(variant, run, copies.pictures(results.folder, run.id, run.record)))
    return found


def _seed(results: Results) -> int:
    return min((run.seed for run in results.runs), default=0)


def _axes(shown: Sequence[Shown]) -> list[str]:
    """Axes of the matrix that take more than one value."""
    values: dict[str, set[str]] = {}
    for each in shown:
        for axis, value in each.variant.axes.items():
            values.setdefault(axis, set()).add(value)
    return [axis for axis, taken in values.items() if len(taken) > 1]


def _group(variant: Variant, axes: Sequence[str]) -> str:
    """The heading that a variant stands under: its document, or its place on the first of several axes."""
    if variant.axes:
        return label(variant.axes.get(axes[0], "")) if len(axes) > 1 else ""
    document = variant.settings.get("document")
    return f"Document {label(document)}" if document is not None else ""


def _grouped(shown: Sequence[Shown], key: Callable[[Shown], K]) -> Mapping[K, list[Shown]]:
    groups: dict[K, list[Shown]] = {}
    for each in shown:
        groups.setdefault(key(each), []).append(each)
    return groups


def _name(band: Image.Image, each: Shown, seed: int, *, several: bool) -> None:
    """A variant's name and facts beside its strips."""
    y = 0
    for line in wrap(each.name.replace(" · ", "\N{NO-BREAK SPACE}· "), 23)[:3]:
        write(band, MARGIN, y, fitted(line, 15, NAMES, bold=True), 15, bold=True)
        y += 19
    facts = [f"{each.last} epochs" if several else "", *each.facts(seed)]
    for fact in [fact for fact in facts if fact][: (2 * TILE - y) // 17]:
        write(band, MARGIN, y, fitted(fact, 14, NAMES - GAP), 14, shade=GREY)
        y += 17


def _heading(width: int, words: str, more: str = "") -> Image.Image:
    band = page(width, 38)
    end = write(band, MARGIN, 9, fitted(words, 19, width - 2 * MARGIN, bold=True), 19, bold=True)
    write(band, end + 12, 12, fitted(more, 16, max(0, width - MARGIN - end - 12)), 16, shade=GREY)
    return band


def _stamp(path: Path) -> tuple[int, int]:
    """Changes whenever the file does, so that what was cut from it can be kept."""
    state = path.stat()
    return state.st_mtime_ns, state.st_size


def _strip(path: Path | None, row: int) -> Image.Image:
    """One row of ten out of a grid."""
    return page(STRIP, TILE) if path is None else _cut(path, _stamp(path), row)


@lru_cache(maxsize=4096)
def _cut(path: Path, stamp: tuple[int, int], row: int) -> Image.Image:
    with Image.open(path) as grid:
        tile = grid.width // COLUMNS
        strip = grid.convert("L").crop((0, row * tile, grid.width, (row + 1) * tile))
        return strip if tile == TILE else strip.resize((STRIP, TILE), Image.Resampling.NEAREST)


@lru_cache(maxsize=64)
def _half(path: Path, stamp: tuple[int, int]) -> Image.Image:
    """A manifold without the doubling of its pixels."""
    with Image.open(path) as grid:
        return grid.convert("L").resize((STRIP, STRIP), Image.Resampling.NEAREST)


def _png(bands: Sequence[Image.Image]) -> bytes:
    """The bands one below the other."""
    whole = page(bands[0].width, sum(band.height for band in bands) + MARGIN)
    y = 0
    for band in bands:
        whole.paste(band, (0, y))
        y += band.height
    out = io.BytesIO()
    whole.save(out, "PNG", compress_level=5)
    return out.getvalue()


@dataclass(frozen=True)
class Sheet:
    """What a sheet shows, its bands from top to bottom, and whether a variant's pictures for it are lost."""

    caption: str
    bands: Callable[[Sequence[Shown], int], list[Image.Image]]
    lost: Callable[[Shown], bool]


SHEETS = {
    "contact-samples.png": Sheet(
        "Samples from the prior by epoch: decoder means of the first ten draws, the same z in every epoch and"
        " every variant of a latent size; nearest pixels, grey from 0 to 1 in all.",
        _samples,
        lambda each: each.lost("samples", EPOCHS),
    ),
    "contact-documents.png": Sheet(
        "After the last epoch, by document or by the matrix's first axis: a test image of each digit, its"
        " reconstruction (decoder mean at one sampled z), and below them ten samples from the prior.",
        _documents,
        lambda each: each.lost("samples") or each.lost("reconstructions"),
    ),
    "contact-manifolds.png": Sheet(
        "Decoder means over the plane of two latents: z through the inverse of the prior's distribution"
        " function, from the 2.5 % to the 97.5 % quantile both ways.",
        _manifolds,
        lambda each: each.lost("manifold"),
    ),
}
