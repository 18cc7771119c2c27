"""What `bench run` says at its end: what became of the runs, which variant is best, where to look."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from bench.cli.printing import aligned
from bench.errors import printable
from bench.evaluation.metrics import Metric
from bench.report.inference import Ranking
from bench.report.results import Results, Variant, best_first, load
from bench.report.tables import ARROWS, cell, finished
from bench.store.shapes import STATUSES

if TYPE_CHECKING:
    from bench.runs.matrix import Matrix

WIDEST = 100  # columns that a log or a wide terminal is given
MOST_ROWS = 12  # the rest is in the report


def print_end(matrix: Matrix) -> int:
    """Print what became of the runs and where to look; returns the exit code.

    That is 1 where a run failed or diverged, 4 where a budget left runs, 0 where all finished.
    """
    plan = matrix.plan
    states = [state for run in plan.todo if (state := matrix.outcomes.get(run.id))]  # two names count once
    for warning in (*plan.warnings, *matrix.faults):
        print(f"*** {printable(warning)} ***", file=sys.stderr)
    if matrix.stopped:
        print(f"stopped by --fail-fast: {printable(matrix.stopped)}", file=sys.stderr)
    skipped = len({planned.key for planned in plan.runs}) - len(plan.todo)
    told = [f"{states.count(s)} {s}" for s in STATUSES if s in states]
    results = load(plan.folder)
    console = Console(highlight=False, soft_wrap=True)
    width = min(console.width, WIDEST) if console.is_terminal else WIDEST
    for row in table(results, width):
        console.print(row)
    console.print()
    ends = {
        "runs": ", ".join([*told, f"{skipped} skipped"] if skipped else told or ["nothing to do"]),
        **({"budget": left(matrix)} if matrix.budget else {}),
        **best(results),
        "report": str(plan.folder / "report.md"),
        "MLflow": f"{matrix.tracker.page} (start it with: bench ui)",
    }
    for title, line in ends.items():
        console.print(labelled(title, line, width))
    if any(state in ("failed", "diverged") for state in states):
        return 1
    return 4 if matrix.left else int(any(state != "finished" for state in states))


def left(matrix: Matrix) -> str:
    """Say what a budget left, and what does it."""
    hours = matrix.plan.request.hours or 0.0
    if not matrix.left:
        return f"{hours:g} h: everything is done"
    why = "another round of seeds would not have fitted"
    if not (matrix.budget and matrix.budget.refused):
        why = "it was over before a round of seeds was"
    runs = f"{matrix.left} run{'s' * (matrix.left > 1)} left"
    return f"{hours:g} h: {runs}, as {why}; the same command goes on with them"


def table(results: Results, width: int) -> Iterator[Text]:
    """Lines of the best variants by ln p(x), or what else compares all, with as many metrics as fit."""
    variants = [variant for variant in results.variants if variant.finished]
    metrics = ranked_by(results, "common", "samples")
    if not variants or not metrics:
        return
    ordered = best_first(variants, metrics[0])
    shown: list[Metric] = []
    lines: list[str] = []
    for metric in metrics:
        rows = [*aligned(_rows(results, ordered[:MOST_ROWS], [*shown, metric]))]
        if not shown or max(map(len, rows)) <= width:
            shown, lines = [*shown, metric], rows
    head, *rest = lines
    yield Text(head, style="bold")
    yield from (Text(line) for line in rest)
    if len(ordered) > MOST_ROWS:
        yield Text(f"… and {len(ordered) - MOST_ROWS} more, in the report")
    if any("†" in line for line in rest):
        yield Text("†: not distinguishable from the best of its column")


def _rows(results: Results, variants: list[Variant], metrics: list[Metric]) -> Iterator[list[str]]:
    yield [
        printable(results.dataset),
        *(f"{metric.title}{ARROWS[metric.direction]}" for metric in metrics),
        "finished",
    ]
    for variant in variants:
        cells = (cell(variant, metric, results.rankings.get(metric.name)) for metric in metrics)
        yield [printable(variant.name), *(f"{shown.text}{shown.mark}" for shown in cells), finished(variant)]


def ranked_by(results: Results, *footings: str) -> list[Metric]:
    """Metrics of these footings; first the one by which the report says which fits best."""
    return sorted(results.measured(*footings), key=lambda metric: metric != results.fit)


def best(results: Results) -> dict[str, str]:
    """Say which variant is best by what the report answers by, as sure as its ranking is."""
    metric = next((m for m in ranked_by(results, "common") if results.rankings[m.name].leader), None)
    if metric is None:
        return {}
    return {"best": verdict(results.rankings[metric.name], metric)}


def verdict(order: Ranking, metric: Metric) -> str:
    """Say who leads a column, and how far that is told apart from the others."""
    leader = printable(order.leader or "")
    mean = f"{leader}: best mean by {metric.title}"
    if order.best is None:
        return f"{mean}, not told apart yet ({order.advice})"
    if order.ties:
        rest = len(order.ties) - 1
        return (
            f"{mean}, not distinguishable from {printable(order.ties[0])}{f' and {rest} more' * bool(rest)}"
        )
    if not order.beaten:
        return f"{mean}; the others have too few seeds to test"
    return f"{leader}: {'provisionally ' * order.provisional}better than every other by {metric.title}"


def labelled(title: str, line: str, width: int) -> Text:
    """Put a line beside its label, wrapped at spaces; an address or a path stays whole."""
    wrapped = textwrap.wrap(line, width - 8, break_long_words=False, break_on_hyphens=False)
    return Text.assemble(
        (f"{title:8}", "dim"), ("\n        ".join(wrapped), "bold" if title == "best" else "")
    )
