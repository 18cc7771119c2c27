"""Compare the files of a report with those made again from the records.

What stands in a file is `found`; what the records give with the present code is `due`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from collections import Counter
from collections.abc import Mapping
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path
from urllib.parse import unquote

from bench.report.contact import is_sheet
from bench.report.copies import COPIES, pictures
from bench.store.experiments import BASELINES, SPEC, ExperimentFolder
from bench.store.files import PICTURE, is_own, picture, read_regular
from bench.store.joined import JOINED
from bench.store.records import MOST, Record, digest
from bench.verify.findings import Findings

INPUTS = {SPEC, BASELINES, JOINED}
OPTIONAL = {"report.html": "html", "tables.tex": "latex"}  # made again where they are, as `write_report` says
EMBEDDED = re.compile(r"data:image/[^\"]*")  # drawn again they may have other bytes
KEYS = ("variant", "seed", "metric", "epoch")  # the columns that name a row
LONG = 20_000  # characters of a line that is compared word by word
INTERVAL = 1e-12  # relative: two versions of SciPy may differ in the last digits of Student's quantile
NUMBER = re.compile(r"[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
LINK = re.compile(r"!\[[^\]]*\]\((figures/[^)]*)\)")


def bring_pictures(folder: Path, again: Path) -> None:
    """Copy what a report may rest on besides records: copies of runs' pictures, and contact sheets."""
    sheets = filter(is_sheet, (folder / "figures").glob("*.png"))
    for path in (*(folder / COPIES).glob("*.*"), *sheets):
        target, under = again / path.relative_to(folder), len(path.relative_to(folder).parts)
        with contextlib.suppress(OSError):  # what cannot be read is missed where it is due
            content = read_regular(path, PICTURE, under=under)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def check_files(findings: Findings, home: ExperimentFolder, again: Path, found: Mapping[str, Record]) -> None:
    """Compare CSV by cell, text by line, copies of runs' pictures by the SHA-256 in the records.

    What is drawn depends on the versions of fonts and of Matplotlib: such a figure has to be there and whole.
    Where its bytes are others, that is told, but is no difference.
    """
    recorded = {
        each.copy: (record.get("artifacts") or {}).get(each.listed)
        for run_id, record in found.items()
        for each in pictures(home.path, run_id, record)
    }
    redrawn = []
    linked: set[str] = set()
    with contextlib.suppress(OSError):  # told below
        linked = {unquote(link) for link in LINK.findall(_text(home.path / "report.md", MOST))}
    there = {f"figures/{name}" for name in _under(home.path / "figures")}
    due = (_under(again) - INPUTS) | (linked - there)
    for name in sorted(there | due):
        ours, theirs = home.path / name, again / name
        parts = len(Path(name).parts)
        own = is_own(ours, under=parts)
        if not findings.present("files", name, found=own, due=name in due):
            continue
        if sha256 := recorded.get(name):
            findings.compare("pictures", f"{name}, sha256", digest_of(ours, parts), sha256)
        elif name in there:
            whole = findings.check("pictures", _whole(ours), f"{name}: damaged, it cannot be read")
            same = whole and read_regular(ours, PICTURE, under=parts) == theirs.read_bytes()
            redrawn += [] if same else [name]
        else:
            _texts(findings, name, ours, theirs)
    if redrawn:
        findings.unchecked.append(
            f"what {', '.join(redrawn)} show: they are whole, but drawn again they have other bytes"
            " (fonts, Matplotlib or bench changed, or what they show)"
        )


def _under(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if is_own(path) and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix() for path in files}


def digest_of(path: Path, under: int) -> str:
    """Give a file's SHA-256, or say why it has none."""
    try:
        return digest(path, under=under)
    except OSError as error:
        return str(error.strerror)


