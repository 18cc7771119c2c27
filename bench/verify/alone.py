"""A report whose records are elsewhere: summary.csv and the tables of report.md against results.csv."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.report import tables
from bench.report.cells import NOTHING
from bench.report.export import COMPUTE, summary_csv
from bench.report.results import TIMING, Results, Run, Variant
from bench.verify.compare import Row, cells, csv_file, csv_rows
from bench.verify.findings import Findings
from bench.verify.pictures import check_pictures

OPEN = (
    "the records, which are not here: no artifact, no identity and no law was checked. Held against"
    " results.csv are summary.csv and the tables of measured values in report.md; against nothing its"
    " sentences, baselines, MC errors, published values, evaluation times, protocol, and what pictures show"
)
TIMES = (
    "the times in report.md: results.csv does not tell all that sets machines apart; run `bench report` again"
)
MC = re.compile(r" \(MC [^)]*\)")  # an estimator's own error: only records hold it
COLLAPSED = re.compile(r" \(collapsed \d+/\d+\)$")
Shown = dict[str, str]  # a row of a table: head -> cell


def check_alone(findings: Findings, folder: Path) -> None:
    """Check what a published report can be held to by itself, and say what it cannot."""
    findings.unchecked.append(OPEN)
    findings.source = "results.csv gives"
    head, rows = csv_rows(_read(folder / "results.csv"))
    sizes = {row.get("variant"): row.get("latent") for row in csv_rows(_read(folder / "summary.csv"))[1]}
    lines = _read(folder / "report.md").split("\n")
    labels, names = _labels(lines), list(dict.fromkeys(row.get("variant", "") for row in rows))
    variants = []
    for i, name in enumerate(names):
        label = labels[i] if len(labels) == len(names) else name
        own = [row for row in rows if row.get("variant") == name]
        variants.append(Variant(name, _settings(label, sizes.get(name), own), tuple(_runs(head, own))))
    results = Results(folder, {}, tuple(variants), {})
    csv_file(findings, folder / "summary.csv", summary_csv(results), ("variant",))
    told = f"report.md, Results: {len(labels)} variants, results.csv has {len(names)}"
    if findings.check("rows", len(labels) == len(names), told):
        timed = set(TIMING) - {"precision"} | {COMPUTE} <= set(head)
        if not timed:
            findings.unchecked.append(TIMES)
        _tables(findings, results, lines, timed=timed)
    check_pictures(findings, folder, None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _labels(lines: Sequence[str]) -> list[str]:
    """The variants as the report calls them, in the order of the experiment, from its first full table."""
    start = lines.index("## Results") if "## Results" in lines else len(lines)
    first = next((rows for _, rows in _shown(lines[start:])), [])
    labels = (COLLAPSED.sub("", next(iter(row.values()))) for _, row in first)
    return [html.unescape(re.sub(r"\\([\\`*_\[\]|~$])", r"\1", label)) for label in labels]


def _settings(label: str, latent: str | None, rows: Sequence[Row]) -> dict[str, Any]:
    beta = _number(rows[0].get("beta", ""))
    size = _number(latent or "")
    return {
        "label": label,
        "latent": None if size is None else int(size),
        "objective": {"options": {"beta": beta}},
    }


def _runs(head: Sequence[str], rows: Sequence[Row]) -> Iterator[Run]:
    """The runs as far as results.csv tells of them."""
    first = head.index("beta_eff") + 1 if "beta_eff" in head else len(head)
    metrics = head[first : head.index("device") if "device" in head else len(head)]
    for row in rows:
        environment = {key: row.get(COMPUTE if key == "precision" else key) or None for key in TIMING}
        record = {
            "metrics": {name: value for name in metrics if (value := _number(row[name])) is not None},
            "beta_eff": _number(row.get("beta_eff", "")),
            "likelihood_class": row.get("likelihood_class") or None,
            "environment": environment,
        }
        seed = int(_number(row.get("seed", "")) or 0)
        yield Run(row.get("id", ""), row["variant"], seed, row.get("status", ""), record)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _tables(findings: Findings, results: Results, lines: Sequence[str], *, timed: bool) -> None:
    """Every table of measured values in report.md, cell by cell."""
    made = [tables.headline(results), tables.one_footing(results), tables.latent(results)]
    made += [tables.samples(results), *(shown for _, shown in tables.own_terms(results))]
    made += [tables.cost(results)] if timed else []
    due: dict[tuple[str, ...], list[Shown]] = {}
    for _, rows in _shown("\n\n".join(made).split("\n")):
        for _, row in rows:
            due.setdefault(tuple(row), []).append(row)
    found: dict[tuple[str, ...], list[tuple[int, Shown]]] = {}
    for _, rows in _shown(lines):
        for place, row in rows:
            if not next(iter(row.values())).startswith("*"):  # baselines stand in italics
                found.setdefault(tuple(row), []).append((place, row))
    for heads, wanted in due.items():
        there = found.get(heads, [])
        told = (
            f"report.md: {len(there)} rows in tables of {', '.join(heads)}; results.csv gives {len(wanted)}"
        )
        if findings.check("rows", len(there) == len(wanted), told):
            for (place, row), right in zip(there, wanted, strict=True):
                _row(findings, f"report.md:{place}", row, right, timed=timed)


def _row(findings: Findings, place: str, row: Shown, due: Shown, *, timed: bool) -> None:
    for column, value in due.items():
        unknown = column == "β" or (column == "likelihood" and value == NOTHING)  # as the YAML writes them
        if not unknown and (timed or column not in ("training (s)", "images/s")):
            cell = MC.sub("", row[column])
            findings.compare(
                "numbers", cell == value, f"{place}, {next(iter(due.values()))}, {column}", cell, value
            )


def _shown(lines: Sequence[str]) -> Iterator[tuple[list[str], list[tuple[int, Shown]]]]:
    """The Markdown tables: heads, and (line number, row) of each row that is as wide as they are."""
    i = 0
    while i < len(lines):
        if not lines[i].startswith("| "):
            i += 1
            continue
        heads, rows, i = cells(lines[i]), [], i + 2
        while i < len(lines) and lines[i].startswith("| "):
            if len(row := cells(lines[i])) == len(heads):
                rows.append((i + 1, dict(zip(heads, row, strict=True))))
            i += 1
        yield heads, rows
