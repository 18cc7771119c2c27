"""Two settings compared with all else equal: per seed, averaged over the other settings, then over seeds.

Averaging inside a seed first keeps n the number of seeds: ten settings of one seed are not ten draws.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.report.results import Variant
from bench.report.statistics import LEVEL, Column, Difference, holm, paired

# What a variant is called and quoted for, as against what it computes
NOT_PARTS = ("name", "label", "document", "published", "note", "axes", "extends")

Levels = Mapping[str, Mapping[Hashable, Variant]]  # value of the axis -> setting of all else -> variant


@dataclass(frozen=True)
class Contrast:
    """One metric over the values of an axis: per level and seed, over the same settings of all else."""

    column: Column
    cells: Mapping[str, Sequence[Mapping[int, float]]]  # level -> a value per seed, one entry a setting
    left_out: int  # settings in which a seed diverged or failed: what is left would be a selection

    def difference(self, a: str, b: str) -> Difference | None:
        """a − b, paired by seed."""
        return paired(self.column[a], self.column[b]) if a in self.column and b in self.column else None

    @property
    def settings(self) -> int:
        """Over how many settings of all else it is averaged."""
        return len(next(iter(self.cells.values())))

    def agreeing(self, a: str, b: str) -> int:
        """In how many of the settings a − b has the sign it has on the whole."""
        whole = self.difference(a, b)
        parts = [paired(x, y) for x, y in zip(self.cells[a], self.cells[b], strict=True)]
        return sum(d is not None and whole is not None and d.mean * whole.mean > 0 for d in parts)


def levels(variants: Iterable[Variant], axis: str) -> dict[str, dict[Hashable, Variant]]:
    """Variants of a matrix by their value of an axis, then by their values of all other axes."""
    found: dict[str, dict[Hashable, Variant]] = {}
    for variant in variants:
        axes = variant.axes
        if axis in axes:
            rest = tuple(sorted((k, v) for k, v in axes.items() if k != axis))
            found.setdefault(axes[axis], {})[rest] = variant
    return found


def axes(variants: Iterable[Variant]) -> list[str]:
    """The axes with at least two values among these variants."""
    values: dict[str, set[str]] = {}
    for variant in variants:
        for axis, value in variant.axes.items():
            values.setdefault(axis, set()).add(value)
    return [axis for axis, seen in values.items() if len(seen) > 1]


def contrast(by_level: Levels, metric: str) -> Contrast | None:
    """Average a metric over the settings every level has, inside each seed that all have; None if none."""
    measured = {
        level: {s: v for s, v in cells.items() if v.values(metric) or v.lost}
        for level, cells in by_level.items()
    }
    present = {level: cells for level, cells in measured.items() if cells}
    if len(present) < 2:
        return None
    shared = [s for s in next(iter(present.values())) if all(s in cells for cells in present.values())]
    kept = tuple(s for s in shared if not any(cells[s].lost for cells in present.values()))
    values = {level: [cells[s].values(metric) for s in kept] for level, cells in present.items()}
    seeds = [seed.keys() for rows in values.values() for seed in rows]
    common = sorted(set.intersection(*map(set, seeds))) if seeds else []
    if not common:
        return None
    column = {
        lv: {s: math.fsum(r[s] for r in rows) / len(rows) for s in common} for lv, rows in values.items()
    }
    return Contrast(column, values, len(shared) - len(kept))


def same_but_beta(variant: Variant) -> str:
    """What two variants share if they differ in β alone."""
    kind, options = variant.part("objective")
    rest = {k: v for k, v in options.items() if k != "beta"}
    return json.dumps([_parts(variant, "objective"), kind, rest], sort_keys=True, default=str)


def _parts(variant: Variant, less: str) -> dict[str, object]:
    """Everything that determines a variant's results, less one part."""
    return {k: v for k, v in variant.settings.items() if k not in (*NOT_PARTS, less)}


def beta_pairs(variants: Iterable[Variant]) -> Mapping[tuple[str, float], Levels]:
    """Pairs unlike in β alone, each β < 1 against 1: (likelihood class, β) -> levels `small` and `one`."""
    groups: dict[str, dict[float, Variant]] = {}
    for variant in variants:
        if variant.beta is not None:
            groups.setdefault(same_but_beta(variant), {})[variant.beta] = variant
    found: dict[tuple[str, float], dict[str, dict[Hashable, Variant]]] = {}
    for key, by_beta in groups.items():
        for beta in sorted(by_beta):
            if beta < 1 and 1.0 in by_beta:
                pair = found.setdefault((by_beta[beta].likelihood_class, beta), {"small": {}, "one": {}})
                pair["small"][key], pair["one"][key] = by_beta[beta], by_beta[1.0]
    return found


def is_linear(variant: Variant) -> bool:
    """Whether the encoder has no non-linearity before its heads."""
    kind, options = variant.part("encoder")
    return kind == "linear" or options.get("activation") == "identity"


def linear_pairs(variants: Iterable[Variant]) -> dict[int, Levels]:
    """Pairs that differ in the encoder's activation alone, linear against not, by latent size."""
    found: dict[int, dict[str, dict[Hashable, Variant]]] = {}
    for variant in variants:
        hidden = variant.part("encoder")[1].get("hidden")
        if variant.latent is not None and hidden is not None:
            kind = "linear" if is_linear(variant) else "other"
            widths = hidden if isinstance(hidden, list) else [hidden]
            alike = json.dumps([_parts(variant, "encoder"), widths], sort_keys=True, default=str)
            found.setdefault(variant.latent, {}).setdefault(kind, {})[alike] = variant
    return {latent: found[latent] for latent in sorted(found) if len(found[latent]) == 2}


def winner(d: Difference, direction: str | None, a: str, b: str) -> str:
    """Which of two settings a − b says is the better."""
    return a if (d.mean > 0) == (direction == "higher") else b


def significant(differences: Sequence[Difference | None]) -> list[bool]:
    """Which of a family of differences Holm's procedure keeps; one without a p-value never is."""
    tested = [i for i, d in enumerate(differences) if d is not None and d.p is not None]
    adjusted = holm([d.p for d in differences if d is not None and d.p is not None])
    kept = {i for i, p in zip(tested, adjusted, strict=True) if p <= LEVEL}
    return [i in kept for i in range(len(differences))]
