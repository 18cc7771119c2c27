"""What commands print of a comparison, and how tables are aligned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from bench.errors import printable
from bench.report.cells import NOTHING
from bench.report.compare import TITLES, Comparison
from bench.report.effects import EffectRow, signed
from bench.report.results import Variant
from bench.report.tables import ARROWS, cell, finished


def comparison_lines(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """List comparisons as tables of text, then say what their numbers are."""
    for pair in comparisons:
        yield f"A  {_variant(pair.a)}"
        yield f"B  {_variant(pair.b)}"
        yield f"They differ in {'; '.join(map(printable, pair.changes)) or 'no setting'}."
        yield from map(printable, pair.notes)
        yield ""
        yield from aligned(_rows(pair))
        yield ""
    family = sum(row.tested for pair in comparisons for row in pair.rows)
    yield "A, B: mean with 95 % interval over seeds. ×: the ratio A/B, odds ×: the odds ratio."
    yield f"Better: at 5 %, with Holm's correction for the {family} that are judged here."


def comparison_json(comparisons: Sequence[Comparison], gate: str | None, state: str, why: str) -> str:
    """Write comparisons as JSON: each with its rows, in full precision."""

    def row(one: EffectRow, margin: float) -> dict[str, object]:
        d, size, metric = one.effect, one.effect.size, one.metric
        kind = {"linear": "difference", "log": "ratio", "logit": "odds ratio"}[metric.scale]
        told: dict[str, object] = {"metric": metric.name, "unit": metric.unit, "verdict": one.verdict(margin)}
        if not d.n:
            return told
        return told | {
            kind: size.mean,
            "low": size.low,
            "high": size.high,
            "n": d.n,
            "p": d.p,
            "test": d.test,
        }

    pairs = [
        {
            "a": pair.a.name, "b": pair.b.name, "changes": pair.changes,
            "rows": [row(one, pair.margin) for one in pair.rows],
        }
        for pair in comparisons
    ]  # fmt: skip
    judged = {"gate": {"rule": gate, "state": state, "why": why}} if gate else {}
    return json.dumps({"comparisons": pairs, **judged}, indent=1, ensure_ascii=False)


def _rows(pair: Comparison) -> Iterator[list[str]]:
    yield ["", "A", "B", "A − B", "n", ""]
    footing = ""
    for row in pair.rows:
        metric, d = row.metric, row.effect
        if metric.footing != footing:
            footing = metric.footing
            yield [TITLES[footing]]
        unit = f" ({metric.unit})" if metric.unit else ""
        name = f"  {metric.title}{ARROWS[metric.direction]}{unit}"
        values = [str(cell(v, metric).text) for v in (pair.a, pair.b)]
        size = [signed(d), str(d.n)] if d.n else [NOTHING, NOTHING]
        yield [name, *values, *size, row.verdict(pair.margin)]


def _variant(variant: Variant) -> str:
    return f"{printable(variant.name)}, {finished(variant)} finished"


def aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Align rows as lines of a table: the first column and the last flush left, numbers between them right.

    A row of one cell is a heading.
    """
    table = [list(row) for row in rows]
    full = [row for row in table if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    for row in table:
        first, *numbers = row
        last = numbers.pop() if numbers else ""
        cells = [first.ljust(widths[0])] if numbers else [first]
        cells += [value.rjust(width) for value, width in zip(numbers, widths[1:-1], strict=False)]
        yield "  ".join([*cells, last]).rstrip()
