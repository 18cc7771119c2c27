"""Two variants, or two reports variant by variant: differences, and only such as may be compared.

The statistics are those of the report's answers: Welch's t, of near-twins a t over shared seeds; Holm over
everything that one comparison shows; no verdict on seeds that are a selection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.errors import BenchError, did_you_mean
from bench.evaluation.metrics import METRICS, Metric, own_metrics
from bench.report.effects import unequal
from bench.report.frame import TIMES
from bench.report.pairs import near_twins, parts
from bench.report.results import Results, Variant, load
from bench.report.statistics import MIN_SEEDS, Effect, advice, average, rejected

TITLES = {
    "own": "own terms",
    "common": "common footing",
    "details": "details of the footing",
    "latent": "latent space",
    "samples": "samples",
    "cost": "cost",
}
TESTS = {
    "Welch": "Welch's t",
    "paired by seed": "t of differences by seed, as they are near-twins",
}


@dataclass(frozen=True)
class Difference:
    """One metric of two variants; `verdict` is empty for a description, which is never judged."""

    metric: Metric
    difference: Effect | None  # a − b; None where near-twins share no seed
    judged: bool  # whether it belongs to the family of tests
    verdict: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two variants side by side, in the order of the table of metrics, and why some rows are missing."""

    a: Variant
    b: Variant
    rows: tuple[Difference, ...]
    changes: tuple[str, ...]  # the settings that differ, as `objective.beta: 1 → 0.1`
    notes: tuple[str, ...]


def compare(a: str, b: str, report: Path) -> list[Comparison]:
    """Compare two variants of `report`, or two reports' folders in all variants that both have.

    Raises BenchError for names that are neither, a report without them, reports without a shared variant or
    on different data, and variants of which nothing has finished.
    """
    folders = [Path(a), Path(b)]
    reports = [(folder / "experiment.json").is_file() for folder in folders]
    if all(reports):
        ours, theirs = (load(path) for path in folders)
        return _judged(_of_reports(ours, theirs), min(ours.margin, theirs.margin))
    for folder, other, found in zip(folders, reversed(folders), reversed(reports), strict=True):
        if found or len(folder.parts) > 1:
            raise BenchError(
                f"{folder} and {other} are not two reports' folders; give two of those, or two variants"
            )
    results = load(report)
    return _judged([_pair(_variant(results, a), _variant(results, b))], results.margin)


def _of_reports(a: Results, b: Results) -> list[Comparison]:
    ours, theirs = ({v.name: v for v in r.variants if v.finished} for r in (a, b))
    shared = [name for name in ours if name in theirs]
    if not shared:
        raise BenchError(f"{a.folder} and {b.folder} share no variant with a finished run; give two that do")
    data = [{_data(ours[n]) for n in shared}, {_data(theirs[n]) for n in shared}]
    if data[0] != data[1]:
        shown = [f"{r.folder} is on {r.dataset}" for r in (a, b)]
        raise BenchError(
            f"{' and '.join(shown)}: measured on different data, their numbers do not compare; "
            "give two reports on the same"
        )
    return [_pair(ours[name], theirs[name]) for name in shared]


def _variant(results: Results, name: str) -> Variant:
    known = {v.name: v for v in results.variants}
    if name not in known:
        raise BenchError(f"{name!r} is no variant of {results.folder}{did_you_mean(name, known)}")
    if not known[name].finished:
        raise BenchError(f"{name} has no finished run in {results.folder}; finish one with bench run")
    return known[name]


def _data(variant: Variant) -> tuple[str, str]:
    data = variant.finished[0].record.get("data") or {}
    return str(data.get("name")), str(data.get("digest"))


