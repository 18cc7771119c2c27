"""How long a large matrix takes on a cluster, and what bounds it: simulated from measured times of runs.

    python benchmarks/makespan.py

Groups go to the first place that is free, in bench's order: for every ten seeds all variants, the longest
first (of the first ten bench begins with the shortest). One thread of one process writes to MLflow, from a
queue: that delays its end, never a training.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

# Seconds of one run, training and evaluation, of the documented systems on MNIST (60,000 images, K = 200) on
# one core of a machine that did other work too: upper bounds. A place on a GPU is taken to do a group so.
SECONDS = {
    "000-mlp-512-256-2": 141,
    "001-mlp-512-512-10": 218,
    "001-mlp-512-512-20": 216,
    "002-conv-bn-16, 90 epochs": 1372,
    "003-linear-400-2": 80,
    "003-linear-400-10": 71,
    "003-linear-400-20": 79,
    "004-mlp-100-100-32-beta-1": 193,
    "004-mlp-100-100-32-beta-dz-dx": 151,
}
SEEDS, GROUP, SHARE = 100, 10, 4  # of each variant; seeds of a group; groups that share a GPU
PARCEL = 60e6  # bytes of MNIST and the yardstick
NETWORK = 1e9 / 8  # bytes a second between two nodes: gigabit
NODE = 8  # GPUs of a node
JITTER = 0.05  # of a group's time


@dataclass(frozen=True)
class Costs:
    """Measured seconds of the one process that hands out groups and writes."""

    start: float  # a node's first task: the process, torch, the data
    group: float  # a group, before its place is taken again
    track: float  # a run in MLflow


@dataclass(frozen=True)
class Outcome:
    """A matrix that was simulated, in seconds."""

    trained: float  # when the last group ends
    ideal: float  # the work divided by the places
    longest: float  # group
    spread: float  # until the last node has the data
    tracked: float  # when MLflow has everything


def durations(runs: int, order: str, noise: random.Random) -> list[float]:
    """Seconds of each group of a matrix of so many runs, in the order in which they are handed out."""
    variants = max(1, runs // SEEDS)
    each = [seconds for _, seconds in zip(range(variants), _forever(SECONDS.values()), strict=False)]
    rounds = max(1, min(runs, SEEDS) // GROUP)
    planned = sorted(each, reverse=True) if order == "longest first" else sorted(each)
    return [seconds * noise.uniform(1 - JITTER, 1 + JITTER) for _ in range(rounds) for seconds in planned]


def simulate(runs: int, gpus: int, costs: Costs, order: str = "longest first") -> Outcome:
    """Hand out a matrix on so many GPUs."""
    groups = durations(runs, order, random.Random(0))  # noqa: S311  no secret
    places = gpus * SHARE
    # Nodes pass the data on: after every transfer twice as many have it
    spread = math.ceil(math.log2(math.ceil(gpus / NODE) + 1)) * PARCEL / NETWORK
    free = [spread + costs.start] * places
    ends, handed = [], 0.0
    for seconds in groups:
        handed = max(handed + costs.group, heapq.heappop(free))  # one process hands out, one after the other
        ends.append(handed + seconds)
        heapq.heappush(free, handed + seconds)
    tracked = 0.0
    for end in sorted(ends):
        tracked = max(tracked, end) + costs.track * runs / len(groups)
    return Outcome(max(ends), sum(groups) / places, max(groups), spread, tracked)


def bound(found: Outcome, groups: int, costs: Costs) -> str:
    """The largest part of the makespan."""
    parts = {
        "the work": found.ideal,
        "the longest group": found.longest,
        "handing out": groups * costs.group,
        "the data": found.spread,
    }
    return max(parts, key=lambda name: parts[name])


def table(costs: Costs) -> Iterable[str]:
    """Markdown: a row for each size of matrix and cluster."""
    yield "| runs | GPUs | makespan | work ÷ places | shortest first | bound by | MLflow has it after |"
    yield "|--:|--:|--:|--:|--:|---|--:|"
    for runs in (10**3, 10**4, 10**5, 10**6):
        for gpus in (1, 10, 100, 1000):
            found = simulate(runs, gpus, costs)
            worst = simulate(runs, gpus, costs, "shortest first").trained
            groups = len(durations(runs, "longest first", random.Random(0)))  # noqa: S311
            cells = [
                f"{runs:,}",
                f"{gpus:,}",
                _time(found.trained),
                f"{found.ideal / found.trained:.0%}",
                f"{worst / found.trained - 1:+.0%}",
                bound(found, groups, costs),
                _time(found.tracked),
            ]
            yield f"| {' | '.join(cells)} |"


def _forever(values: Iterable[float]) -> Iterable[float]:
    kept = list(values)
    while True:
        yield from kept


def _time(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description="The makespan of large matrices, simulated.")
    options.add_argument("--start", type=float, default=8.0, help="seconds of a node's first task")
    options.add_argument("--group", type=float, default=0.02, help="seconds of the one process for a group")
    options.add_argument("--track", type=float, default=0.45, help="seconds of MLflow for a run")
    given = options.parse_args()
    print(f"{given.start:g} s to start a node, {given.group:g} s a group, {given.track:g} s a tracked run\n")
    print("\n".join(table(Costs(given.start, given.group, given.track))))


if __name__ == "__main__":
    main()