def _texts(findings: Findings, name: str, ours: Path, theirs: Path) -> None:
    """Compare a CSV or a text with what is due; one that is many times as long is not gone through."""
    due = _text(theirs, MOST)
    try:
        found = _text(ours, 4 * theirs.stat().st_size + 1_000_000)
        if ours.suffix == ".csv":
            _csv(findings, name, found, due)
            return
    except (OSError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        findings.check("files", False, f"{name}: cannot be read: {why}")
        return
    if ours.suffix == ".html":  # the pictures in it are checked as files
        found, due = (EMBEDDED.sub("", text) for text in (found, due))
    else:
        findings.counts["numbers"] += len(NUMBER.findall(found))
    _lines(findings, name, found, due)


def _text(path: Path, most: int) -> str:
    return read_regular(path, most).decode("utf-8", errors="replace")


def _csv(findings: Findings, name: str, found: str, due: str) -> None:
    """Compare a CSV cell by cell. Numbers are equal as numbers: 1.0 and 1 are the same."""
    (head, rows), (due_head, due_rows) = _rows(found), _rows(due)
    for column in dict.fromkeys([*head, *due_head]):
        place = f"{name}, column {column}"
        findings.present("columns", place, found=column in head, due=column in due_head)
    for key in dict.fromkeys([*due_rows, *rows]):
        place = f"{name}, {key}"
        if findings.present("rows", place, found=key in rows, due=key in due_rows):
            for column in (column for column in due_head if column in head):
                cell, right = rows[key][column], due_rows[key][column]
                cell = right if _same(column, cell, right) else cell
                findings.compare("numbers", f"{place}, {column}", cell, right)
    if rows.keys() == due_rows.keys():
        findings.check("rows", [*rows] == [*due_rows], f"{name}: the rows are in another order")


def _rows(text: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Read the head of a CSV, and its rows by name, such as `plain, seed 0`."""
    head, *lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line] or [[]]
    width = max(map(len, lines), default=0)
    head += [f"{i + 1}, beyond the head" for i in range(len(head), width)]
    rows: dict[str, dict[str, str]] = {}
    seen = Counter[str]()
    for line in lines:
        row = dict(zip_longest(head, line, fillvalue=""))
        name = ", ".join(row[key] if key == KEYS[0] else f"{key} {row[key]}" for key in KEYS if key in row)
        again = {0: "", 1: " again"}.get(seen[name], f" again ({seen[name]})")
        rows[name + again] = row
        seen[name] += 1
    return head, rows


def _same(column: str, found: str, due: str) -> bool:
    """Check whether two cells hold the same text or number; means and intervals up to INTERVAL."""
    tolerance = INTERVAL if column.endswith(("_mean", "_low", "_high", "_half_width")) else 0
    try:
        return found == due or math.isclose(float(found), float(due), rel_tol=tolerance, abs_tol=0)
    except ValueError:
        return False


def _lines(findings: Findings, name: str, found: str, due: str) -> None:
    """Compare text line by line, and lines of Markdown tables cell by cell."""
    ours, theirs = found.split("\n"), due.split("\n")
    if len(ours) > 2 * len(theirs) + 100:  # comparing costs the product
        findings.compare("numbers", f"{name}, lines", len(ours), len(theirs))
        return
    for tag, a, b, c, d in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for i, (line, other) in enumerate(zip_longest(ours[a:b], theirs[c:d], fillvalue="")):
            place, cells, right = f"{name}:{a + i + 1}", _cells(line), _cells(other)
            head = _head(theirs, c + i) if len(cells) == len(right) > 1 else []
            if head and len(head) == len(right):
                for column, x, y in zip(head, cells, right, strict=True):
                    findings.compare("numbers", f"{place}, {right[0]}, {column}", *_changed(x, y))
            else:
                findings.compare("numbers", place, *_changed(line, other))


def _cells(line: str) -> list[str]:
    """Split a line of a Markdown table into cells; any other line is none."""
    return line.removeprefix("| ").removesuffix(" |").split(" | ") if line.startswith("| ") else []


def _head(lines: list[str], i: int) -> list[str]:
    """Find the heads of the table that a line belongs to."""
    while i and lines[i - 1].startswith("| "):
        i -= 1
    return _cells(lines[i])


def _changed(found: str, due: str) -> tuple[str, str]:
    """Leave out the words that two texts begin and end with alike."""
    if found == due or len(found) > LONG:
        return found, due
    ours, theirs = found.split(" "), due.split(" ")
    codes = SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes()
    changes = [code for code in codes if code[0] != "equal"]
    (_, a, _, c, _), (_, _, b, _, d) = changes[0], changes[-1]
    return " ".join(ours[a:b]), " ".join(theirs[c:d])


def _whole(path: Path) -> bool:
    """Check whether a picture's pixels can be read."""
    try:
        with picture(path) as opened:
            opened.load()
    except Exception:  # Pillow raises what its decoders do: SyntaxError, OSError, struct.error and more
        return False
    return True