def _pair(a: Variant, b: Variant) -> Comparison:
    """The rows that two variants may be compared in, not judged yet."""
    changes = tuple(_changes(parts(a), parts(b)))
    if a.judged or b.judged:  # nothing is known of how
        changes = ("where they were trained",)
    metrics, notes = _comparable(a, b, objective=any(c.startswith("objective") for c in changes))
    notes.insert(0, f"Measured on {_data(a)[0]}.")
    rows = [_row(a, b, metric) for metric in metrics if a.values(metric.name) and b.values(metric.name)]
    notes.append(f"Tested by {TESTS['paired by seed' if near_twins(a, b) else 'Welch']}.")
    seeds = [{run.seed for run in v.finished} for v in (a, b)]
    if near_twins(a, b) and not seeds[0] & seeds[1]:
        notes.append("They share no finished seed, so nothing is paired: run both with the same seeds.")
    elif near_twins(a, b) and seeds[0] != seeds[1]:
        alone = ", ".join(map(str, sorted(seeds[0] ^ seeds[1])))
        notes.append(f"Differences are over shared seeds; only one of the two has finished seed {alone}.")
    return Comparison(a, b, tuple(rows), changes, tuple(notes))


def _comparable(a: Variant, b: Variant, *, objective: bool) -> tuple[list[Metric], list[str]]:
    """The metrics that may be set side by side, and why the others may not."""
    kept, notes = [*METRICS, *own_metrics([a.settings, b.settings])], []
    if not a.likelihood_class or a.likelihood_class != b.likelihood_class:
        kept = [m for m in kept if m.footing != "own"]
        notes.append(
            "Own-terms metrics (ELBO, distortion, KL) are left out: the likelihood classes differ, "
            f"{a.likelihood_class or 'unknown'} and {b.likelihood_class or 'unknown'}."
        )
    elif objective:
        kept = [m for m in kept if m.name != "test_loss"]
        notes.append("The test loss as written is left out: the objectives differ.")
    if len({run.machine for v in (a, b) for run in v.finished}) > 1:
        kept = [m for m in kept if m.name not in TIMES]
        notes.append("Times and memory are left out: they come from different machines.")
    return kept, notes


def _row(a: Variant, b: Variant, metric: Metric) -> Difference:
    """A row with its verdict where the seeds left it no chance of one."""
    pair = (a.values(metric.name), b.values(metric.name))
    difference = average([pair], metric.scale, twins=near_twins(a, b))
    if metric.direction is None or difference is None:
        return Difference(metric, difference, judged=False)
    by = [v.yardstick >= metric.since for v in (a, b)]
    if by[0] != by[1]:
        return Difference(
            metric, None, judged=False, verdict="not compared: by two definitions, of two yardsticks"
        )
    lost = [f"{who} lost {v.lost} of {len(v.runs)} seeds" for who, v in (("A", a), ("B", b)) if v.lost]
    if metric.footing == "latent":
        lost += [f"{a.latent} and {b.latent} latents"] if a.latent != b.latent else []
        lost += [f"{who} collapsed in {v.collapsed}" for who, v in (("A", a), ("B", b)) if v.collapsed]
    if lost:
        return Difference(metric, difference, judged=False, verdict=f"not ranked: {', '.join(lost)}")
    return Difference(metric, difference, judged=True)


def _judged(comparisons: Iterable[Comparison], margin: float) -> list[Comparison]:
    """The comparisons with verdicts: all judged rows are one family."""
    pairs = list(comparisons)
    family = [row.difference for pair in pairs for row in pair.rows if row.judged]
    sure = iter(rejected([effect.p if effect else None for effect in family]))

    def told(row: Difference) -> Difference:
        effect = row.difference
        if not row.judged or effect is None:
            return row
        if next(sure):
            first = (effect.value > 0) == (row.metric.direction == "higher")
            verdict = f"{'A' if first else 'B'} is better"
        elif effect.n < MIN_SEEDS:
            verdict = advice(effect)
        else:
            verdict = unequal(effect, row.metric, margin, len(family))
        return replace(row, verdict=verdict)

    return [replace(pair, rows=tuple(told(row) for row in pair.rows)) for pair in pairs]


def _changes(a: Mapping[str, object], b: Mapping[str, object], prefix: str = "") -> list[str]:
    """The settings that differ, options named after their part."""
    found = []
    for key in sorted({*a, *b}):
        old, new = a.get(key), b.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            here = prefix if key == "options" else f"{prefix}{key}."
            found += _changes(old, new, here)
        elif old != new:
            found.append(f"{prefix}{key}: {_shown(old)} → {_shown(new)}".replace(".name:", ":"))
    return found


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)
