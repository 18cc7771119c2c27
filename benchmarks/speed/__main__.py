"""`make speed`: measure training beside the loop everybody writes, and beside what the machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import DataDir, Device, Only, Reports
from bench.data.dataset import Dataset
from bench.data.datasets import load
from bench.engine.device import describe, pick
from bench.errors import BenchError
from bench.spec.experiment import Run
from bench.spec.resolve import load as load_experiment
from benchmarks.speed.limits import work_of
from benchmarks.speed.race import Pace
from benchmarks.speed.report import write_report
from benchmarks.speed.rounds import contestants_on, measure, race_cases, scaling_cases

SPEC = Path(__file__).parents[1] / "speed.yaml"


def main(
    data_dir: DataDir = None,
    device: Device = "auto",
    only: Only = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long each measurement lasts.")] = 3.0,
    steps: Annotated[int | None, typer.Option(min=1, help="So many steps each, in place of seconds.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each contestant.")] = 5,
    reports: Reports = Path("reports"),
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also cost by seeds, batch size, width, latent size.")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Also bench with products in bf16.")] = False,
) -> None:
    """Measure training beside the loop everybody writes and the machine's limits: reports/speed/report.md."""
    try:
        experiment = load_experiment(SPEC).select(only or ["*"])
        runs = [variant.run(0) for variant in experiment.variants.values()]
        data = load(experiment.dataset, data_dir).share()
        print(speed(runs, data, device, Pace(seconds, steps), rounds, reports, scaling=scaling, bf16=bf16))
    except BenchError as error:
        raise SystemExit(f"speed: {error}") from None


def speed(
    runs: list[Run],
    data: Dataset,
    device: str,
    pace: Pace,
    rounds: int,
    reports: Path,
    *,
    scaling: bool = False,
    bf16: bool = False,
) -> Path:
    """Measure runs on data in shared memory; write `<reports>/speed/`. Returns the path of its report.md."""
    chosen = pick(device)
    laps = measure(race_cases(runs, contestants_on(chosen, bf16=bf16)), data, chosen, pace, rounds)
    scaled = measure(scaling_cases(runs[0], chosen), data, chosen, pace, rounds) if scaling else None
    title = f"{data.name}, {len(data.train_images)} training images"
    work = {run.variant: work_of(run) for run in runs}
    return write_report(reports / "speed", title, laps, work, describe(chosen), scaled)


if __name__ == "__main__":
    typer.run(main)
