"""In which order runs are done, and when each should end."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.runs.plan import Planned


@dataclass(frozen=True)
class Prediction:
    """What a plan should take, seconds from the start of the command."""

    seconds: Mapping[str, float] = field(default_factory=dict)  # of each run to do on its worker, by id
    start: float = 0.0  # until the first run begins
    rounds: Mapping[int, float] = field(default_factory=dict)  # when all runs up to a seed have ended
    report: float = 0.0  # that is written at the end, of `total` seconds
    total: float = 0.0


def in_order(runs: Iterable[Planned], seconds: Mapping[str, float]) -> list[Planned]:
    """Order runs seed by seed, so that early reports compare every variant.

    In the first seed the shortest come first: most variants stand in a report long before the longest ends.
    In the others the longest do, so that no worker waits for one at the end (Graham 1969).
    """
    runs = list(runs)
    first = min((planned.run.seed for planned in runs), default=0)

    def place(planned: Planned) -> tuple[int, float]:
        length, seed = seconds.get(planned.id, 0.0), planned.run.seed
        return seed, length if seed == first else -length

    return sorted(runs, key=place)


def ends(seconds: Sequence[float], workers: int, busy: Sequence[float] = ()) -> list[float]:
    """Say when each run ends that a free worker takes in this order, in seconds from the start.

    `busy` says how long some of the workers go on with what they are at.
    """
    free = sorted([*busy, *[0.0] * (workers - len(busy))])
    return [_taken(free, length) for length in seconds]


def _taken(free: list[float], length: float) -> float:
    end = free[0] + length
    heapq.heapreplace(free, end)
    return end
