"""Which variants differ in one thing alone: by an axis of the matrix, in β, in the encoder's activation."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping

from bench.report.results import Variant
from bench.store.joined import ABOUT

# What two near-twins may differ in: initialisation, data order and noise stay the same, draw for draw
TWINS_DIFFER_IN = ("precision", "importance_samples")

Levels = Mapping[str, Mapping[Hashable, Variant]]  # value of the axis -> setting of all else -> variant
_Found = dict[str, dict[Hashable, Variant]]


def levels(variants: Iterable[Variant], axis: str) -> Levels:
    """Sort variants of a matrix by their value of an axis, then by their values of all other axes."""
    found: _Found = {}
    for variant in variants:
        if axis in variant.axes:
            rest = tuple(sorted((k, v) for k, v in variant.axes.items() if k != axis))
            found.setdefault(variant.axes[axis], {})[rest] = variant
    return found


def near_twins(a: Variant, b: Variant) -> bool:
    """Tell whether all settings are equal that initialisation, data order or noise depend on."""
    return parts(a, *TWINS_DIFFER_IN) == parts(b, *TWINS_DIFFER_IN)


def parts(variant: Variant, *less: str) -> dict[str, object]:
    """Collect everything that determines a variant's results, less some."""
    return {k: v for k, v in variant.settings.items() if k not in (*ABOUT, *less)}


def same_but_beta(variant: Variant, *less: str) -> str:
    """Name what two variants share if they differ in β alone, or in β and the parts in `less`."""
    kind, options = variant.part("objective")
    rest = {k: v for k, v in options.items() if k != "beta"}
    return json.dumps([parts(variant, "objective", *less), kind, rest], sort_keys=True, default=str)


def beta_pairs(variants: Iterable[Variant]) -> dict[tuple[str, str], Levels]:
    """Find pairs that differ in β alone, each β < 1 against 1, by likelihood class and β as written.

    Their levels are that β and "1". Normalised pixels are apart: under squared error their β is the variance
    in another unit.
    """
    groups: dict[str, dict[float, Variant]] = {}
    for variant in variants:
        if variant.beta is not None:
            groups.setdefault(same_but_beta(variant), {})[variant.beta] = variant
    found: dict[tuple[str, float], tuple[dict[Hashable, Variant], dict[Hashable, Variant]]] = {}
    for key, by_beta in groups.items():
        for beta in sorted(b for b in by_beta if b < 1 and 1.0 in by_beta):
            small, one = found.setdefault((_class(by_beta[beta]), beta), ({}, {}))
            small[key], one[key] = by_beta[beta], by_beta[1.0]
    named: dict[tuple[str, str], Levels] = {}
    for (kind, _), (small, one) in found.items():
        texts = [v.beta_text for v in small.values()]
        written = next((t for t in texts if "/" in t), texts[0])
        named[kind, written] = {written: small, "1": one}
    return named


def _class(variant: Variant) -> str:
    normalised = variant.part("target")[0] == "normalised"
    return variant.likelihood_class + (", normalised" if normalised else "")


def linear_pairs(variants: Iterable[Variant]) -> dict[int, Levels]:
    """Find pairs that differ in the encoder's activation alone, linear or not, by latent size."""
    found: dict[int, _Found] = {}
    for variant in variants:
        name, options = variant.part("encoder")
        hidden = options.get("hidden")
        if variant.latent is not None and hidden is not None:
            kind = "linear" if name == "linear" or options.get("activation") == "identity" else "not linear"
            widths = hidden if isinstance(hidden, list) else [hidden]
            alike = json.dumps([parts(variant, "encoder"), widths], sort_keys=True, default=str)
            found.setdefault(variant.latent, {}).setdefault(kind, {})[alike] = variant
    return {
        latent: {kind: found[latent][kind] for kind in ("linear", "not linear")}
        for latent in sorted(found)
        if len(found[latent]) == 2
    }
