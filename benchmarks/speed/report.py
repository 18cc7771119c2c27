"""The speed report: what was measured, what it is a share of, and how it was measured."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.report.cells import table, text
from benchmarks.speed.race import Contestant
from benchmarks.speed.rounds import Measured, Result, Spread
from benchmarks.speed.scaling import Cell

METHOD = """\
Each contestant trains in fresh processes: they warm up apart, wait for each other, and train a fixed number
of steps; the clock runs from the first one's start to the last one's end. Contestants take turns round by
round. Given are medians with the smallest and the largest value; ratios are paired within a round. Images are
those of all replicas together. Reading the files, evaluation and tracking are outside the clock for all.

The usual loop is `benchmarks/usual_loop.py`, one process with torch's own number of threads. Networks, batch
size, loss and optimizer are the same on both sides; `benchmarks/README.md` says what is compared and why."""

FLOOR = """\
The floor of a step is its FLOPs at the peak of large matrix products plus its bytes of parameters, gradients
and Adam's moments at the bandwidth of a stream over as many bytes, both measured beside each lap on the cores
in use, in fp32. Activations are left out: they may stay in cache. The share is the floor over the time taken;
in brackets, with arithmetic and traffic overlapping wholly. Convolutions of thin layers are no large matrix
products: their share is small because the libraries' kernels reach a fraction of that peak."""


def write_report(folder: Path, measured: Measured, scaling: Sequence[Cell]) -> Path:
    """Write `results.csv` and `report.md`, each whole or not at all. Raises BenchError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (
            ("results.csv", results_csv(measured)),
            ("report.md", render(measured, scaling)),
        ):
            partial = folder / f".{name}.{os.getpid()}"
            partial.write_text(content, encoding="utf-8")
            partial.replace(folder / name)
    except OSError as error:
        raise BenchError(f"cannot write {folder}: {error.strerror}; choose another --reports DIR") from error
    return folder / "report.md"


def render(measured: Measured, scaling: Sequence[Cell]) -> str:
    """The whole report in Markdown."""
    sections = [
        ("", f"# Speed of training, on {text(measured.data)}\n\n{_machine(measured)}"),
        ("Images a second", _rates(measured)),
        ("Share of what the machine can do", _shares(measured)),
        ("Memory", _memory(measured)),
        ("Scaling", _scaling(scaling)),
        ("Method", f"{METHOD}\n\n{_discarded(measured)}"),
    ]
    return "\n\n".join(f"## {title}\n\n{body}" if title else body for title, body in sections if body) + "\n"


def _machine(measured: Measured) -> str:
    facts = ", ".join(f"{text(key)} {text(value)}" for key, value in measured.environment.items())
    return f"{facts}; {measured.rounds} rounds."


def _rates(measured: Measured) -> str:
    usual, *others = measured.contestants
    head = ["architecture", text(usual.name)]
    for contestant in others:
        head += [text(contestant.name), "× usual"]
    rows = []
    for result in measured.results:
        row = [text(result.run.variant), _spread(result.rate(usual), _whole)]
        for contestant in others:
            row += [_spread(result.rate(contestant), _whole)]
            row += [f"**{_spread(result.ratio(contestant, usual), _factor)}**"]
        rows.append(row)
    return table(head, rows)


def _shares(measured: Measured) -> str:
    timed = [c for c in measured.contestants if measured.results[0].peaks(c)]
    if not timed:
        return ""
    counts = table(
        ["architecture", "batch", "MAC/image", "parameters", "GFLOP/step", "MB/step"],
        [_counted(result) for result in measured.results],
    )
    rows = [
        [text(result.run.variant), text(contestant.name), *_share(result, contestant)]
        for result in measured.results
        for contestant in timed
    ]
    head = ["architecture", "contestant", "GEMM GFLOP/s", "stream GB/s", "floor ms", "took ms", "share"]
    told = "Milliseconds are those of all processes together for one step of one replica."
    return "\n\n".join([FLOOR, counts, told, table(head, rows, left=2)])


def _counted(result: Result) -> list[str]:
    work = result.work
    return [
        text(result.run.variant),
        str(work.batch_size),
        _whole(work.macs),
        _whole(work.parameters),
        f"{work.flops / 1e9:.3f}",
        f"{work.traffic / 1e6:.1f}",
    ]


def _share(result: Result, contestant: Contestant) -> list[str]:
    peaks = result.peaks(contestant)
    apart, overlapping = result.shares(contestant)
    return [
        _spread(Spread.of([p.flops / 1e9 for p in peaks]), _whole),
        _spread(Spread.of([p.bandwidth / 1e9 for p in peaks]), _whole),
        f"{1e3 * result.floor(contestant):.2f}",
        f"{1e3 * result.seconds(contestant):.2f}",
        f"{apart:.0%} ({overlapping:.0%})",
    ]


def _memory(measured: Measured) -> str:
    rows = [
        [
            text(r.run.variant),
            *(_whole(max(one.peak_mb for one in r.laps[c.name])) for c in measured.contestants),
        ]
        for r in measured.results
    ]
    told = "Peak memory of each process in MB: its resident set, shared data included; on a GPU, torch's."
    return f"{told}\n\n{table(['architecture', *(text(c.name) for c in measured.contestants)], rows)}"


def _scaling(cells: Sequence[Cell]) -> str:
    if not cells:
        return ""
    base = {c.factor: c.rate.median for c in cells if c.usual_value}
    rows = [
        [
            c.factor,
            str(c.value),
            _spread(c.rate, _whole),
            f"{1e6 / c.rate.median:.2f}",
            f"{base[c.factor] / c.rate.median:.2f}" if c.factor in base else "–",
        ]
        for c in cells
    ]
    head = ["factor", "value", "images/s", "µs an image", "relative cost"]
    told = "One factor changed at a time; seeds are trained side by side, and their images counted together."
    return f"{told}\n\n{table(head, rows)}"


def _discarded(measured: Measured) -> str:
    """What became of laps whose threads stood in each other's way."""
    told = (
        "Before and after each lap of several threads, these must multiply matrices faster than one does: "
        f"{measured.repeated} laps failed that and were discarded and taken again."
    )
    if measured.unhealthy:
        told += (
            f" **{measured.unhealthy} laps failed it at every attempt and are in the tables: on this machine "
            "threads share a core, or something else was at work.**"
        )
    return told


def results_csv(measured: Measured) -> str:
    """One row a lap, full precision."""
    head = ["architecture", "contestant", "round", "images_per_second", "ratio_to_usual", "seconds", "steps"]
    head += [
        "processes",
        "replicas",
        "threads",
        "peak_mb",
        "healthy",
        "gemm_flops",
        "stream_bytes_per_second",
    ]
    environment = [key for key in measured.environment if key != "threads"]
    usual = measured.contestants[0]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, *environment])
    for result in measured.results:
        for contestant in measured.contestants:
            for i, one in enumerate(result.laps[contestant.name]):
                ratio = one.rate / result.laps[usual.name][i].rate
                row = [result.run.variant, contestant.name, i + 1, one.rate, ratio, one.seconds, one.steps]
                row += [contestant.processes, contestant.replicas, one.threads, one.peak_mb, one.healthy]
                row += [one.peaks.flops, one.peaks.bandwidth] if one.peaks else ["", ""]
                writer.writerow([*row, *(measured.environment[key] for key in environment)])
    return out.getvalue()


def _spread(value: Spread, shown: Callable[[float], str]) -> str:
    return f"{shown(value.median)} ({shown(value.low)}–{shown(value.high)})"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _factor(value: float) -> str:
    return f"{value:.2f}"
