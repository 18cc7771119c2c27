"""The rounds: every contestant in turn, so that what happens to the machine happens to all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import torch

from bench.data.datasets import Dataset
from bench.engine.device import available_cores, describe
from bench.errors import BenchError
from bench.spec.experiment import Run
from benchmarks.speed.limits import Peaks, Work, work_of
from benchmarks.speed.race import Contestant, Lap, Pace, Task, lap

ATTEMPTS = 3  # of a lap whose threads were no faster than one
STACKED = 5  # replicas in one model, on an accelerator


@dataclass(frozen=True)
class Spread:
    """A median with the smallest and the largest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass
class Result:
    """The rounds of one architecture: laps by contestant, in the order of the rounds."""

    run: Run
    work: Work
    laps: dict[str, list[Lap]] = field(default_factory=dict)

    def rate(self, contestant: Contestant) -> Spread:
        """Images a second, over all replicas."""
        return Spread.of([one.rate for one in self.laps[contestant.name]])

    def ratio(self, contestant: Contestant, usual: Contestant) -> Spread:
        """The contestant's rate over the usual loop's of the same round."""
        pairs = zip(self.laps[contestant.name], self.laps[usual.name], strict=True)
        return Spread.of([one.rate / other.rate for one, other in pairs])

    def peaks(self, contestant: Contestant) -> list[Peaks]:
        """The machine's peaks beside each lap; empty on an accelerator."""
        return [one.peaks for one in self.laps[contestant.name] if one.peaks]

    def seconds(self, contestant: Contestant) -> float:
        """Median seconds of a step, all cores in use counted as at work on it."""
        return self.work.batch_size / self.rate(contestant).median

    def floor(self, contestant: Contestant) -> float:
        """The same at the machine's peaks, nothing overlapping."""
        return median(peaks.floor(self.work)[0] for peaks in self.peaks(contestant))

    def shares(self, contestant: Contestant) -> tuple[float, float]:
        """Median of floor over time taken, lap by lap: nothing overlapping, everything overlapping."""
        floors = [peaks.floor(self.work) for peaks in self.peaks(contestant)]
        rates = [one.rate / self.work.batch_size for one in self.laps[contestant.name]]
        apart, overlapping = (
            median(floor * rate for floor, rate in zip(kind, rates, strict=True))
            for kind in zip(*floors, strict=True)
        )
        return apart, overlapping


@dataclass
class Measured:
    """All results, and what they were measured with."""

    contestants: list[Contestant]  # the usual loop first
    results: list[Result]
    rounds: int
    environment: dict[str, str | int]
    data: str
    repeated: int = 0  # laps discarded for threads that were no faster than one
    unhealthy: int = 0  # laps kept all the same, after so many attempts


def contestants_on(device: torch.device, *, bf16: bool = False) -> list[Contestant]:
    """The usual loop, bench with one run, with as many as the device takes at once, and these in bf16."""
    usual = Contestant("usual loop", "usual")
    if device.type != "cpu":
        ours = [
            Contestant("bench, one run", "stacked"),
            Contestant(f"bench, {STACKED} seeds stacked", "stacked", replicas=STACKED),
        ]
    else:
        cores = len(available_cores())
        crowd = [Contestant(f"bench, {cores} runs at once", "bench", cores)] if cores > 1 else []
        ours = [Contestant("bench, one run", "bench"), *crowd]
    rounded = [replace(ours[-1], name=f"{ours[-1].name}, bf16", precision="bf16")] if bf16 else []
    return [usual, *ours, *rounded]


def measure(
    runs: Sequence[Run],
    data: Dataset,
    device: torch.device,
    pace: Pace,
    rounds: int,
    usual: Path,
    tell: Callable[[str], None],
    *,
    bf16: bool = False,
) -> Measured:
    """Race on every run, so many rounds. Raises BenchError where the data have no batch of one of them."""
    for run in runs:
        if run.batch_size > len(data.train_images):
            raise BenchError(
                f"{data.name} has {len(data.train_images)} training images, {run.variant} takes batches of "
                f"{run.batch_size}; measure on a larger set"
            )
    measured = Measured(
        contestants_on(device, bf16=bf16),
        [Result(run, work_of(run)) for run in runs],
        rounds,
        describe(device),
        f"{data.name}, {len(data.train_images)} training images",
    )
    for number in range(1, rounds + 1):
        for result in measured.results:
            task = Task(result.run, data.train_images, data.train_labels, device, usual)
            for contestant in measured.contestants:
                taken = _healthy_lap(contestant, task, pace, measured, tell)
                result.laps.setdefault(contestant.name, []).append(taken)
                told = f"{result.run.variant}, {contestant.name}: {taken.rate:,.0f} images/s"
                tell(f"round {number}/{rounds}  {told}")
    return measured


def _healthy_lap(
    contestant: Contestant, task: Task, pace: Pace, measured: Measured, tell: Callable[[str], None]
) -> Lap:
    """A lap, taken again where several threads were no faster than one: they then share a core."""
    for attempt in range(ATTEMPTS):
        taken = lap(contestant, task, pace)
        if taken.healthy:
            return taken
        if attempt < ATTEMPTS - 1:
            measured.repeated += 1
            tell(f"{contestant.name}: {taken.threads} threads were no faster than one; discarded, again")
    measured.unhealthy += 1
    return taken
