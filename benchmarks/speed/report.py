"""Write the speed report: what was measured, how, and what share of the machine's limits it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from bench.errors import BenchError
from bench.report.cells import table, text
from benchmarks.speed.limits import Work
from benchmarks.speed.rounds import USUAL

METHOD = """\
Each contestant trains in fresh processes: they warm up apart, wait for each other, and train a fixed number
of steps; the clock runs from the first one's start to the last one's end. Contestants take turns round by
round. Given are medians with the smallest and the largest value; ratios are paired within a round. Images are
those of all replicas together. Reading the files, evaluation and tracking are outside the clock for all.

The usual loop is `benchmarks/usual_loop.py`, the others are in `benchmarks/peer_loops.py`, each one process
with torch's own number of threads. Networks, batch size, loss and optimizer are the same on all sides;
`benchmarks/README.md` says what is compared and why."""

FLOOR = """\
The floor of a step is its FLOPs at the peak of large matrix products plus its bytes of parameters, gradients
and Adam's moments at the bandwidth of a stream over as many bytes, both measured beside each lap on the cores
in use, in fp32. Activations are left out: they may stay in cache. The share is the floor over the time taken;
in brackets, with arithmetic and traffic overlapping wholly. Convolutions of thin layers are no large matrix
products: their share is small because the libraries' kernels reach a fraction of that peak."""

Environment = Mapping[str, str | int]


def write_report(
    folder: Path,
    title: str,
    laps: pd.DataFrame,
    work: Mapping[str, Work],
    environment: Environment,
    scaling: pd.DataFrame | None,
) -> Path:
    """Write `results.csv` and `report.md`; returns the latter. Raises BenchError where that fails."""
    constant = {key: value for key, value in environment.items() if key != "threads"}  # a lap has its own
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with_ratio(laps).assign(**constant).to_csv(folder / "results.csv", index=False)
        (folder / "report.md").write_text(render(title, laps, work, environment, scaling), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"cannot write {folder}: {error.strerror}; choose another --reports DIR") from error
    return folder / "report.md"


def with_ratio(laps: pd.DataFrame) -> pd.DataFrame:
    """Add `ratio_to_usual`: the rate over the usual loop's of the same architecture and round."""
    of_usual = laps.images_per_second.where(laps.contestant == USUAL.name)
    usual = of_usual.groupby([laps.architecture, laps["round"]]).transform(
        "max"
    )  # the only one that is no NaN
    return laps.assign(ratio_to_usual=laps.images_per_second / usual)


def render(
    title: str,
    laps: pd.DataFrame,
    work: Mapping[str, Work],
    environment: Environment,
    scaling: pd.DataFrame | None,
) -> str:
    """Render the whole report in Markdown."""
    machine = ", ".join(f"{text(key)} {text(value)}" for key, value in environment.items())
    sections = [
        ("", f"# Speed of training, on {text(title)}\n\n{machine}; {laps['round'].max()} rounds."),
        ("Images a second", _rates(with_ratio(laps))),
        ("Share of what the machine can do", _shares(laps, work)),
        ("Memory", _memory(laps)),
        ("Scaling", _scaling(scaling) if scaling is not None else ""),
        ("Method", f"{METHOD}\n\n{_discarded(laps)}"),
    ]
    return "\n\n".join(f"## {title}\n\n{body}" if title else body for title, body in sections if body) + "\n"


def _rates(laps: pd.DataFrame) -> str:
    rows = []
    for (architecture, contestant), own in laps.groupby(["architecture", "contestant"], sort=False):
        ratio = "" if contestant == USUAL.name else f"**{_spread(own.ratio_to_usual, '{:.2f}')}**"
        rate = _spread(own.images_per_second, "{:,.0f}")
        rows.append([text(architecture), text(contestant), rate, ratio])
    return table(["architecture", "contestant", "images a second", "× usual"], rows, left=2)


def _shares(laps: pd.DataFrame, work: Mapping[str, Work]) -> str:
    timed = laps[laps.gemm_flops.notna()]
    if timed.empty:
        return ""
    counted = [
        [
            text(name),
            f"{w.batch_size}",
            f"{w.macs:,}",
            f"{w.parameters:,}",
            f"{w.flops / 1e9:.3f}",
            f"{w.traffic / 1e6:.1f}",
        ]
        for name, w in work.items()
    ]
    counts = table(["architecture", "batch", "MAC/image", "parameters", "GFLOP/step", "MB/step"], counted)
    rows = []
    for (architecture, contestant), own in timed.groupby(["architecture", "contestant"], sort=False):
        one = work[str(architecture)]
        apart, overlapping = one.floor(own.gemm_flops, own.stream_bytes_per_second)
        steps = own.images_per_second / one.batch_size  # a second, of all replicas together
        rows.append(
            [
                text(architecture),
                text(contestant),
                _spread(own.gemm_flops / 1e9, "{:,.0f}"),
                _spread(own.stream_bytes_per_second / 1e9, "{:,.0f}"),
                f"{1e3 * apart.median():.2f}",
                f"{1e3 / steps.median():.2f}",
                f"{(apart * steps).median():.0%} ({(overlapping * steps).median():.0%})",
            ]
        )
    head = ["architecture", "contestant", "GEMM GFLOP/s", "stream GB/s", "floor ms", "took ms", "share"]
    told = "Milliseconds are those of all processes together for one step of one replica."
    return "\n\n".join([FLOOR, counts, told, table(head, rows, left=2)])


def _memory(laps: pd.DataFrame) -> str:
    most = laps.groupby(["architecture", "contestant"], sort=False).peak_mb.max()
    names = laps.contestant.unique()
    rows = [[text(a), *(f"{most[a, c]:,.0f}" for c in names)] for a in laps.architecture.unique()]
    told = "Peak memory of each process in MB: its resident set, shared data included; on a GPU, torch's."
    return f"{told}\n\n{table(['architecture', *map(text, names)], rows)}"


def _scaling(laps: pd.DataFrame) -> str:
    rows = []
    for factor, of_factor in laps.groupby("factor", sort=False):
        usual = of_factor[of_factor.usual_value].images_per_second.median()  # NaN where no lap has it
        for value, own in of_factor.groupby("value", sort=False):
            rate = own.images_per_second
            relative = "–" if pd.isna(usual) else f"{usual / rate.median():.2f}"
            rows.append(
                [factor, f"{value}", _spread(rate, "{:,.0f}"), f"{1e6 / rate.median():.2f}", relative]
            )
    head = ["factor", "value", "images/s", "µs an image", "relative cost"]
    told = "One factor changed at a time; seeds are trained side by side, and their images counted together."
    return f"{told}\n\n{table(head, rows)}"


def _discarded(laps: pd.DataFrame) -> str:
    """Say what became of laps whose threads stood in each other's way."""
    told = (
        "Before and after each lap of several threads, these must multiply matrices faster than one does: "
        f"{(laps.attempts - 1).sum()} laps failed that and were discarded and taken again."
    )
    if unhealthy := (~laps.healthy).sum():
        told += (
            f" **{unhealthy} laps failed it at every attempt and are in the tables: on this machine "
            "threads share a core, or something else was at work.**"
        )
    return told


def _spread(values: pd.Series, shown: str) -> str:
    """Show a median with the smallest and the largest value."""
    median, low, high = (shown.format(v) for v in (values.median(), values.min(), values.max()))
    return f"{median} ({low}–{high})"
