"""`make speed`: measure training beside the loop everybody writes, and beside what the machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import DataDir, Device, Only, Reports
from bench.errors import BenchError
from benchmarks.speed import speed
from benchmarks.speed.race import Pace


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
    """Measure training beside the loop everybody writes and the machine's limits."""
    pace = Pace(seconds, steps)
    try:
        print(speed(data_dir, device, tuple(only or ()), pace, rounds, reports, scaling=scaling, bf16=bf16))
    except BenchError as error:
        raise SystemExit(f"speed: {error}") from None


if __name__ == "__main__":
    typer.run(main)
