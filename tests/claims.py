"""What the numbers of a text say they are, and whether the reports' data bear them out.

A comment after a sentence says of each of its numbers, in order, which it is; no reader sees it on the page:

    `a` has an ELBO of −100.3 ± 0.2. <!-- all: a elbo_bernoulli -->

    all: a mse                    variant and metric: mean over seeds and interval, as in all/summary.csv
    all: a s0 mse                 of one seed
    all: a − b elbo               difference, or `all: a / b mse` ratio, by the report's own test;
                                  with a `*` in both names the average over all settings that it stands for
    rate: x − y at KL = 9 nats elbo  the same from effects.csv: of two values of an axis, and where
    all: a test_loss_nats + elbo  the size of the sum, run by run
    all: a nats@20                published.csv: `published`, `nats`, `measured`; the last epoch, or that one
    all: PCA, 20 latents mse      baselines.json; also `noise` and `training images`
    all: a epochs                 a setting, as in experiment.json
    = 64*784/2                    a product
    told: why                     not in a report, and why; before a table, all of it

A comment before a table says it of the columns after the first, `-` where there are no numbers. The row's
variant is the name in backticks; `*-beta-1/mse` is of the variant with that name in place of the `*`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prose import CODE, FENCE, NAME, NUMBER, plain, statements

from bench.evaluation.metrics import METRICS
from bench.report.statistics import average, estimate

MARK = re.compile(r"<!-- (.*?) -->", re.S)
TABLE = re.compile(r"^ *<!-- ([\w ]+): ([^;>]*?) -->\n\n((?: *\|.*\n)+)", re.M)
QUANTITY = re.compile(
    rf"(?P<mean>{NUMBER.pattern})(?: ± (?P<half>[\d.,]*\d))?"
    rf"(?: \[(?P<low>{NUMBER.pattern}), (?P<high>{NUMBER.pattern})\])?(?P<percent> ?%)?"
)
SCALES = {metric.name: metric.scale for metric in METRICS}
PUBLISHED = {"published": "published", "nats": "nats", "measured": "measured_mean"}
# What a text says beside a number of a metric: in the sentence, at the head of the column, above the table
WORDS = {
    "elbo_bernoulli": "ELBO", "elbo": "own terms", "iwae_bernoulli": "bound", "mse": "MSE|squared error",
    "log_px_bernoulli": r"ln p\(x\)", "log_px_threshold": r"thresholded.* ln p\(x\)",
    "frechet_distance": "Fréchet|samples", "recall": "recall", "coverage": "coverage", "kl": "KL",
    "gaussian_bits_per_dim": "code", "active_units": "active|uses|used", "beta": "weigh", "beta_eff": "weigh",
    "aggregate_kl": "drift", "mutual_information": "image", "knn_accuracy": "neighbours",
    "parameters": "parameters", "test_loss": "loss", "test_loss_nats": "loss", "train_seconds": "train",
    "test_loss_nats + elbo": "loss", "published": "print", "nats": "nats", "measured": "trained",
    "epochs": "epoch", "latent": "latent", "batch_size": "batch",
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A number of the data and its interval, if it has one."""

    mean: float
    low: float | None = None
    high: float | None = None


