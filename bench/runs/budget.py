"""A budget of time: whole rounds of seeds are begun as long as they should fit, and all ends with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.runs.execute import Job
from bench.runs.order import Prediction, ends

MOMENT = 1e-8  # seconds before the end by which a round must end, so that rounding cannot stop its last run


class StopMatrixError(Exception):
    """Nothing more is to be done: a run failed, or the time is over."""


@dataclass
class Budget:
    """What fits into `seconds` from now on, by the prediction corrected by how it has fared so far.

    The first round that a command begins is begun whether it fits or not. On an accelerator the seeds of a
    variant that are trained together are of the round of the first of them.
    """

    seconds: float
    foreseen: Prediction
    workers: int
    clock: Callable[[], float] = time.monotonic
    taken: float = 0.0  # by runs that have ended, and what had been foreseen of these
    expected: float = 0.0
    begun: dict[str, float] = field(default_factory=dict)  # runs under way: when they were begun
    refused: bool = False  # whether a round did not fit

    def __post_init__(self) -> None:
        self.over = self.clock() + self.seconds - self.foreseen.report
        self._any = False

    @property
    def pace(self) -> float:
        """The seconds that one foreseen second has taken."""
        return self.taken / self.expected if self.taken and self.expected else 1.0

    def starting(self, job: Job) -> None:
        """Take in that a worker takes a run."""
        self.begun[job.id] = self.clock()

    def ended(self, job: Job, status: str) -> None:
        """Take in that a run has ended."""
        since = self.begun.pop(job.id, None)
        if since is not None and status == "finished" and not job.resume:
            self.taken += self.clock() - since
            self.expected += self._foreseen(job.id)

    def fits(self, jobs: Sequence[Job]) -> bool:
        """Say whether a round of runs should end in time, beginning now beside those under way."""
        if not self._any:
            self._any = True
            return True
        now, pace = self.clock(), self.pace
        rest = [max(0.0, pace * self._foreseen(run) - (now - since)) for run, since in self.begun.items()]
        new = ends([pace * self._foreseen(job.id) for job in jobs], self.workers, rest)
        self.refused = now + max([*rest, *new]) > self.over - MOMENT
        return not self.refused

    def check(self) -> None:
        """Raise StopMatrixError once the budget is over but for the report."""
        if self.clock() >= self.over:
            raise StopMatrixError

    def _foreseen(self, run_id: str) -> float:
        return self.foreseen.seconds.get(run_id, 0.0)
