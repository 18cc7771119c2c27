"""The tables of measured values: columns, arrows and rankings follow from the rows of `METRICS`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench.evaluation.metrics import Metric
from bench.report.cells import NOTHING, exact, plain, spread, table, text, words
from bench.report.inference import CERTAIN, Ranking
from bench.report.results import SATURATED, Results, Run, Variant, number, numbers, ordered
from bench.report.statistics import MIN_SEEDS, Estimate, estimate

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
OLD = "°"
FIXED = ("parameters",)  # cost that no machine changes
BOUNDS = {"mutual_information": "≥", "aggregate_kl": "≤"}  # what they are where I(x; z) is saturated
LEGEND = (
    "**Bold**: best mean. †: not distinguishable from the best (Hsu's multiple comparison with the best over"
    " the column, 95 %; Welch's t, no seeds paired)."
)
UNTESTED = f"‡: not tested, with fewer than {MIN_SEEDS} seeds."
PROVISIONAL = f"With fewer than {CERTAIN} seeds this order is provisional."


def header(metric: Metric) -> str:
    """How a table heads a metric: title, arrow towards better, unit."""
    unit = f" ({text(metric.unit)})" if metric.unit else ""
    return f"{text(metric.title)}{ARROWS[metric.direction]}{unit}"


def finished(variant: Variant) -> str:
    """n/N seeds finished, and what became of those that ended without numbers."""
    counts = {status: sum(r.status == status for r in variant.runs) for status in ("diverged", "failed")}
    told = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    return f"{len(variant.finished)}/{len(variant.runs)}" + (f" ({told})" if told else "")


def name(variant: Variant) -> str:
    """A variant in the first column, flagged where its latents collapsed."""
    shown = text(variant.title)
    return f"{shown} (collapsed {variant.collapsed}/{len(variant.finished)})" if variant.collapsed else shown


def cell(variant: Variant, metric: Metric, rank: Ranking | None = None) -> str:
    """Mean ± half-width, the estimator's own error where it matters, bold, † or ‡ by rank."""
    value = variant.estimate(metric.name)
    if value is None:
        return NOTHING
    shown = plain(value.mean) if metric.name in FIXED else spread(value)
    shown = f"{BOUNDS[metric.name]} {shown}" if variant.saturated and metric.name in BOUNDS else shown
    error = variant.monte_carlo_error(metric)
    if error and error > 0.1 * max(value.bars):
        shown += f" (MC {plain(error, 2)})"
    if value.n != len(variant.finished):
        shown += f" (n = {value.n})"
    shown += OLD if variant.outdated(metric.name) else ""
    if rank and variant.name == rank.best:
        return f"**{shown}**"
    if rank and variant.name in rank.untested:
        return f"{shown}‡"
    return f"{shown}†" if rank and variant.name in rank.ties else shown


def ranked(
    variants: Sequence[Variant],
    metrics: Sequence[Metric],
    orders: Mapping[str, Ranking],
    extra: Iterable[list[str]] = (),
) -> str:
    """One row per variant with n/N, a column per metric in its order, `extra` rows, then notes."""
    orders = {m.name: orders.get(m.name, Ranking()) for m in metrics}
    rows = [[name(v), *(cell(v, m, orders[m.name]) for m in metrics), finished(v)] for v in variants]
    shown = table(["variant", *(header(m) for m in metrics), "finished"], [*rows, *extra])
    return "\n\n".join(part for part in (shown, _notes(variants, metrics, orders)) if part)


def legend(orders: Iterable[Ranking]) -> list[str]:
    """What the marks of these orders mean."""
    found = [order for order in orders if order.best]
    lines = [LEGEND] if found else []
    lines += [UNTESTED] if any(order.untested for order in found) else []
    return [*lines, PROVISIONAL] if any(order.provisional for order in found) else lines


def _notes(variants: Sequence[Variant], metrics: Sequence[Metric], orders: Mapping[str, Ranking]) -> str:
    lines = legend(orders.values())
    old = any(v.outdated(m.name) and v.values(m.name) for v in variants for m in metrics)
    lines += (
        [f"{OLD}: by an older yardstick, which defined this metric otherwise; not tested."] if old else []
    )
    advice: dict[str, list[str]] = {}
    labels = {v.name: text(v.title) for v in variants}
    for metric in metrics:
        order = orders[metric.name]
        near = (*order.ties, *order.untested)
        nearest = f", {labels[near[0]]} from {labels[order.leader or '']}" if near else ""
        if order.advice:
            advice.setdefault(f"{order.advice}{nearest}", []).append(f"*{text(metric.title)}*")
    lines += [f"{words(titles)}: {told}." for told, titles in advice.items()]
    if any(order.leader for order in orders.values()):
        lost = [f"{labels[v.name]} {finished(v)}" for v in variants if v.lost]
        lines += (
            [f"Not ranked, since the seeds that are left are a selection: {words(lost)}."] if lost else []
        )
    return "  \n".join(lines)