class Report:
    """The data in a report's folder, of which any file but summary.csv may be absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary = {row["variant"]: row for row in self._rows("summary.csv")}
        self.runs, self.published = self._rows("results.csv"), self._rows("published.csv")
        self.effects = self._rows("effects.csv")
        found = self._json("baselines.json")
        samples = found.get("samples", {})
        self.baselines = {row["name"]: row for row in found.get("rows", ())}
        self.baselines |= {"training images": samples.get("floor", {}), "noise": samples.get("ceiling", {})}
        self.settings = self._json("experiment.json").get("variants", {})

    def _rows(self, name: str) -> list[dict[str, str]]:
        path = self.folder / name
        return [*csv.DictReader(path.read_text(encoding="utf-8").splitlines())] if path.exists() else []

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def by_seed(self, variant: str, metric: str) -> dict[int, float]:
        """A metric, or a sum of some, of a variant's finished runs."""
        names = metric.split(" + ")
        return {
            int(row["seed"]): sum(float(row[name]) for name in names)
            for row in self.runs
            if row["variant"] == variant and row["status"] == "finished" and all(map(row.get, names))
        }

    def value(self, name: str, metric: str) -> Value:
        """Look up what a comment names; LookupError where there is no such thing."""
        if metric.partition("@")[0] in PUBLISHED:
            return self._published(name, *metric.partition("@")[::2])
        if name in self.baselines:
            return Value(float(self.baselines[name][metric]))
        if sides := re.fullmatch("(.+) ([−/]) (.+)", name):
            return self._effect(*sides.groups(), metric)
        if seed := re.fullmatch(r"(.+) s(\d+)", name):
            return Value(self.by_seed(seed[1], metric)[int(seed[2])])
        if " + " in metric:
            found = estimate([abs(value) for value in self.by_seed(name, metric).values()])
            return Value(found.mean, found.low, found.high)
        row = self.summary[name] | {key: str(v) for key, v in self.settings.get(name, {}).items()}
        ends = (float(row.get(f"{metric}_{end}") or "nan") for end in ("mean", "low", "high"))
        return Value(*ends) if row.get(f"{metric}_mean") else Value(float(row[metric]))

    def _published(self, name: str, column: str, epoch: str) -> Value:
        rows = [row for row in self.published if row["variant"] == name and epoch in ("", row["epoch"])]
        row = max(rows, key=lambda row: int(row["epoch"]), default={})
        mean, half = float(row[PUBLISHED[column]]), float(row["measured_half_width"])
        return Value(mean, mean - half, mean + half) if column == "measured" else Value(mean)

    def _effect(self, a: str, sign: str, b: str, metric: str) -> Value:
        """Test a against b, on the average of all names that a `*` in both stands for; or look it up."""
        scale = SCALES[metric]
        if (sign == "/") == (scale == "linear"):
            raise LookupError(f"{metric} is compared by {'differences' if scale == 'linear' else 'ratios'}")
        level, _, where = b.partition(" at ")
        if where:
            sought = {"a": a, "b": level, "where": where, "metric": metric}
            row = next((row for row in self.effects if sought.items() <= row.items()), {})
            return Value(*(float(row[end]) for end in ("value", "low", "high")))
        pattern = re.escape(a).replace(r"\*", "(.+)") + "()"
        stems = [found[1] for name in self.summary if (found := re.fullmatch(pattern, name))]
        pairs = [(a.replace("*", stem), b.replace("*", stem)) for stem in stems]
        cells = [(self.by_seed(one, metric), self.by_seed(other, metric)) for one, other in pairs]
        effect = average(cells, scale, twins=all(self._twins(*pair) for pair in pairs))
        if not effect.n:
            raise LookupError(f"{a} and {b} have no {metric} to compare")
        return Value(effect.size.mean, effect.size.low, effect.size.high)

    def _twins(self, *names: str) -> bool:
        """Whether variants are equal in all but the arithmetic precision, and so paired by seed."""
        aside = {"precision", "name", "label", "axes"}
        kept = [{k: v for k, v in self.settings.get(name, {}).items() if k not in aside} for name in names]
        return bool(kept[0]) and kept[0] == kept[1]


@lru_cache
def report(reports: Path, name: str) -> Report:
    """Read the report of a name; LookupError where it is not there, or lacks a run."""
    results = reports / name / "results.csv"
    if not results.is_file() or ",missing," in results.read_text(encoding="utf-8"):
        raise LookupError(f"no report {name} that is whole")
    return Report(results.parent)


def faults(page: str, reports: Path) -> Iterator[str]:
    """Say which numbers of a page no comment accounts for, or whose comment the data do not bear out."""
    text = FENCE.sub("", page)
    for table in TABLE.finditer(text):
        above = [*statements(text[: table.start()])][-1:]
        yield from _table_faults(reports, table[1].split(), table[2].split(), table[3], *above)
    rest = TABLE.sub("\n", text)
    for line in re.findall(r"^ *<!--.*", rest, re.M):
        yield f"a comment that begins a line ends the paragraph: {line}"
    for line in rest.splitlines():
        if line.lstrip().startswith("|") and _quantities(MARK.sub("", line)):
            yield f"no comment before the table with {line}"
    for statement in statements(rest):
        *pieces, last = MARK.split(statement)
        for piece, mark in zip(pieces[::2], pieces[1::2], strict=True):
            yield from (
                f"{fault} in: {plain(piece)} <!-- {mark} -->" for fault in _faults(reports, piece, mark)
            )
        if left := _quantities(last):
            yield f"no comment after {left[0][0]} in: {plain(last)}"


def _quantities(text: str) -> list[re.Match[str]]:
    shown = NAME.sub("it", CODE.sub("code", plain(text)))
    return [*QUANTITY.finditer(shown.replace("\N{NO-BREAK SPACE}", " "))]


