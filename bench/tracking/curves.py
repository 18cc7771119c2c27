"""The curves of a run on their way to MLflow: each epoch once, several epochs to a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench.tracking.entries import TOTAL_SECONDS, curve_point

SEND_EVERY = 1.0  # seconds; a request costs 5 ms and more, so short epochs share one
TOGETHER = 50  # epochs to a request, which holds 1000 numbers: a request is stored whole or not at all


class Point(NamedTuple):
    """One number of a curve, as MLflow's Metric takes it; the timestamp in milliseconds since 1970."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass
class Curves:
    """What of a run was taken and not yet sent."""

    epoch: int = 0  # the last one taken
    seconds: float = 0.0  # of training so far
    pending: list[list[Point]] = field(default_factory=list)  # by epoch
    due: float = field(default_factory=lambda: time.monotonic() + SEND_EVERY)  # when to send next

    def take(self, epoch: int, row: Mapping[str, Any], timestamp: int) -> None:
        """Queue the finite numbers of one row of the record's `curves`, unless its epoch was taken before."""
        if epoch <= self.epoch:
            return
        point = curve_point(row)
        self.epoch, self.seconds = epoch, self.seconds + point.get("time/seconds", 0.0)
        point[TOTAL_SECONDS] = self.seconds
        self.pending.append([Point(key, value, timestamp, epoch) for key, value in point.items()])

    def send(self, send: Callable[[list[Point]], None]) -> None:
        """Send what was taken, epochs whole; what fails is kept: a point sent twice is stored once."""
        while self.pending:
            send([point for row in self.pending[:TOGETHER] for point in row])
            del self.pending[:TOGETHER]
        self.due = time.monotonic() + SEND_EVERY
