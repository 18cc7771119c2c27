"""Two states of a report's file held against each other: CSV cell by cell, Markdown line by line.

What stands in the file is `found`; what the records give, made anew with the present code, is `due`. Numbers
are equal as numbers: 1.0 and 1 are the same.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path

from bench.verify.findings import SHOWN, Findings

HALF_WIDTH = 1e-12  # relative: two versions of SciPy may differ in the last digits of Student's quantile
NUMBER = re.compile(r"[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
Row = dict[str, str]


def csv_file(findings: Findings, path: Path, due: bytes, keys: tuple[str, ...]) -> None:
    """Compare a CSV cell by cell, its rows named by the columns `keys`."""
    found = _read(findings, path)
    if found is None:
        return
    (head, found_rows), (due_head, made_rows) = csv_rows(found), csv_rows(due.decode())
    rows, due_rows = _named(found_rows, keys), _named(made_rows, keys)
    for name in dict.fromkeys([*head, *due_head]):
        place = f"{path.name}, column {name}"
        findings.present("columns", place, found=name in head, due=name in due_head)
    for key in dict.fromkeys([*due_rows, *rows]):
        place = f"{path.name}, {key}"
        if not findings.present("rows", place, found=key in rows, due=key in due_rows):
            continue
        row, due_row = rows[key], due_rows[key]
        for name in due_head:
            if name in head:
                agrees = same(row[name], due_row[name], HALF_WIDTH if name.endswith("_half_width") else 0)
                findings.compare(
                    "numbers", agrees, f"{place}, {name}", _cell(row[name]), _cell(due_row[name])
                )
    kept = [key for key in rows if key in due_rows]
    findings.check(
        "files",
        kept == [key for key in due_rows if key in rows],
        f"{path.name}: the rows are in another order",
    )


def markdown_file(findings: Findings, path: Path, due: str) -> None:
    """Compare Markdown line by line, tables cell by cell, prose word by word."""
    found = _read(findings, path)
    if found is None:
        return
    stand, ought = found.split("\n"), due.split("\n")
    for tag, a, b, c, d in SequenceMatcher(None, stand, ought, autojunk=False).get_opcodes():
        if tag == "equal":
            findings.counts["numbers"] += sum(len(NUMBER.findall(line)) for line in stand[a:b])
            continue
        for i, (line, other) in enumerate(zip_longest(stand[a:b], ought[c:d]), start=a):
            place = f"{path.name}:{i + 1}"
            if not line and not other:  # an empty line more or less says nothing
                continue
            if line is None or other is None:
                findings.compare(
                    "lines", False, place, line and line.strip("| "), other and other.strip("| ")
                )
            else:
                for what, x, y in _parts(line, other, _head(ought, c + i - a)):
                    findings.compare("numbers", x == y, f"{place}{what}", x, y)


def same(found: str, due: str, tolerance: float = 0) -> bool:
    """Whether two cells hold the same text, or the same number within a relative tolerance."""
    if found == due:
        return True
    try:
        return math.isclose(float(found), float(due), rel_tol=tolerance, abs_tol=0)
    except ValueError:
        return False


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return line.removeprefix("| ").removesuffix(" |").split(" | ")


def _read(findings: Findings, path: Path) -> str | None:
    """The text of a file that must be there; None, and a finding, where it is not."""
    try:
        found = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        findings.present("files", path.name, found=False, due=True)
        return None
    findings.counts["files"] += 1
    return found


def csv_rows(text: str) -> tuple[list[str], list[Row]]:
    """The head of a CSV and its rows; a column named twice, or beyond the head, gets a name of its own."""
    lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    width = max(map(len, lines), default=0)
    seen: Counter[str] = Counter()
    head = []
    for i in range(width):
        name = lines[0][i] if i < len(lines[0]) else "beyond the head"
        seen[name] += 1
        head.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return head, [dict(zip_longest(head, line, fillvalue="")) for line in lines[1:]]


def _named(rows: Iterable[Row], keys: Sequence[str]) -> dict[str, Row]:
    """Rows by name, such as `variant seed 0`; a second row of a name says so."""
    named: dict[str, Row] = {}
    seen: Counter[str] = Counter()
    for row in rows:
        name = " ".join(row.get(k, "") if i == 0 else f"{k} {row.get(k, '')}" for i, k in enumerate(keys))
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name} (row {seen[name]} of it)"] = row
    return named


def _cell(value: str) -> object:
    """A number as a number, so that it is quoted as one."""
    try:
        return float(value)
    except ValueError:
        return value


def _head(lines: Sequence[str], i: int) -> list[str]:
    """The heads of the table that a line belongs to; nothing outside tables."""
    first = i
    while first >= 0 and lines[first].startswith("| "):
        first -= 1
    return cells(lines[first + 1]) if first < i else []


def _parts(line: str, other: str, head: list[str]) -> Iterator[tuple[str, str, str]]:
    """What differs in two lines: cells of a table by column, else the words: (where in it, found, due)."""
    ours, theirs = cells(line), cells(other)
    if not head or not len(ours) == len(theirs) == len(head):
        yield from _words("", line, other)
        return
    for column, x, y in zip(head, ours, theirs, strict=True):
        place = f", {theirs[0]}, {column}" if column.strip() else ""
        if max(len(x), len(y)) > SHOWN:
            yield from _words(place, x, y)
        elif x != y:
            yield place, x, y


def _words(place: str, found: str, due: str) -> Iterator[tuple[str, str, str]]:
    stand, ought = found.split(" "), due.split(" ")
    for tag, a, b, c, d in SequenceMatcher(None, stand, ought, autojunk=False).get_opcodes():
        if tag != "equal":
            yield place, " ".join(stand[a:b]), " ".join(ought[c:d])
