"""Where the better of two settings turns with the value of a further axis, which an average would hide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.evaluation.metrics import Metric
from bench.report.cells import code, text, words
from bench.report.claims import difference_text
from bench.report.contrasts import Levels, contrast, levels, significant, winner
from bench.report.results import Variant
from bench.report.statistics import Difference


def depends(variants: Sequence[Variant], axis: str, others: Iterable[str], metrics: Sequence[Metric]) -> str:
    """In words, for an axis of two values: each metric whose winner turns significantly, and with which axis.

    Paired by seed, at equal settings of all else; Holm over all metrics and values of the further axis. Empty
    where nothing turns.
    """
    by_level = levels(variants, axis)
    if len(by_level) != 2:
        return ""
    told = [turns for other in others if other != axis and (turns := _turns(by_level, other, metrics))]
    return " ".join(told)


def _turns(by_level: Levels, other: str, metrics: Sequence[Metric]) -> str:
    a, b = by_level
    values = dict.fromkeys(dict(rest)[other] for cells in by_level.values() for rest in cells)  # type: ignore[call-overload]
    found: dict[tuple[str, str], Difference | None] = {}
    for metric in metrics:
        for value in values:
            c = contrast(_at(by_level, other, value), metric.name)
            found[metric.name, value] = c.difference(a, b) if c else None
    sure = dict(zip(found, significant(list(found.values())), strict=True))
    clauses = []
    for metric in metrics:
        ahead: dict[str, list[str]] = {a: [], b: []}
        for value in values:
            d = found[metric.name, value]
            if d is not None and sure[metric.name, value]:
                by = difference_text(d, metric, absolute=True)
                ahead[winner(d, metric.direction, a, b)].append(f"at {code(value)} by {by}")
        if all(ahead.values()):
            sides = [f"{code(level)} is better {words(places)}" for level, places in ahead.items()]
            clauses.append(f"on *{text(metric.title)}* {', '.join(sides)}")
    return f"It depends on {code(other)}: {'; '.join(clauses)}." if clauses else ""


def _at(by_level: Levels, other: str, value: str) -> Levels:
    """The settings in which another axis has this value."""
    return {
        level: {rest: v for rest, v in cells.items() if dict(rest)[other] == value}  # type: ignore[call-overload]
        for level, cells in by_level.items()
    }
