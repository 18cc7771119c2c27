"""The tables of measured values, as data: columns, arrows and rankings follow from the rows of `METRICS`.

Nothing here is Markdown, HTML or LaTeX: `render` writes a table as any of them.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from markupsafe import Markup

from bench.evaluation.metrics import Metric
from bench.report.cells import NOTHING, exact, plain, spread
from bench.report.frame import number, numbers, seconds_spent
from bench.report.inference import Ranking
from bench.report.results import Results, Variant, ordered
from bench.report.statistics import Estimate, estimate

MOST = 7  # columns, so that a table fits a page
ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
FIXED = ("parameters",)  # cost that no machine changes
BOUNDS = {"mutual_information": "≥", "aggregate_kl": "≤"}  # what they are where I(x; z) is saturated
SIGNS = {"beta": "β", "latent": "Z"}
SAMPLES = "frechet_distance"  # the one number of the samples; the others stand in their own table
YARDSTICKS = {  # what the lowest and highest values of sample metrics are of
    "floor": "training images",
    "ceiling": "noise: pixels black or white by the pixel mean",
    "grey": "noise: the pixel mean as grey",
}


T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """One value: what is shown (foreign text as `str`, our own numbers as `Markup`), and what sorts it."""

    text: str
    value: float | None = None
    mark: str = ""  # †, ‡ or °: what each says stands in words.j2
    best: bool = False
    seeds: Mapping[int, float] = field(default_factory=dict)
    faint: bool = False  # of a baseline, which has no seeds and no rank


@dataclass(frozen=True)
class Column:
    """The heading of a column."""

    title: str
    unit: str = ""
    arrow: str = ""
    metric: str = ""


@dataclass(frozen=True)
class Table:
    """A table of at most MOST columns, the first of them names; false without rows."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    advice: tuple[tuple[str, str, str, str], ...] = ()  # metric, what to add, nearest, leader
    lost: tuple[str, ...] = ()  # variants that are not ranked, as they lost seeds

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def marks(self) -> set[str]:
        """The marks that it uses, bold among them."""
        cells = [cell for row in self.rows for cell in row]
        return {cell.mark for cell in cells if cell.mark} | {"best" for cell in cells if cell.best}


def shown(value: str) -> Markup:
    """Mark text as bench's own: it holds nothing that a table could take for markup."""
    return Markup(value)  # noqa: S704  numbers that bench has formatted


def amount(value: float | None, digits: int | None = None) -> Cell:
    """Show a number without a spread: written down where `digits` are given, else measured."""
    if value is None:
        return Cell(NOTHING)
    return Cell(shown(plain(value) if digits is None else exact(value, digits)), value)


def parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut columns into tables that fit beside a column of names."""
    return (items[i : i + MOST - 1] for i in range(0, len(items), MOST - 1))


def interval(value: Estimate | None, prefix: str = "") -> Cell:
    """Show a mean with its interval."""
    return Cell(shown(prefix + spread(value)), value.mean) if value else Cell(NOTHING)


def column(metric: Metric) -> Column:
    """Head a metric's column: title, arrow towards better, unit."""
    return Column(metric.title, metric.unit, ARROWS[metric.direction], metric.name)


def finished(variant: Variant) -> str:
    """Say how many seeds of how many finished, and what became of those that ended without numbers."""
    counts = {status: sum(r.status == status for r in variant.runs) for status in ("diverged", "failed")}
    told = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    return f"{len(variant.finished)}/{len(variant.runs)}" + (f", {told}" if told else "")


def name(variant: Variant) -> Cell:
    """Name a variant in the first column: with seeds that are lacking, collapse, and whose runs it has."""
    told = [finished(variant)] if len(variant.finished) < len(variant.runs) else []
    if variant.judged:
        told.append(f"not trained here, n = {len(variant.finished)}")
    if variant.collapsed:
        told.append(f"collapsed {variant.collapsed}/{len(variant.finished)}")
    for origin, count in variant.table.origin.value_counts(sort=False).items():
        told.append(f"{f'{count} of {len(variant.runs)} ' if count < len(variant.runs) else ''}from {origin}")
    return Cell(f"{variant.title} ({'; '.join(told)})" if told else variant.title)


