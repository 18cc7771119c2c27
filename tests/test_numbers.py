"""Every measured number in README.md and docs/findings.md stands in the committed reports' data.

A section that gives numbers links to the reports that they come from. A number is held against the rows of
the variants that its row of a table, or its paragraph, names in backticks; where it names none, against every
row of the section's reports. Differences between two named variants count, by seed with their interval, and
so do published numbers, baselines, and by how much a variant's printed loss is not its negative ELBO. A table
under a comment that says from which report it is copied stands there as it is. What a report answers over
many variants at once, a statement may repeat that links to the answer.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import pytest

from bench.evaluation.metrics import METRICS
from bench.report.statistics import average

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "findings.md"]
REPORT = re.compile(r"\(((?:\.\./)?reports/[\w./-]+)/report\.md")
NUMBER = re.compile(r"(?<![\w.,/-])([−+]?)(\d[\d,]*\.\d+|\d{1,3}(?:,\d{3})+)(?![\w-]|\.\d)( ?%)?")
COPIED = re.compile(r"<!-- copied from (\S+) -->\n+((?:\|.*\n)+)")
# Not measured: settings, what follows from them alone (βσ² in grey levels), and sizes of things
SETTINGS = {
    "0.0204",
    "0.0019",
    "0.0475",
    "0.1",
    "0.05",
    "0.5",
    "0.01",
    "0.02",
    "4.9",
    "0.0408",
    "3.11",
    "60,000",
    "10,000",
}

Row = dict[str, str]


@lru_cache
def rows_of(report: Path) -> dict[str, list[Row]]:
    """The rows of a report's CSVs by variant."""
    found: dict[str, list[Row]] = {}
    for name in ("summary.csv", "results.csv", "published.csv"):
        if (report / name).exists():
            with (report / name).open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    for key in [key for key in row if key.endswith("_high") and row[key]]:
                        low = row[f"{key.removesuffix('_high')}_low"]
                        row[f"{key}_half_width"] = str((float(row[key]) - float(low)) / 2)
                    found.setdefault(row["variant"], []).append(row)
    if (report / "baselines.json").exists():
        content = json.loads((report / "baselines.json").read_text(encoding="utf-8"))
        noise = {"name": "noise", **content["samples"]["ceiling"]}
        for row in (*content["rows"], noise):
            found[row["name"]] = [{key: str(value) for key, value in row.items()}]
    return found


def by_seed(rows: list[Row], column: str) -> Mapping[int, float]:
    """A column of a variant's finished runs, by seed."""
    of_runs = [row for row in rows if row.get("status") == "finished" and row.get(column)]
    return {int(row["seed"]): float(row[column]) for row in of_runs}


def differences(rows: list[list[Row]]) -> Iterator[float]:
    """Sizes and intervals: of a variant's loss less its −ELBO, of two variants' metrics by either test."""
    pairs = [(by_seed(own, "elbo"), by_seed(own, "test_loss_nats")) for own in rows]
    negative = [(loss, {seed: -bound for seed, bound in elbo.items()}) for elbo, loss in pairs]
    found = [average([pair], "linear", twins=True) for pair in negative]
    for a, b in itertools.permutations(rows, 2) if len(rows) <= 4 else ():
        for metric in METRICS:
            pair = (by_seed(a, metric.name), by_seed(b, metric.name))
            found += [average([pair], metric.scale, twins=twins) for twins in (False, True)]
    for one in found:
        if one is not None and one.error is not None:
            size = one.size
            yield from (abs(size.mean), size.low or 0.0, size.high or 0.0, size.bars[1])


