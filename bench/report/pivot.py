"""The matrix as it was asked for: a table for each metric, one axis down and the others across."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from bench.evaluation.metrics import Metric
from bench.report.cells import NOTHING, table, text, words
from bench.report.contrasts import axes
from bench.report.inference import Ranking
from bench.report.results import Results, Variant
from bench.report.tables import cell, header, legend

SIGNS = {"beta": "β", "latent": "Z"}
SAMPLES = "frechet_distance"  # the one number of the samples; the others stand in their own table


def pivot(results: Results) -> str:
    """A table for each metric that compares across the matrix; empty where fewer than two axes vary."""
    varied = axes(results.variants)
    variants = [v for v in results.started if all(axis in v.axes for axis in varied)]
    if len(varied) < 2 or not variants:
        return ""
    down = max(varied, key=lambda axis: len({v.axes[axis] for v in variants}))
    across = [axis for axis in varied if axis != down]
    metrics = [m for m in (*results.measured("common"), *results.measured("samples")) if _shown(m)]
    orders = [results.rankings[metric.name] for metric in metrics]
    shown = [
        f"### {header(metric)}\n\n{_table(variants, metric, order, down, across)}"
        for metric, order in zip(metrics, orders, strict=True)
    ]
    lost = [text(v.title) for v in variants if v.lost]
    notes = legend(orders)
    notes += ["The marks are those of all variants of this report, as in the tables below."] if notes else []
    notes += [f"Not ranked, as seeds were lost: {words(lost)}."] if lost else []
    return "\n\n".join([*shown, *(["  \n".join(notes)] if notes else [])])


def _shown(metric: Metric) -> bool:
    return metric.footing == "common" or metric.name == SAMPLES


def _table(
    variants: Sequence[Variant], metric: Metric, order: Ranking, down: str, across: Sequence[str]
) -> str:
    """One metric, marked as in the table of all variants."""
    places = {(v.axes[down], *(v.axes[axis] for axis in across)): v for v in variants}
    values = itertools.product(*(dict.fromkeys(v.axes[axis] for v in variants) for axis in across))
    columns = [column for column in values if any(place[1:] == column for place in places)]
    rows = [
        [
            _value(down, level),
            *(cell(v, metric, order) if (v := places.get((level, *c))) else NOTHING for c in columns),
        ]
        for level in dict.fromkeys(v.axes[down] for v in variants)
    ]
    return table([text(down), *(", ".join(map(_value, across, column)) for column in columns)], rows)


def _value(axis: str, value: str) -> str:
    """A value as a heading: a lone number says of what."""
    return f"{SIGNS.get(axis, text(axis))} = {text(value)}" if value[:1].isdigit() else text(value)
