"""Simulate what the report's statistics promise: coverage of intervals, false verdicts, power.

    python -m benchmarks.intervals          # minutes on one core

It prints the table and draws docs/images/intervals.png. The verdicts come from the functions that make the
report, on values drawn from laws that are known.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import stdtrit

from bench.report.cells import table
from bench.report.inference import mcb
from bench.report.statistics import (
    LEVEL,
    MARGIN,
    Effect,
    average,
    equivalence,
    seeds_needed,
)

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "intervals.png"
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

# law -> scale of the test, mean of the law there, draws
LAWS: dict[str, tuple[str, float, Draw]] = {
    "normal": ("linear", 0.0, lambda rng, size: rng.normal(size=size)),
    "log-normal, on the logarithm": ("log", 0.0, lambda rng, size: np.exp(0.5 * rng.normal(size=size))),
    "log-normal, taken as linear": (
        "linear", math.exp(0.125), lambda rng, size: np.exp(0.5 * rng.normal(size=size)),
    ),
    "exponential, on the logarithm": ("log", -0.5772156649, lambda rng, size: rng.exponential(size=size)),
    "heavy tails (Student's t, 3)": ("linear", 0.0, lambda rng, size: rng.standard_t(3, size=size)),
}  # fmt: skip


def coverage(rng: np.random.Generator, law: str, n: int, draws: int) -> float:
    """How often the 95 % interval of n values holds the mean of their law, on the scale of the test."""
    scale, mean, draw = LAWS[law]
    values = draw(rng, (draws, n))
    values = np.log(values) if scale == "log" else values
    half = stdtrit(n - 1, 1 - LEVEL / 2) * values.std(1, ddof=1) / math.sqrt(n)
    return float(np.mean(abs(values.mean(1) - mean) <= half))


def spreads(rng: np.random.Generator, kind: str, k: int) -> np.ndarray:
    """Standard deviations of k variants: equal, very unequal (log-normal), or one ten times the others."""
    if kind == "unequal":
        return np.exp(rng.normal(size=k))
    return np.r_[10.0 if kind == "one tenfold" else 1.0, np.ones(k - 1)]


def family(rng: np.random.Generator, kind: str, k: int, n: int, draws: int, tied: int) -> tuple[float, float]:
    """How often one of `tied` equal variants is called better than every other, and the first excluded.

    The k − tied others are far behind, so that only the tied ones contend.
    """
    alone = excluded = 0
    for _ in range(draws):
        sd = spreads(rng, kind, k)
        values = rng.normal(size=(k, n)) * sd[:, None]
        values[tied:] -= 100 * sd.max()
        errors = values.std(1, ddof=1) / math.sqrt(n)
        kept = np.array(mcb([(m, e, n - 1.0) for m, e in zip(values.mean(1), errors, strict=True)])) > LEVEL
        alone += kept.sum() == 1
        excluded += not kept[0]
    return alone / draws, excluded / draws


def pair(a: np.ndarray, b: np.ndarray) -> Effect:
    """Compare two samples as the report does."""
    found = average([(dict(enumerate(map(float, a))), dict(enumerate(map(float, b))))], "linear")
    assert found is not None
    return found


def rejections(rng: np.random.Generator, n: int, sd: float, shift: float, draws: int) -> tuple[float, float]:
    """How often two variants `shift` apart, of spreads 1/4 and sd/4, are called different, and equal."""
    different = equal = 0
    for _ in range(draws):
        effect = pair(rng.normal(size=n) / 4 + shift, sd * rng.normal(size=n) / 4)
        p = equivalence(effect, MARGIN)
        different += effect.p is not None and effect.p <= LEVEL
        equal += p is not None and p <= LEVEL
    return different / draws, equal / draws


def power(rng: np.random.Generator, size: float, sd: float, draws: int) -> tuple[int, float]:
    """The seeds that are advised for an effect of `size` and spreads 1 and sd, and how often they show it."""
    unit = np.array([-1.0, 0.0, 1.0])  # s = 1
    n = seeds_needed(pair(unit + size, sd * unit)) or 0
    shown = [(pair(rng.normal(size=n) + size, sd * rng.normal(size=n)).p or 0) <= LEVEL for _ in range(draws)]
    return n, float(np.mean(shown))


# What is simulated: title of a panel, what the shares should be, the range that is drawn
PANELS = {
    "covers": ("The 95 % interval holds the mean", (0.93, 0.97), (0.88, 1.0)),
    "alone": ('False "better than every other"', (0.0, 0.05), (-0.004, 0.12)),
    "excluded": ("The best, excluded from those that may be best", (0.0, 0.05), (-0.004, 0.12)),
    "different": ("Two alike, called different", (0.0, 0.05), (-0.004, 0.12)),
    "equal": ("One margin apart, called equal", (0.0, 0.05), (-0.004, 0.12)),
}
NS = (3, 5)
Shares = dict[str, dict[str, list[float]]]  # panel -> row -> share for each of NS


def simulate(draws: int) -> tuple[Shares, dict[str, float]]:
    """The shares of each panel, and the power with the seeds that are advised."""
    rng = np.random.default_rng(20)
    found: Shares = {name: {} for name in PANELS}
    for law in LAWS:
        found["covers"][law] = [coverage(rng, law, n, 100 * draws) for n in NS]
    for kind in ("equal", "unequal", "one tenfold"):
        for k in (10, 30):
            alike, two = ([family(rng, kind, k, n, draws, tied) for n in NS] for tied in (k, 2))
            found["alone"][f"all of {k} alike, spreads {kind}"] = [share for share, _ in alike]
            found["alone"][f"two of {k} alike ahead, spreads {kind}"] = [share for share, _ in two]
            found["excluded"][f"all of {k} alike, spreads {kind}"] = [share for _, share in alike]
    for sd in (1.0, 4.0):
        label = f"spreads 1 : {sd:g}"
        found["different"][label] = [rejections(rng, n, sd, 0.0, 5 * draws)[0] for n in NS]
        found["equal"][label] = [rejections(rng, n, sd, MARGIN, 5 * draws)[1] for n in NS]
    advised = {}
    for size, sd in ((2.0, 1.0), (1.0, 1.0), (1.0, 3.0)):
        n, share = power(rng, size, sd, 5 * draws)
        advised[f"a difference of {size:g}, spreads 1 : {sd:g}: {n} seeds"] = share
    return found, advised


def report(found: Shares, advised: dict[str, float]) -> str:
    """The shares as tables."""
    rows = [
        [
            f"{PANELS[name][0]}: {label}",
            "{:.0%} to {:.0%}".format(*PANELS[name][1]),
            *(f"{s:.1%}" for s in shares),
        ]
        for name, panel in found.items()
        for label, shares in panel.items()
    ]
    power_rows = [[label, "80%", f"{share:.1%}"] for label, share in advised.items()]
    return "\n\n".join([
        table(["share", "should be", *(f"n = {n}" for n in NS)], rows),
        table(['seeds that "add k seeds" comes to', "power should be", "is"], power_rows),
    ])  # fmt: skip


def draw(found: Shares) -> Figure:
    """One panel a promise, one row a law, a mark for each n; what should be is grey."""
    heights = [len(panel) + 1.6 for panel in found.values()]
    figure = Figure(figsize=(8, 0.2 * sum(heights)), dpi=150, layout="constrained")
    panels = figure.subplots(len(found), 1, gridspec_kw={"height_ratios": heights})
    for axes, (name, panel) in zip(panels, found.items(), strict=True):
        title, due, limits = PANELS[name]
        axes.axvspan(*due, color="#dddddd", lw=0)
        for i, (n, colour, marker) in enumerate(zip(NS, ("#D55E00", "#0072B2"), "os", strict=True)):
            shares = [row[i] for row in panel.values()]
            axes.plot(shares, range(len(panel)), marker, color=colour, ms=5.5, alpha=0.9, label=f"n = {n}")
        axes.set_yticks(range(len(panel)), list(panel), fontsize=7.5)
        axes.set_ylim(len(panel) - 0.4, -0.6)
        axes.set_xlim(*limits)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.tick_params(axis="x", labelsize=7.5)
        axes.set_title(title, fontsize=9, loc="left")
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=7.5, frameon=False, loc="upper right")
    return figure


def main() -> None:
    """Print the tables and write the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=1000, help="families drawn for each row (default 1000)")
    found, advised = simulate(parser.parse_args().draws)
    print(report(found, advised))
    out = io.BytesIO()
    draw(found).savefig(out, format="png")
    Image.open(out).convert("RGB").quantize(64).save(FIGURE, optimize=True)


if __name__ == "__main__":
    main()
