"""Two settings compared with all else equal: setting by setting, and averaged where they agree in sign.

The error of an average is that of the seeds inside each setting: ten settings of one seed are not ten draws.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from bench.evaluation.metrics import Metric
from bench.report.results import Variant
from bench.report.statistics import Effect, Values, average, rejected

# What a variant is called and quoted for, as against what it computes
NOT_PARTS = ("name", "label", "document", "published", "note", "axes", "extends")
# What two near-twins may differ in: initialisation, data order and noise stay the same, draw for draw
TWINS_DIFFER_IN = ("precision", "importance_samples")

Setting = tuple[tuple[str, str], ...]  # the other axes and their values
Levels = Mapping[str, Mapping[Hashable, Variant]]  # value of the axis -> setting of all else -> variant


@dataclass(frozen=True)
class Contrast:
    """One metric over the values of an axis, in the settings of all else that every value has."""

    metric: Metric
    cells: Mapping[str, Mapping[Hashable, Values]]  # level -> setting -> seed -> value
    left_out: int  # settings in which a seed diverged or failed: what is left would be a selection
    twins: bool  # whether the variants of each setting are near-twins

    @cached_property
    def settings(self) -> list[Hashable]:
        """The settings of all else."""
        return list(next(iter(self.cells.values())))

    @property
    def n(self) -> int:
        """The seeds of the variant that has fewest."""
        return min(len(values) for cells in self.cells.values() for values in cells.values())

    def effect(self, a: str, b: str) -> Effect | None:
        """a − b, averaged over the settings; None where either has no value."""
        if a not in self.cells or b not in self.cells:
            return None
        pairs = [(self.cells[a][s], self.cells[b][s]) for s in self.settings]
        return average(pairs, self.metric.scale, twins=self.twins)

    def effects(self, a: str, b: str) -> list[Effect]:
        """a − b in each setting."""
        pairs = [(self.cells[a][s], self.cells[b][s]) for s in self.settings]
        found = [average([pair], self.metric.scale, twins=self.twins) for pair in pairs]
        return [effect for effect in found if effect is not None]

    def turns(self, a: str, b: str) -> bool:
        """Whether the sign of a − b differs between settings, of which at least one has an effect."""
        effects = self.effects(a, b)
        signs = {effect.value > 0 for effect in effects if effect.value}
        return len(signs) > 1 and any(rejected([effect.p for effect in effects]))

    def at(self, axis: str, value: str) -> Contrast:
        """The settings in which another axis has this value."""
        cells = {
            level: {s: v for s, v in cells.items() if dict(s).get(axis) == value}  # type: ignore[call-overload]
            for level, cells in self.cells.items()
        }
        return Contrast(self.metric, cells, self.left_out, self.twins)


def near_twins(a: Variant, b: Variant) -> bool:
    """Whether all settings are equal that initialisation, data order or noise depend on."""
    return _parts(a, *TWINS_DIFFER_IN) == _parts(b, *TWINS_DIFFER_IN)


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


def contrast(by_level: Levels, metric: Metric) -> Contrast | None:
    """Take a metric in the settings that every level has, of variants that lost no seed; None without."""
    name = metric.name
    measured = {
        level: {s: v for s, v in cells.items() if v.lost or (v.values(name) and not v.outdated(name))}
        for level, cells in by_level.items()
    }
    present = {level: cells for level, cells in measured.items() if cells}
    if len(present) < 2:
        return None
    shared = [s for s in next(iter(present.values())) if all(s in cells for cells in present.values())]
    kept = [s for s in shared if not any(cells[s].lost for cells in present.values())]
    if not kept:
        return None
    first, *others = present.values()
    twins = all(near_twins(first[s], other[s]) for other in others for s in kept)
    values = {level: {s: cells[s].values(name) for s in kept} for level, cells in present.items()}
    return Contrast(metric, values, len(shared) - len(kept), twins)


def same_but_beta(variant: Variant) -> str:
    """What two variants share if they differ in β alone."""
    kind, options = variant.part("objective")
    rest = {k: v for k, v in options.items() if k != "beta"}
    return json.dumps([_parts(variant, "objective"), kind, rest], sort_keys=True, default=str)


def _parts(variant: Variant, *less: str) -> dict[str, object]:
    """Everything that determines a variant's results, less some."""
    return {k: v for k, v in variant.settings.items() if k not in (*NOT_PARTS, *less)}


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


def winner(effect: Effect, metric: Metric, a: str, b: str) -> str:
    """Which of two settings a − b says is the better."""
    return a if (effect.value > 0) == (metric.direction == "higher") else b