def headline(results: Results) -> str:
    """One row per variant: what it is, its own-terms numbers and its cost; nothing in it is ranked."""
    head = [
        "variant",
        "latent",
        "parameters",
        "likelihood",
        "β",
        "β_eff",
        "test loss",
        "ELBO ↑",
        "reconstruction",
    ]
    head += ["KL", "still falling (nats/epoch)", "training (s)", "images/s", "finished"]
    patient = any("chosen" in run.record for run in results.finished)
    head += ["epoch measured"] if patient else []
    several = len(machines(results)) > 1
    rows = [
        [
            name(v),
            _lone(number(v.latent)),
            _mean(v, "parameters"),
            text(v.likelihood_class or v.part("likelihood")[0]) or NOTHING,
            text(v.beta_text) or NOTHING,
            _lone(v.beta_eff),
            *(_interval(v.estimate(m)) for m in ("test_loss", "elbo", "reconstruction", "kl")),
            _interval(
                estimate(falls) if (falls := [f for r in v.finished if (f := r.fall) is not None]) else None
            ),
            *(_timed(results, v, m, several) for m in ("train_seconds", "images_per_second")),
            finished(v),
            *([", ".join(str(run.chosen) for run in v.finished) or NOTHING] if patient else []),
        ]
        for v in results.variants
    ]
    return table(head, rows)


def one_footing(results: Results) -> str:
    """Every variant under the same observation models, baselines below."""
    metrics = results.measured("common")
    return ranked(results.started, metrics, results.rankings, baselines(results, metrics)) if metrics else ""


def details(results: Results) -> str:
    """Show what explains the common footing; ranked among all, as it is."""
    metrics = results.measured("details")
    return ranked(results.started, metrics, results.rankings, baselines(results, metrics)) if metrics else ""


def baselines(results: Results, metrics: Sequence[Metric]) -> list[list[str]]:
    """Baseline rows in italics, never ranked: they have no seeds."""
    rows = results.baselines.get("rows")
    return [
        _italic(baseline_name(row), row, metrics)
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, Mapping) and any(m.name in numbers(row) for m in metrics)
    ]


def own_terms(results: Results) -> list[tuple[str, str]]:
    """(likelihood class, table) for each class: the ranking stays inside it."""
    metrics = results.measured("own")
    classes: dict[str, list[Variant]] = {v.likelihood_class: [] for v in results.variants if v.finished}
    for variant in results.variants:
        classes.setdefault(variant.likelihood_class, []).append(variant)
    return [
        (kind, ranked(members, metrics, {m.name: ordered(members, m) for m in metrics}))
        for kind, members in classes.items()
        if metrics and any(v.finished for v in members)
    ]


def latent(results: Results) -> str:
    """What the latents carry; the own-terms KL beside it, since collapse is told from both."""
    metrics = results.measured("latent")
    kl = tuple(m for m in results.measured("own") if m.name == "kl")
    if not metrics:
        return ""
    told = [*_sizes(results), *_saturated(results)]
    return "\n\n".join([ranked(results.started, (*metrics, *kl), results.rankings), *told])


def _sizes(results: Results) -> Iterator[str]:
    """Say why nothing on latents is ranked where latent sizes differ."""
    sizes = [str(size) for size in sorted({v.latent for v in results.started if v.latent})]
    if len(sizes) > 1:
        yield f"Not ranked: variants of {words(sizes)} latents are not comparable in this table."


def _saturated(results: Results) -> Iterator[str]:
    """Where I(x; z) is near ln N, the most that N test images can show."""
    near = [v for v in results.variants if v.saturated]
    if near and (size := near[0].test_images):
        known = sum(v.estimate("mutual_information") is not None for v in results.variants)
        yield (
            f"≥ and ≤: *I(x; z)* is within {SATURATED:g} of ln {size:,.0f} = {math.log(size):.3f} nats, the"
            f" most that so many test images can show, in {len(near)} of {known} variants. It may be larger"
            " there, and KL(q(z) ‖ p(z)) smaller by as much."
        )


