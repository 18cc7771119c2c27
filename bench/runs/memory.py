"""How much memory a run takes at least, from the shapes of its networks alone."""

from __future__ import annotations

import json
import math
import os

import torch

from bench.engine.own import samples_of
from bench.errors import BenchError
from bench.parts.lookup import objective_of
from bench.parts.vae import build, parameter_count
from bench.spec.experiment import PARTS, Experiment, Run

COPIES = 4  # of each trained number: its value, its gradient, and what Adam keeps
WIDTH = 4  # bytes of a number


def check_memory(experiment: Experiment, shape: tuple[int, ...], device: torch.device) -> None:
    """Refuse a variant that the device cannot hold; one with parts of the user's own is left to its author.

    Raises BenchError with what it takes and what there is.
    """
    there = _memory(device)
    known: dict[str, int] = {}
    for name, variant in experiment.variants.items():
        run = variant.run(experiment.seeds[0])
        parts = [part for kind in PARTS if (part := getattr(run, kind)) is not None]
        if any(part.sha256 for part in parts):
            continue
        networks = json.dumps(run.model_dump(include={"encoder", "decoder", "posterior", "prior", "latent"}))
        if networks not in known:
            known[networks] = _parameters(run, shape)
        images = samples_of(objective_of(run)) * run.batch_size
        needed = WIDTH * (COPIES * known[networks] + 2 * images * (math.prod(shape) + run.latent))
        if needed > there:
            what = f"{known[networks]:,} parameters and {images:,} samples a batch"
            raise BenchError(
                f"{name}: training takes {needed / 1e9:,.1f} GB at least ({what}), and {device} has "
                f"{there / 1e9:,.1f} GB; give it narrower networks, fewer latents or a smaller batch"
            )


def _parameters(run: Run, shape: tuple[int, ...]) -> int:
    with torch.device("meta"):
        return parameter_count(build(run, shape))


def _memory(device: torch.device) -> int:
    """The bytes that a device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
