"""What a replica's image costs against the number of seeds, batch size, width and latent size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from bench.data.datasets import Dataset
from bench.engine.device import available_cores
from bench.spec.experiment import Part, Run
from benchmarks.speed.race import Contestant, Pace, Task, lap
from benchmarks.speed.rounds import Spread

BATCH_SIZES = (32, 64, 128, 256, 512)
WIDTHS = (100, 200, 400, 800, 1600)
LATENTS = (2, 10, 20, 50, 100)


@dataclass(frozen=True)
class Cell:
    """One value of one factor, and the images a second that it gave over the rounds."""

    factor: str
    value: int
    rate: Spread  # of all replicas together
    usual_value: bool  # the value that the other factors' cells have


def measure_scaling(
    run: Run, data: Dataset, device: torch.device, pace: Pace, rounds: int, tell: Callable[[str], None]
) -> list[Cell]:
    """Change one factor of a run at a time; cells are interleaved as the contestants are."""
    cases = list(_cases(run, device))
    rates: list[list[float]] = [[] for _ in cases]
    for number in range(1, rounds + 1):
        for case, found in zip(cases, rates, strict=True):
            factor, value, changed, contestant = case
            taken = lap(contestant, Task(changed, data.train_images, data.train_labels, device), pace)
            found.append(taken.rate)
            tell(f"round {number}/{rounds}  {factor} {value}: {taken.rate:,.0f} images/s")
    base = {"seeds": 1, "batch size": run.batch_size, "width": _width(run), "latent size": run.latent}
    return [
        Cell(factor, value, Spread.of(found), value == base[factor])
        for (factor, value, *_), found in zip(cases, rates, strict=True)
    ]


def _cases(run: Run, device: torch.device) -> Iterator[tuple[str, int, Run, Contestant]]:
    """Factor, value, the run changed by it, and who trains it."""
    on_cpu = device.type == "cpu"
    one = Contestant("one", "bench" if on_cpu else "stacked")
    cores = len(available_cores())
    for seeds in sorted({1, 2, cores, 2 * cores}) if on_cpu else (1, 2, 5, 10):
        many = Contestant("seeds", "bench", seeds) if on_cpu else Contestant("seeds", "stacked", 1, seeds)
        yield "seeds", seeds, run, many
    for batch in BATCH_SIZES:
        yield "batch size", batch, run.model_copy(update={"batch_size": batch}), one
    if _width(run):
        for width in WIDTHS:
            changed = {"encoder": _widened(run.encoder, width), "decoder": _widened(run.decoder, width)}
            yield "width", width, run.model_copy(update=changed), one
    for latent in LATENTS:
        yield "latent size", latent, run.model_copy(update={"latent": latent}), one


def _width(run: Run) -> int:
    """The width of the decoder's first hidden layer; 0 where it has none."""
    hidden = run.decoder.options.get("hidden")
    return int(hidden[0]) if isinstance(hidden, list) else 0


def _widened(part: Part, width: int) -> Part:
    """The part with every hidden layer of that width."""
    hidden = part.options["hidden"]
    wide = [width] * len(hidden) if isinstance(hidden, list) else width
    return part.model_copy(update={"options": part.options | {"hidden": wide}})