def samples(results: Results) -> str:
    """Samples from the prior, between training images and noise in the feature network's eyes."""
    metrics = results.measured("samples")
    bounds = results.baselines.get("samples")
    titles = {
        "floor": "training images",
        "ceiling": "noise: pixels black or white by the pixel mean",
        "grey": "noise: the pixel mean as grey",
    }
    rows = [
        _italic(row.get("name") or titles.get(key, key), row, metrics)
        for key, row in (bounds.items() if isinstance(bounds, Mapping) else ())
        if isinstance(row, Mapping)
    ]
    if not metrics:
        return ""
    return ranked(results.started, metrics, results.rankings, rows)


def machines(results: Results) -> list[tuple[str, ...]]:
    """Every machine that timed a finished run, in order of appearance."""
    return list(dict.fromkeys(run.machine for run in results.finished))


def by_machine(variant: Variant) -> dict[tuple[str, ...], list[Run]]:
    """A variant's finished runs apart by machine: times are never pooled across machines."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in variant.finished:
        groups.setdefault(run.machine, []).append(run)
    return groups


def cost(results: Results) -> str:
    """One row per variant and machine."""
    metrics, known = results.measured("cost"), machines(results)
    where = ["machine"] if len(known) > 1 else []
    rows = [
        [
            name(v),
            *([f"M{known.index(machine) + 1}"] if where else []),
            *(_of_runs(runs, m) for m in metrics),
            str(len(runs)),
        ]
        for v in results.variants
        for machine, runs in by_machine(v).items()
    ]
    return table(["variant", *where, *(header(m) for m in metrics), "n"], rows) if metrics else ""


def speed_spread(results: Results) -> float:
    """The largest ratio of images a second between seeds of one variant on one machine, at least 1."""
    rates = (
        [rate for run in runs if (rate := run.metrics.get("images_per_second"))]
        for variant in results.variants
        for runs in by_machine(variant).values()
    )
    return max((max(of_one) / min(of_one) for of_one in rates if of_one), default=1.0)


def evaluation(results: Results) -> str:
    """Seconds each part of the evaluation took, a run's mean, and its share of the training time."""
    runs = [run for run in results.finished if numbers(run.record.get("evaluation_seconds"))]
    training = sum(run.metrics.get("train_seconds", 0.0) for run in runs)
    parts = dict.fromkeys(key for run in runs for key in numbers(run.record["evaluation_seconds"]))
    totals = {p: sum(numbers(r.record["evaluation_seconds"]).get(p, 0.0) for r in runs) for p in parts}
    totals["all of it"] = sum(totals.values())
    rows = [
        [text(part), plain(total / len(runs), 3), f"{100 * total / training:.1f} %" if training else NOTHING]
        for part, total in totals.items()
        if runs
    ]
    return table(["evaluation", "seconds a run", "share of training"], rows)


def baseline_name(row: Mapping[str, Any]) -> str:
    """A baseline's name with its size, where the name does not say it."""
    title, latent = str(row.get("name", "baseline")), number(row.get("latent"))
    return title if not latent or any(c.isdigit() for c in title) else f"{title}, {plain(latent)} components"


def _of_runs(runs: Sequence[Run], metric: Metric) -> str:
    values = [run.metrics[metric.name] for run in runs if metric.name in run.metrics]
    if not values:
        return NOTHING
    return plain(values[0]) if metric.name in FIXED else spread(estimate(values))


def _timed(results: Results, variant: Variant, metric: str, several: bool) -> str:
    groups = by_machine(variant)
    if not groups:
        return NOTHING
    machine, runs = max(groups.items(), key=lambda group: len(group[1]))
    values = [run.metrics[metric] for run in runs if metric in run.metrics]
    where = f" (M{machines(results).index(machine) + 1})" if several else ""
    return f"{_interval(estimate(values))}{where}" if values else NOTHING


def _italic(title: object, row: Mapping[str, Any], metrics: Sequence[Metric]) -> list[str]:
    values = numbers(row)
    shown = [f"*{plain(values[m.name])}*" if m.name in values else NOTHING for m in metrics]
    return [f"*{text(title)}*", *shown, NOTHING]


def _mean(variant: Variant, metric: str) -> str:
    value = variant.estimate(metric)
    return plain(value.mean) if value else NOTHING


def _lone(value: float | None) -> str:
    return NOTHING if value is None else exact(value, 3)


def _interval(value: Estimate | None) -> str:
    return spread(value) if value else NOTHING