def _faults(reports: Path, piece: str, mark: str) -> Iterator[str]:
    """Hold the numbers of some sentences to the comment behind them."""
    shown, entries = _quantities(piece), mark.split("; ")
    if len(shown) != len(entries):
        yield f"{len(shown)} numbers, {len(entries)} in the comment"
        return
    named: list[str] = []
    for found, entry in zip(shown, entries, strict=True):
        if entry.startswith("told: "):
            continue
        try:
            if entry.startswith("= "):
                value = Value(_product(entry[2:]))
            else:
                name, metric, value = _looked_up(reports, entry)
                sides = re.sub(r" s\d+$", "", name).split(" − " if " − " in name else " / ")
                named += [] if metric in PUBLISHED else sorted(sides, key=piece.find)
                if not re.search(WORDS[metric], plain(piece), re.I):
                    yield f"says nothing of {WORDS[metric]} (number {found[0]})"
        except (LookupError, ValueError) as error:
            yield f"{entry}: {error!r}"
            continue
        if not _shows(found, value):
            yield f"{found[0]} is {value}"
    known = {name for entry in entries if ": " in entry for name in _names(reports, entry)}
    written = [*dict.fromkeys(code.strip("`") for code in CODE.findall(piece) if code.strip("`") in known)]
    wanted = [*dict.fromkeys(name for name in named if name in known)]
    if written != wanted and (written or len(wanted) > 1):
        yield f"names {written}, its comment {wanted}"


def _names(reports: Path, entry: str) -> Iterator[str]:
    with suppress(LookupError):
        yield from report(reports, entry.partition(": ")[0]).summary


def _looked_up(reports: Path, entry: str) -> tuple[str, str, Value]:
    """Look up REPORT: NAME METRIC."""
    found = re.fullmatch(r"([\w-]+): (.+?) ([\w.@]+(?: \+ \w+)?)", entry)
    if not found:
        raise LookupError("not 'report: variant metric'")
    return found[2], found[3].partition("@")[0], report(reports, found[1]).value(found[2], found[3])


def _product(text: str) -> float:
    """Multiply and divide: 64*784/2."""
    first, *rest = re.findall(r"[*/]?[\d.]+", text)
    value = float(first)
    for part in rest:
        value = value * float(part[1:]) if part[0] == "*" else value / float(part[1:])
    return value


def _table_faults(
    reports: Path, folders: list[str], columns: list[str], table: str, above: str = ""
) -> Iterator[str]:
    """Hold the cells of a table to the comment before it."""
    if folders == ["told"]:
        return
    head, _, *rows = [line.strip().strip("|").split(" | ") for line in table.splitlines()]
    if len(head) != len(columns) + 1:
        yield f"{len(head) - 1} columns, {len(columns)} in the comment: {' | '.join(head)}"
        return
    for title, column in zip(head[1:], columns, strict=True):
        pattern, metric = _column(column)
        heading = plain(title) if pattern == "*" else plain(above)
        if metric != "-" and not re.search(WORDS.get(metric, "(?!)"), heading, re.I):
            yield f"{heading} says nothing of {metric}"
    for cells in rows:
        name = (CODE.findall(cells[0]) or [cells[0].strip(" *")])[-1].strip("`")
        for cell, column in zip(cells[1:], columns, strict=True):
            pattern, metric = _column(column)
            for found in _quantities(cell):
                values = [*_first(reports, folders, pattern.replace("*", name), metric)]
                if not values or not _shows(found, values[0]):
                    yield f"{found[0]} is {values or 'unknown'}: {metric} of {pattern.replace('*', name)}"


def _column(text: str) -> tuple[str, str]:
    pattern, _, metric = text.rpartition("/")
    return pattern.replace("−", " − ") or "*", metric


def _first(reports: Path, folders: list[str], name: str, metric: str) -> Iterator[Value]:
    for folder in folders:
        try:
            yield report(reports, folder).value(name, metric)
        except (LookupError, ValueError):
            continue


def _shows(found: re.Match[str], value: Value) -> bool:
    """Whether a number as it is shown is the value, rounded, and so its interval."""
    scale = 0.01 if found["percent"] else 1.0
    half = None if value.low is None or value.high is None else (value.high - value.low) / 2
    due = {"mean": value.mean, "half": half, "low": value.low, "high": value.high}
    for name, wanted in due.items():
        if text := (found[name] or "").replace(",", "").replace("−", "-"):
            top, _, bottom = text.partition("/")
            number, digits = float(top) / float(bottom or 1), len(text.partition(".")[2])
            if wanted is None or abs(number * scale - wanted) > 0.5000001 * 10.0**-digits * scale:
                return False
    return True
