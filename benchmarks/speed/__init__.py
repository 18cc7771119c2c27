"""`make speed`: training beside the loop everybody writes, and both beside what the machine can do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from bench.data.datasets import Dataset, load
from bench.engine.device import pick
from bench.errors import BenchError
from bench.spec.experiment import Experiment
from bench.spec.resolve import load as load_experiment
from benchmarks.speed.race import Pace
from benchmarks.speed.report import write_report
from benchmarks.speed.rounds import measure
from benchmarks.speed.scaling import measure_scaling

__all__ = ["compare", "speed"]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
USUAL_LOOP = "usual_loop.py"


def speed(
    data_dir: Path | None,
    device: str,
    only: tuple[str, ...],
    pace: Pace,
    rounds: int,
    reports: Path,
    *,
    scaling: bool,
    bf16: bool,
) -> Path:
    """Measure and write `<reports>/speed/report.md` and `results.csv`; returns the report's path.

    Raises BenchError outside a clone of the repository: the usual loop lies in its `benchmarks/`.
    """
    if not (BENCHMARKS / USUAL_LOOP).is_file():
        raise BenchError(
            f"speed needs {BENCHMARKS / USUAL_LOOP}, which an installed package does not have; "
            "run it in a clone of the repository, installed there with pip install -e ."
        )
    experiment = load_experiment(BENCHMARKS / "speed.yaml").select(only or ("*",))
    data = load(experiment.dataset, data_dir).share()
    return compare(
        experiment, data, device, pace, rounds, reports, scaling=scaling, bf16=bf16, tell=_on_stderr
    )


def compare(
    experiment: Experiment,
    data: Dataset,
    device: str,
    pace: Pace,
    rounds: int,
    reports: Path,
    *,
    scaling: bool = False,
    bf16: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """`speed` of given variants on given data; `tell` hears each result as it comes."""
    runs = [variant.run(0) for variant in experiment.variants.values()]
    chosen = pick(device)
    usual = BENCHMARKS / USUAL_LOOP
    measured = measure(runs, data, chosen, pace, rounds, usual, tell, bf16=bf16)
    table = measure_scaling(runs[0], data, chosen, pace, rounds, tell) if scaling else []
    return write_report(reports / "speed", measured, table)


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