def values(rows: list[Row]) -> dict[str, list[float]]:
    """The numbers of some rows by column."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for column, cell in row.items():
            try:
                number = float(cell)
            except (TypeError, ValueError):
                continue
            if math.isfinite(number):
                found.setdefault(column, []).append(number)
    return found


def sections(text: str) -> Iterator[str]:
    """A page by heading, without its code."""
    yield from re.split(r"^#+ ", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)


def statements(section: str) -> Iterator[str]:
    """Rows of tables, items of lists and paragraphs."""
    for block in re.split(r"\n\s*\n", section):
        yield from re.split(r"\n(?=\||\* |- |\d\. )", block)


def stands(shown: str, sign: str, percent: bool, rows: list[list[Row]]) -> bool:
    """Whether a number as shown is some value, or a difference, rounded."""
    pool = [values(of_one) for of_one in rows]
    digits = len(shown.partition(".")[2])
    wanted = float(shown.replace(",", "")) / (100 if percent else 1)
    allowed = 0.5000001 * 10**-digits / (100 if percent else 1)
    single = (v for columns in pool for found in columns.values() for v in found)
    pairs = (
        abs(a - b)
        for one, other in itertools.combinations(pool, 2)
        for column in one.keys() & other.keys()
        if column.endswith("_mean")
        for a, b in itertools.product(one[column], other[column])
    )
    if any(abs(abs(v) - wanted) <= allowed and (sign != "−" or v < 0 or percent) for v in single):
        return True
    if any(abs(v - wanted) <= allowed for v in differences(rows)):
        return True
    return len(pool) <= 4 and any(abs(v - wanted) <= allowed for v in pairs)


def answered(page: Path, statement: str) -> str:
    """The answers of the reports that a statement links to there."""
    links = re.findall(r"\(([^()\s]+)/report\.md#answer\)", statement)
    texts = [(page.parent / link / "report.md").read_text(encoding="utf-8") for link in links]
    return "".join(text.partition("## Answer")[2].partition("\n## ")[0] for text in texts)


def unsupported(page: Path) -> Iterator[str]:
    """Numbers of a page that stand in no report which their section links to, each with its statement."""
    for section in sections(COPIED.sub("", page.read_text(encoding="utf-8"))):
        reports = {(page.parent / found).resolve() for found in REPORT.findall(section)}
        if not reports:
            continue
        rows: dict[str, list[Row]] = {}
        for report in sorted(reports):
            assert (report / "summary.csv").exists(), f"{page.name} links to {report}, which is not there"
            for name, found in rows_of(report).items():
                rows.setdefault(name, []).extend(found)
        for statement in statements(section):
            words = re.sub(r"\]\([^)]*\)", "]", statement)
            named = [name for name in rows if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", words)]
            pool = [rows[name] for name in named or rows]
            answer = answered(page, statement)
            for sign, shown, percent in NUMBER.findall(re.sub(r"`[^`]*`", "", words)):
                repeated = re.search(rf"(?<![\d.,]){re.escape(shown)}(?!\d|[.,]\d)", answer)
                if shown not in SETTINGS and not repeated and not stands(shown, sign, bool(percent), pool):
                    yield f"{sign}{shown}{percent} in: {' '.join(words.split())[:160]}"


def altered(page: Path) -> Iterator[str]:
    """The headers of copied tables that do not stand in their report as they are."""
    for report, table in COPIED.findall(page.read_text(encoding="utf-8")):
        if table not in (page.parent / report).read_text(encoding="utf-8"):
            yield f"{report}: {table.splitlines()[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_copied_table_is_the_reports(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- copied from") == len(COPIED.findall(text))
    assert not [*altered(page)]


def test_a_copied_table_that_differs_is_told(tmp_path: Path) -> None:
    table = "| a | b |\n| :-- | --: |\n| x | 1.5 |\n"
    (tmp_path / "report.md").write_text(f"# R\n\n{table}\nmore\n")
    page = tmp_path / "page.md"
    page.write_text(f"<!-- copied from report.md -->\n\n{table}")
    assert not [*altered(page)]
    for other in (
        table.replace("1.5", "1.6"),
        table.replace("| x |", "| y |"),
        table.replace("| b |", "| c |"),
    ):
        page.write_text(f"<!-- copied from report.md -->\n\n{other}")
        assert len([*altered(page)]) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_number_stands_in_a_committed_report(page: Path) -> None:
    assert not [*unsupported(page)]


def test_numbers_are_found_and_held_to_the_rows_of_their_variants(tmp_path: Path) -> None:
    """A page with right numbers passes; each wrong one is named."""
    (tmp_path / "reports/mnist/a").mkdir(parents=True)
    table = "variant,elbo_mean,mse_mean\nx,-100.26,0.0512\ny,-98.1,0.04\n"
    (tmp_path / "reports/mnist/a/summary.csv").write_text(table)
    (tmp_path / "reports/mnist/a/report.md").write_text(
        "## Answer\n\nBy 7.25 ± 0.5 nats.\n\n## Results\n\n8.25\n"
    )
    page = tmp_path / "page.md"
    link, answer = (f"[there](reports/mnist/a/report.md{anchor})" for anchor in ("", "#answer"))
    for right in (
        f"# A\n`x` has −100.3, {link}, and `y` −98.10: 2.16 more.\n\n| x | −100.26 | 0.051 |\n",
        f"# A\nAhead by 7.25, {answer}.",
        "# A\nNo report is linked: 3.14 may be anything.\n",
    ):
        page.write_text(right)
        assert not [*unsupported(page)], right
    for wrong in (
        f"# A\n`x` has −98.1, {link}",
        f"# A\n{link}\n\n| y | −100.3 |",
        f"# A\n100.4 {link}",
        f"# A\nAhead by 8.25, {answer}.",
        f"# A\nAhead by 7.2, {answer}.",
        f"# A\n7.25, {link}\n",
    ):
        page.write_text(wrong)
        assert len([*unsupported(page)]) == 1, wrong
