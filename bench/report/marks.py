"""How variants look in every figure: a colour for an architecture, a marker for a likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.pairs import same_but_beta
from bench.report.results import Results, Variant
from bench.report.statistics import Estimate
from bench.store.tiles import fitted

# Okabe & Ito 2008, without yellow; beyond six all are INK, as are documents beside a matrix
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
INK, GREY = "#222222", "#777777"
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
WIDTH, DPI = 8.0, 150  # inches, 1200 pixels
SMALL = 7.0  # points, 12 pixels where a figure is 1000 wide
SIGNS = {"beta": "β", "latent": "z"}


@dataclass(frozen=True)
class Looks:
    """What stands for what in the figures of an experiment."""

    results: Results

    @cached_property
    def along(self) -> str:
        """The axis that lines follow: β where it varies, else the first whose values are numbers."""
        rest = [a for a in self.results.axes if a not in ("architecture", "likelihood", "beta")]
        values = {a: pd.Series([v.axes[a] for v in self.results.variants if a in v.axes]) for a in rest}
        known = [a for a, texts in values.items() if (pd.to_numeric(texts, errors="coerce") > 0).all()]
        return "beta" if "beta" in self.results.axes else next(iter(known), "")

    def kind(self, variant: Variant) -> str:
        """The axis that gives a matrix's variants their colours: `architecture`, or the first of others."""
        others = [axis for axis in variant.axes if axis not in ("likelihood", "beta", self.along)]
        return "architecture" if "architecture" in others else next(iter(others), "")

    def family(self, variant: Variant) -> str:
        """What has one colour: the architecture of a matrix, else the document, else the encoder."""
        document = variant.settings.get("document")
        named = f"document {document}" if document is not None else variant.part("encoder")[0]
        return variant.axes.get(self.kind(variant), named)

    @cached_property
    def colours(self) -> dict[str, str]:
        """Colour by family; those of a matrix come first, and leave INK to the others."""
        matrix = [v for v in self.results.variants if v.axes]
        names = dict.fromkeys(self.family(v) for v in matrix or self.results.variants)
        return dict(zip(names, COLOURS, strict=False))

    @cached_property
    def markers(self) -> dict[str, str]:
        """Marker by likelihood class."""
        names = dict.fromkeys(v.likelihood_class for v in self.results.variants if v.started)
        return {name: MARKERS[k % len(MARKERS)] for k, name in enumerate(names)}

    def colour(self, variant: Variant) -> str:
        """The colour of a variant's family."""
        return self.colours.get(self.family(variant), INK)

    def draw(
        self, axes: Any, variant: Variant, x: Estimate | float, y: Estimate | float, *, hollow: bool = False
    ) -> None:
        """Draw a variant's mark, with intervals along the axes on which it has them."""
        colour, marker = self.colour(variant), self.markers.get(variant.likelihood_class, "o")
        means = [value.mean if isinstance(value, Estimate) else value for value in (x, y)]
        xerr, yerr = (_bars(value) if isinstance(value, Estimate) else None for value in (x, y))
        axes.errorbar(*means, xerr=xerr, yerr=yerr, ls="", elinewidth=0.9, capsize=1.5, color=colour,
                      marker=marker, ms=5, mew=0.9, mfc="white" if hollow else colour)  # fmt: skip

    def place(self, variant: Variant) -> float | None:
        """Where a variant stands on the axis that lines follow."""
        if self.along == "beta" or not variant.axes:
            return variant.beta_eff
        return float(variant.axes[self.along]) if self.along in variant.axes else None

    def level(self, variant: Variant) -> str:
        """Where it stands there, in words."""
        return f"{SIGNS.get(self.along, self.along)} = {variant.axes.get(self.along, '')}"

    def name(self, variant: Variant, *less: str) -> str:
        """What tells a variant from the others, less some axes."""
        values = [v for a, v in variant.axes.items() if a in self.results.axes and a not in less]
        if variant.axes and not values:
            return self.family(variant)
        return " · ".join(f"z = {v}" if v.isdigit() else v for v in values) or variant.title

    def lines(self) -> list[list[Variant]]:
        """Variants that differ in nothing but the axis along which a line joins them, in its order."""
        groups: dict[Any, list[Variant]] = {}
        for v in self.results.variants:
            rest = tuple((a, value) for a, value in v.axes.items() if a != self.along)
            alone = v.name if v.axes and self.along not in v.axes else ""
            groups.setdefault((rest, alone) if v.axes else same_but_beta(v), []).append(v)
        return [sorted(group, key=lambda v: self.place(v) or 0.0) for group in groups.values()]

    def legend(self, figure: Figure, variants: Sequence[Variant], *more: Line2D) -> None:
        """Write which marker is which likelihood, along the top; nothing where there is one."""
        shown = [v.likelihood_class for v in variants]
        kinds = [kind for kind in self.markers if kind in shown]
        handles = [key(fit(kind or "not recorded", 250), marker=self.markers[kind]) for kind in kinds]
        handles = [*(handles if len(kinds) > 1 else []), *more]
        if handles:
            figure.legend(handles=handles, loc="upper right", ncols=4, frameon=False, fontsize=SMALL,
                          handletextpad=0.2, borderaxespad=0.2)  # fmt: skip


def fit(words: str, width: float, size: float = SMALL) -> str:
    """Cut text to one line of at most `width` screen pixels."""
    return fitted(" ".join(words.split()), round(size * DPI / 72), width)


def _bars(value: Estimate) -> list[list[float]] | None:
    """An interval for `errorbar`; None for one seed."""
    below, above = (max(0.0, side) for side in value.bars)  # equal seeds: rounding may be on either side
    return [[below], [above]] if below or above else None


def key(words: str, **look: Any) -> Line2D:
    """Make the entry of a legend for a mark."""
    return Line2D([], [], color=INK, ms=4.5, ls="", label=words, **look)