def cell(variant: Variant, metric: Metric, rank: Ranking | None = None) -> Cell:
    """Show mean ± half-width, and the estimator's own error where it matters; marked by rank."""
    value = variant.estimate(metric.name)
    if value is None:
        lacking = any(metric.name in run.record.get("undefined", ()) for run in variant.finished)
        return Cell(shown("not defined") if lacking else NOTHING)
    text = plain(value.mean) if metric.name in FIXED else spread(value)
    text = f"{BOUNDS[metric.name]} {text}" if variant.saturated and metric.name in BOUNDS else text
    error = variant.monte_carlo_error(metric)
    if error and error > 0.1 * max(value.bars):
        text += f" (MC {plain(error, 2)})"
    if value.n != len(variant.finished):
        text += f" (n = {value.n})"
    who = variant.same_as or variant.name
    mark = "°" if variant.outdated(metric.name) else ""
    if rank and not mark:
        mark = "‡" if rank.best and who in rank.untested else "†" if who in rank.ties else ""
    return Cell(shown(text), value.mean, mark, bool(rank and who == rank.best), variant.values(metric.name))


def ranked(
    variants: Sequence[Variant],
    metrics: Sequence[Metric],
    orders: Mapping[str, Ranking],
    extra: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> list[Table]:
    """Make a row a variant, a column a metric in its order, `extra` rows below; in parts of MOST columns."""
    titles = {v.name: v.title for v in variants}
    lost = tuple(f"{v.title} ({finished(v)})" for v in variants if v.lost)
    found = []
    for part in parts(metrics) if variants else ():
        rows = [[name(v), *(cell(v, m, orders.get(m.name)) for m in part)] for v in variants]
        for title, values in extra:
            known = numbers(values)
            if any(m.name in known for m in part):
                found_there = [Cell(title), *(amount(known.get(m.name)) for m in part)]
                rows.append([replace(each, faint=True) for each in found_there])
        # What it would take to tell the nearest from the best
        told = [(m.title, orders[m.name]) for m in part if m.name in orders]
        advice = tuple(
            (title, order.advice, titles.get(next(iter((*order.ties, *order.untested)), ""), ""),
             titles.get(order.leader or "", ""))
            for title, order in told if order.advice
        )  # fmt: skip
        any_order = any(order.leader for _, order in told)
        heads = [Column("variant"), *map(column, part)]
        found.append(Table(heads, rows, advice=advice, lost=lost if any_order else ()))
    return found


def baseline_rows(results: Results) -> list[tuple[str, Mapping[str, Any]]]:
    """List baselines by name and, where that does not say it, size; they have no seeds, and no rank."""
    found = []
    for row in results.baselines.get("rows", []):
        title, latent = str(row.get("name", "baseline")), number(row.get("latent"))
        if latent and not any(c.isdigit() for c in title):
            title = f"{title}, {plain(latent)} components"
        found.append((title, row))
    return found


def yardsticks(results: Results) -> list[tuple[str, Mapping[str, Any]]]:
    """List what training images and noise score in the feature networks."""
    rows = results.baselines.get("samples", {}).items()
    return [(str(row.get("name") or YARDSTICKS.get(key, key)), row) for key, row in rows]


def one_footing(results: Results) -> list[Table]:
    """Compare all variants under the same observation models, with their samples; baselines below."""
    metrics = results.measured("common")
    samples = [m for m in results.measured("samples") if m.name == SAMPLES]
    extra = [*baseline_rows(results), *yardsticks(results)]
    return ranked(results.started, [*metrics, *samples], results.rankings, extra) if metrics else []


def footing(results: Results, *footings: str) -> list[Table]:
    """Compare all variants in the metrics of some footings, with what baselines have of them."""
    metrics = results.measured(*footings)
    extra = yardsticks(results) if "samples" in footings else baseline_rows(results)
    return ranked(results.started, metrics, results.rankings, extra)


def latent(results: Results) -> list[Table]:
    """Show what the latents carry; the own-terms KL first, since collapse is told from both."""
    metrics = results.measured("latent")
    kl = tuple(m for m in results.measured("own") if m.name == "kl")
    return ranked(results.started, (*kl, *metrics), results.rankings) if metrics else []


def own_terms(results: Results) -> list[tuple[str, list[Table]]]:
    """Rank variants inside each likelihood class, in their own terms: (class, tables)."""
    metrics = results.measured("own")
    classes: dict[str, list[Variant]] = {v.likelihood_class: [] for v in results.variants if v.finished}
    for variant in results.variants:
        classes.setdefault(variant.likelihood_class, []).append(variant)
    return [
        (kind, ranked(members, metrics, {m.name: ordered(members, m) for m in metrics}))
        for kind, members in classes.items()
        if metrics and any(v.finished for v in members)
    ]


def settings(results: Results) -> Table:
    """Say what each variant is, and whether more epochs would have changed it; nothing in it is ranked."""
    rows = []
    for v in results.variants:
        falls = v.done.fall.dropna().tolist()
        epochs = ", ".join(dict.fromkeys(str(run.measured_epoch or NOTHING) for run in v.finished)) or NOTHING
        kind = v.likelihood_class or v.part("likelihood")[0] or NOTHING
        rows.append([
            name(v), amount(number(v.latent), 3), Cell(kind), Cell(v.beta_text or NOTHING, v.beta),
            amount(v.beta_eff, 3), Cell(shown(epochs)), interval(estimate(falls) if falls else None),
        ])  # fmt: skip
    heads = ("variant", "latent", "likelihood", "β", "β_eff", "epoch measured")
    return Table([*map(Column, heads), Column("still falling", "nats/epoch")], rows)


def matrix(results: Results) -> list[Table]:
    """Make a table for each metric that compares across the matrix: its longest axis down, the others across.

    Empty where fewer than two axes vary.
    """
    varied = results.axes
    variants = [v for v in results.started if all(axis in v.axes for axis in varied)]
    if len(varied) < 2 or not variants:
        return []
    down = max(varied, key=lambda axis: len({v.axes[axis] for v in variants}))
    across = [axis for axis in varied if axis != down]
    places = {(v.axes[down], *(v.axes[axis] for axis in across)): v for v in variants}
    values = itertools.product(*(dict.fromkeys(v.axes[axis] for v in variants) for axis in across))
    columns = [each for each in values if any(place[1:] == each for place in places)]
    samples = [m for m in results.measured("samples") if m.name == SAMPLES]
    found = []
    for metric in (*results.measured("common"), *samples):
        order = results.rankings[metric.name]
        for part in parts(columns):
            rows = []
            for level in dict.fromkeys(v.axes[down] for v in variants):
                there = [places.get((level, *each)) for each in part]
                held = (cell(v, metric, order) if v else Cell(NOTHING) for v in there)
                rows.append([Cell(axis_value(down, level)), *held])
            heads = [Column(", ".join(map(axis_value, across, each))) for each in part]
            unit = f" ({metric.unit})" if metric.unit else ""
            title = f"{metric.title}{ARROWS[metric.direction]}{unit}"
            found.append(Table([Column(down), *heads], rows, title))
    return found


def axis_value(axis: str, value: str) -> str:
    """Head a value of an axis: a lone number says of what."""
    return f"{SIGNS.get(axis, axis)} = {value}" if value[:1].isdigit() else value


def machines(results: Results) -> list[str]:
    """List every machine that timed a finished run, in order of appearance."""
    return list(dict.fromkeys(run.machine for v in results.variants if not v.judged for run in v.finished))


def cost(results: Results) -> Table:
    """Show what training cost, a row per variant and machine: times are never pooled across machines."""
    metrics, known = results.measured("cost"), machines(results)
    rows = []
    for v in results.variants if metrics else ():
        for machine, runs in () if v.judged else v.done.groupby("machine", sort=False):
            cells = [name(v), Cell(f"M{known.index(str(machine)) + 1}")]
            for metric in metrics:
                values = runs[metric.name].dropna().tolist()
                fixed = metric.name in FIXED and values
                cells.append(amount(values[0]) if fixed else interval(estimate(values) if values else None))
            rows.append([*cells, amount(len(runs))])
    return Table([Column("variant"), Column("machine"), *map(column, metrics), Column("n")], rows)


def speed_spread(results: Results) -> float:
    """Find the largest ratio of images a second between seeds of one variant on one machine, at least 1."""
    if not any(metric.name == "images_per_second" for metric in results.measured("cost")):
        return 1.0
    timed = results.done[results.done.images_per_second > 0]
    speeds = timed.groupby(["variant", "machine"]).images_per_second
    return float((speeds.max() / speeds.min()).max())


def spent(results: Results) -> tuple[int, float, float]:
    """Add up what all runs that began took: how many they are, seconds of training, seconds of evaluation."""
    each = [seconds_spent(run.record) for run in results.runs if run.record]
    return len(each), math.fsum(a for a, _ in each), math.fsum(b for _, b in each)


def evaluation(results: Results) -> Table:
    """Show the seconds each part of the evaluation took, a run's mean, and its share of the training time.

    Joined runs are left out.
    """
    own = [run for run in results.finished if not run.origin]
    seconds = [numbers(run.record.get("evaluation_seconds")) for run in own]
    known = [run for run, parts in zip(own, seconds, strict=True) if parts]
    training = sum(getattr(run, "train_seconds", 0.0) for run in known)
    totals = Counter[str]()
    for parts in seconds:
        totals.update(parts)
    rows = []
    for part, total in {**totals, "all of it": sum(totals.values())}.items() if known else ():
        share = f"{100 * total / training:.1f} %" if training > 0 else NOTHING
        mean = shown(plain(total / len(known), 3))
        rows.append([Cell(part), Cell(mean, total), Cell(shown(share), total)])
    return Table([*map(Column, ("evaluation", "seconds a run", "share of training"))], rows)
