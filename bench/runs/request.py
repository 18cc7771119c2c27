"""The options of `bench run` and `bench plan`, as one value, and the experiment that they name, read once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.errors import BenchError, redacted
from bench.spec.experiment import Experiment
from bench.spec.shipped import shipped


@dataclass(frozen=True)
class Request:
    """What a command line asks for: an experiment as its YAML declares it, and the options given with it."""

    declared: Experiment
    device: str = "auto"
    seeds: tuple[int, ...] | None = None
    only: tuple[str, ...] = ()
    epochs: int | None = None
    dataset: str | None = None
    precision: str | None = None
    data_dir: Path | None = None
    tracking_uri: str | None = None
    reports: Path = Path("reports")
    fresh: bool = False
    workers: int | None = None
    hours: float | None = None  # the budget of a command
    executor: str = "local"  # or "ray"
    address: str | None = None  # of the Ray cluster

    def __post_init__(self) -> None:
        """Raise BenchError for a budget that is none."""
        if self.hours is not None and not 0 < self.hours < math.inf:
            raise BenchError(f"--hours {self.hours}; give hours above 0, such as 2 or 0.5")

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment with the options on top, all its variants. Raises BenchError for unfit options."""
        return self.declared.with_overrides(
            seeds=self.seeds, epochs=self.epochs, dataset=self.dataset, precision=self.precision
        )

    @cached_property
    def chosen(self) -> frozenset[str]:
        """The variants that `--only` names, by default all. Raises BenchError for a glob without a match."""
        return frozenset(self.experiment.select(self.only or ("*",)).variants)

    def command(self, variant: str | None = None, seed: int | None = None) -> str:
        """Give the command line that repeats the matrix, or one run of it.

        Where data and reports lie is left out.
        """
        seeds = self.seeds if seed is None else (seed,)
        words = ["bench run", _shown(self.declared.path)]
        words += [f"--seeds {','.join(map(str, seeds))}{',' if len(seeds) == 1 else ''}"] if seeds else []
        words += [f"--only '{variant}'"] if variant else []
        words += [f"--epochs {self.epochs}"] if self.epochs else []
        words += [f"--dataset {self.dataset}"] if self.dataset else []
        words += [f"--precision {self.precision}"] if self.precision else []
        words += [f"--device {self.device}"] if self.device != "auto" else []
        return redacted(" ".join(words))


def _shown(spec: Path) -> str:
    """The spec as another person can use it: by the name under which it ships, or by its path from here."""
    spec = spec.resolve()
    if shipped().get(spec.stem) == spec:
        return spec.stem
    return spec.relative_to(Path.cwd()).as_posix() if spec.is_relative_to(Path.cwd()) else spec.name
