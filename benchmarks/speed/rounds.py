"""Take laps in rounds: every case in turn, so that what happens to the machine happens to all alike."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import pandas as pd
import torch

from bench.data.dataset import Dataset
from bench.engine.device import available_cores
from bench.errors import BenchError
from bench.spec.experiment import Part, Run
from benchmarks.speed.race import Contestant, Pace, Task, lap

ATTEMPTS = 3  # of a lap whose threads were no faster than one
STACKED = 5  # replicas in one model, on an accelerator
USUAL = Contestant("usual loop", "usual")
TRAINER, PYTHAE = Contestant("Lightning's way", "trainer"), Contestant("pythae", "pythae")
# Values that --scaling gives one factor at a time
BATCH_SIZES = (32, 64, 128, 256, 512)
WIDTHS = (100, 200, 400, 800, 1600)
LATENTS = (2, 10, 20, 50, 100)


@dataclass(frozen=True)
class Case:
    """Say who trains what; `labels` are the columns that name it in results."""

    labels: dict[str, Any]
    contestant: Contestant
    run: Run


def contestants_on(device: torch.device, *, bf16: bool = False) -> list[Contestant]:
    """List the loops of others, bench with one run, and bench with as many as the device takes at once.

    pythae is one of them where it is installed.
    """
    if device.type == "cpu":
        cores = len(available_cores())
        crowd = [Contestant(f"bench, {cores} runs at once", "bench", cores)] if cores > 1 else []
        ours = [Contestant("bench, one run", "bench"), *crowd]
    else:
        several = Contestant(f"bench, {STACKED} seeds stacked", "stacked", replicas=STACKED)
        ours = [Contestant("bench, one run", "stacked"), several]
    rounded = [replace(ours[-1], name=f"{ours[-1].name}, bf16", precision="bf16")] if bf16 else []
    installed = [PYTHAE] if find_spec("pythae") else []
    return [USUAL, TRAINER, *installed, *ours, *rounded]


def race_cases(runs: Sequence[Run], contestants: Sequence[Contestant]) -> list[Case]:
    """List every run with every contestant."""
    return [
        Case({"architecture": run.variant, "contestant": c.name}, c, run) for run in runs for c in contestants
    ]


def scaling_cases(run: Run, device: torch.device) -> list[Case]:
    """List a run with one factor changed at a time; `usual_value` marks the one that the others keep."""
    on_cpu, cores = device.type == "cpu", len(available_cores())
    one = Contestant("one", "bench" if on_cpu else "stacked")
    cases = []

    def add(factor: str, value: int, usual: int, contestant: Contestant, **changes: Any) -> None:
        labels = {"factor": factor, "value": value, "usual_value": value == usual}
        cases.append(Case(labels, contestant, run.model_copy(update=changes)))

    for seeds in sorted({1, 2, cores, 2 * cores}) if on_cpu else (1, 2, 5, 10):
        add("seeds", seeds, 1, replace(one, processes=seeds) if on_cpu else replace(one, replicas=seeds))
    for batch in BATCH_SIZES:
        add("batch size", batch, run.batch_size, one, batch_size=batch)
    if isinstance(hidden := run.decoder.options.get("hidden"), list):
        for width in WIDTHS:
            wide = {"encoder": _widened(run.encoder, width), "decoder": _widened(run.decoder, width)}
            add("width", width, int(hidden[0]), one, **wide)
    for latent in LATENTS:
        add("latent size", latent, run.latent, one, latent=latent)
    return cases


def _widened(part: Part, width: int) -> Part:
    """Give every hidden layer of a part that width."""
    hidden = part.options["hidden"]
    wide = [width] * len(hidden) if isinstance(hidden, list) else width
    return part.model_copy(update={"options": part.options | {"hidden": wide}})


def measure(
    cases: Sequence[Case], data: Dataset, device: torch.device, pace: Pace, rounds: int
) -> pd.DataFrame:
    """Give every case so many laps, in turn; returns a row a lap and prints each on stderr.

    A lap whose threads were no faster than one is taken again, `attempts` in all: they then share a core.

    Raises BenchError where the data have no batch of a run.
    """
    for run in (case.run for case in cases):
        if run.batch_size > len(data.train_images):
            raise BenchError(
                f"{data.name} has {len(data.train_images)} training images, {run.variant} takes batches of "
                f"{run.batch_size}; measure on a larger set"
            )
    tell, rows = partial(print, file=sys.stderr, flush=True), []
    for number in range(1, rounds + 1):
        for case in cases:
            name = ", ".join(str(label) for label in [*case.labels.values()][:2])
            task = Task(case.run, data.train_images, data.train_labels, device, pace)
            row, attempts = lap(case.contestant, task), 1
            while not row["healthy"] and attempts < ATTEMPTS:
                tell(f"{name}: {row['threads']} threads were no faster than one; discarded, again")
                row, attempts = lap(case.contestant, task), attempts + 1
            rows.append({**case.labels, "round": number, **row, "attempts": attempts})
            tell(f"round {number}/{rounds}  {name}: {row['images_per_second']:,.0f} images/s")
    return pd.DataFrame(rows)
