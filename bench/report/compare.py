"""Two variants, or two reports variant by variant: differences, and only such as may be compared.

The statistics are those of the report's answers: Welch's t, of near-twins a t over shared seeds; Holm over
everything that one comparison shows; no verdict on seeds that are a selection.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from bench.errors import BenchError, did_you_mean
from bench.evaluation.metrics import METRICS, Metric, own_metrics
from bench.report.effects import EffectRow, holm_tested
from bench.report.frame import PLACE, TIMES
from bench.report.pairs import near_twins, parts
from bench.report.results import Results, Variant, load
from bench.report.statistics import LEVEL, average, one_sided
from bench.store.changes import changes
from bench.store.experiments import named

TITLES = {
    "own": "own terms",
    "common": "common footing",
    "details": "details of the footing",
    "latent": "latent space",
    "samples": "samples",
    "cost": "cost",
}
TESTS = {"Welch": "Welch's t", "paired by seed": "t of differences by seed, as they are near-twins"}


@dataclass(frozen=True)
class Comparison:
    """Two variants side by side, in the order of the table of metrics, and why some rows are missing."""

    a: Variant
    b: Variant
    rows: list[EffectRow]  # A less B; of n = 0 where that may not be, or near-twins share no seed
    changes: list[str]  # the settings that differ, as `objective.beta: 1 → 0.1`
    notes: list[str]
    margin: float  # nats within which they are called equal


def compare(a: str, b: str, report: Path, reports: Path = Path("reports")) -> list[Comparison]:
    """Compare two variants of `report`, or two reports' folders in all variants that both have.

    `report` is a folder, or in `reports` by its YAML file or name. Raises BenchError for names that are
    neither, a report without them, reports without a shared variant or on different data, and variants of
    which nothing has finished.
    """
    folders = [Path(a), Path(b)]
    are_reports = [(folder / "experiment.json").is_file() for folder in folders]
    if all(are_reports):
        ours, theirs = (load(path) for path in folders)
        return _of_reports(ours, theirs)
    for folder, other, found in zip(folders, reversed(folders), reversed(are_reports), strict=True):
        if found or len(folder.parts) > 1:
            raise BenchError(
                f"{folder} and {other} are not two reports' folders; give two of those, or two variants"
            )
    results = load(named(report, reports))
    return _tested([_pair(_variant(results, a), _variant(results, b), results.margin)])


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
    return _tested(_pair(ours[name], theirs[name], min(a.margin, b.margin)) for name in shared)


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


def _pair(a: Variant, b: Variant, margin: float) -> Comparison:
    """The rows that two variants may be compared in, not tested yet."""
    differ = changes(parts(a), parts(b))
    if a.judged or b.judged:  # nothing is known of how
        differ = ["where they were trained"]
    metrics, notes = _comparable(a, b, objective=any(c.startswith("objective") for c in differ))
    notes.insert(0, f"Measured on {_data(a)[0]}.")
    rows = [_row(a, b, metric) for metric in metrics if a.values(metric.name) and b.values(metric.name)]
    notes.append(f"Tested by {TESTS['paired by seed' if near_twins(a, b) else 'Welch']}.")
    seeds = [{run.seed for run in v.finished} for v in (a, b)]
    if near_twins(a, b) and not seeds[0] & seeds[1]:
        notes.append("They share no finished seed, so nothing is paired: run both with the same seeds.")
    elif near_twins(a, b) and seeds[0] != seeds[1]:
        alone = ", ".join(map(str, sorted(seeds[0] ^ seeds[1])))
        notes.append(f"Differences are over shared seeds; only one of the two has finished seed {alone}.")
    return Comparison(a, b, rows, differ, notes, margin)


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
    if len(pd.concat([v.done[[*PLACE]] for v in (a, b)]).astype(str).drop_duplicates()) > 1:
        kept = [m for m in kept if m.name not in TIMES]
        notes.append("Times and memory are left out: they come from different machines.")
    return kept, notes


def _row(a: Variant, b: Variant, metric: Metric) -> EffectRow:
    """A less B in a metric, and why that is not tested, as far as it is not."""
    values, aside = (a.values(metric.name), b.values(metric.name)), None
    if len({v.yardstick >= metric.since for v in (a, b)}) > 1 and metric.direction:
        values, aside = ({}, {}), "not compared: by two definitions, of two yardsticks"
    effect = average([values], metric.scale, twins=near_twins(a, b))
    lost = [f"{who} lost {v.lost} of {len(v.runs)} seeds" for who, v in (("A", a), ("B", b)) if v.lost]
    if metric.footing == "latent":
        lost += [f"{a.latent} and {b.latent} latents"] if a.latent != b.latent else []
        lost += [f"{who} collapsed in {v.collapsed}" for who, v in (("A", a), ("B", b)) if v.collapsed]
    if aside is None and (metric.direction is None or not effect.n):  # a description
        aside = ""
    elif aside is None and lost:
        aside = f"not ranked: {', '.join(lost)}"
    return EffectRow("variant", "A", "B", "", metric, effect, 1, aside=aside)


def _tested(pairs: Iterable[Comparison]) -> list[Comparison]:
    """Test all rows of all comparisons as one family."""
    found = [*pairs]
    rows = iter(holm_tested(row for pair in found for row in pair.rows))
    return [replace(pair, rows=[*itertools.islice(rows, len(pair.rows))]) for pair in found]


# A gate for continuous integration: is one variant not worse than another by more than a margin?

EXITS = {"passed": 0, "failed": 1, "undecided": 3}
_GATE = re.compile(r"\s*(?P<metric>\w+)\s*(?P<sign>>=|<=)\s*(?P<bound>[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Gate:
    """`metric >= bound` or `metric <= bound`, of A less B; of A/B for one tested on the logarithm."""

    metric: str
    sign: Literal[">=", "<="]
    bound: float

    def judge(self, comparisons: Sequence[Comparison]) -> tuple[str, str]:
        """Decide by two one-sided t-tests at 5 %: "passed", "failed" or "undecided", and why.

        With several comparisons, the worst of them. Raises BenchError where nothing can be compared.
        """
        found = []
        for pair in comparisons:
            rows = {row.metric.name: row for row in pair.rows}
            if self.metric not in rows:
                raise BenchError(f"--gate {self.metric}: no such row here{did_you_mean(self.metric, rows)}")
            state, why = self._judge(rows[self.metric], pair.margin)
            found.append((state, f"{pair.a.name} against {pair.b.name}: {why}"))
        return max(found, key=lambda one: ("passed", "undecided", "failed").index(one[0]))

    def _judge(self, row: EffectRow, margin: float) -> tuple[str, str]:
        effect = row.effect
        if not row.tested:
            return "undecided", row.aside or "a description, which is not tested"
        if effect.scale != "linear" and self.bound <= 0:
            what = f"--gate {self.metric}: {self.bound:g} bounds a ratio"
            raise BenchError(f"{what}; give a number above 0")
        bound = self.bound if effect.scale == "linear" else math.log(self.bound)
        above = self.sign == ">="
        holds, fails = (one_sided(effect, bound, above=side) for side in (above, not above))
        if holds is None or fails is None:
            return "undecided", row.verdict(margin)
        state = "passed" if holds <= LEVEL else "failed" if fails <= LEVEL else "undecided"
        size = effect.size
        interval = f"{size.mean:.6g} [{size.low:.6g}, {size.high:.6g}]"
        return state, f"{interval}, n = {effect.n}, p = {min(holds, fails):.2g}"


def parse(text: str) -> Gate:
    """Read `log_px_bernoulli >= -0.5`; raises BenchError for anything else."""
    match = _GATE.fullmatch(text)
    if match is None:
        raise BenchError(f"--gate {text!r} is not of the form 'METRIC >= NUMBER' or 'METRIC <= NUMBER'")
    sign: Literal[">=", "<="] = ">=" if match["sign"] == ">=" else "<="
    return Gate(match["metric"], sign, float(match["bound"]))
