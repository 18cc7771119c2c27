"""Pictures of the runs, side by side: copied beside the report so that its folder stands alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.report import contact, copies
from bench.report.copies import Picture
from bench.report.results import Results, Variant

MANY = 12  # variants, above which a page of all their pictures is one that nobody looks through
KINDS = ("samples", "progress", "reconstructions", "interpolations", "manifold", "latent", "tsne", "kl")


@dataclass(frozen=True)
class Gallery:
    """The contact sheets (path and caption), and by kind each variant's last picture of it."""

    sheets: tuple[tuple[str, str], ...]
    kinds: tuple[tuple[str, tuple[tuple[Variant, Picture], ...]], ...]
    many: int = 0  # variants, where they are too many to show one by one

    @property
    def copies(self) -> dict[str, Path]:
        """Where the pictures shown lie beside the report, and where they come from."""
        return {p.copy: p.source for _, shown in self.kinds for _, p in shown if p.source}


def collect(results: Results) -> Gallery:
    """Find the sheets that were drawn, and the pictures of each variant's finished run of the smallest seed.

    Of more than MANY variants only the sheets: these show them all.
    """
    named = {f"figures/{file}": caption for file, caption in contact.captions(results).items()}
    sheets = tuple((path, told) for path, told in named.items() if (results.folder / path).exists())
    if len(results.variants) > MANY:
        return Gallery(sheets, (), len(results.variants))
    found: dict[str, list[tuple[Variant, Picture]]] = {kind: [] for kind in KINDS}
    for variant in results.variants:
        if (run := variant.first) is not None:
            last = {p.kind: p for p in copies.pictures(results.folder, run.id, run.record) if p.source}
            for kind in sorted(last):
                found.setdefault(kind, []).append((variant, last[kind]))
    return Gallery(sheets, tuple((kind, tuple(shown)) for kind, shown in found.items() if shown))
