"""The one place where a part's name becomes the class or function behind it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bench.parts.files import part_class
from bench.parts.likelihoods import LIKELIHOODS
from bench.parts.networks import DECODERS, ENCODERS
from bench.parts.objectives import OBJECTIVES
from bench.parts.optimizers import OPTIMIZERS, SCHEDULES
from bench.parts.pixels import INPUTS, PIXELS
from bench.parts.posteriors import POSTERIORS
from bench.parts.priors import PRIORS
from bench.parts.protocols import Objective
from bench.spec.experiment import Part, Run

REGISTRIES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "encoder": ENCODERS,
    "decoder": DECODERS,
    "posterior": POSTERIORS,
    "prior": PRIORS,
    "input": INPUTS,
    "target": PIXELS,
    "likelihood": LIKELIHOODS,
    "objective": OBJECTIVES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "model": {},  # of the user's own alone, as metrics are
    "metric": {},
    "dataset": {},  # bench's own are functions of a folder
}


def find(kind: str, part: Part) -> Callable[..., Any]:
    """Give the class or function that a part of a run names, of bench or of a file of the user's."""
    return part_class(REGISTRIES[kind], part)


def make(kind: str, part: Part, *given: Any, **sizes: Any) -> Any:
    """Make a part of what bench gives it, of those of the sizes that it names, and of its options."""
    found: Any = find(kind, part)
    return found(*given, *sized(found, **sizes), **part.options)


def sized(made: Callable[..., Any], **sizes: Any) -> list[Any]:
    """Give those of the sizes that a constructor names among its positional parameters, in its order."""
    if not sizes:
        return []
    parameters = inspect.signature(made).parameters.values()
    return [sizes[p.name] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name in sizes]


def called(kind: str, part: Part, **sizes: Any) -> Any:
    """Give a part that is called as it is: a function with its options, or an instance of a class."""
    if isinstance(found := find(kind, part), type):
        return make(kind, part, **sizes)
    return partial(found, **part.options) if part.options else found


def encoder_for(posterior: Part, part: Part, shape: Sequence[int], latent: int) -> Any:
    """Make an encoder, with the second head that the posterior asks for.

    Raises ValueError for an encoder that has none of that size.
    """
    second = {}
    if asks := getattr(find("posterior", posterior), "second_head", None):
        second = {"second": asks(latent)}
        if not sized(find("encoder", part), **second):
            what = f"posterior {posterior.name} asks for {second['second']} numbers in the second head"
            raise ValueError(f"{what}; encoder {part.name} has as many as latents")
    return make("encoder", part, shape, latent, **second)


def prior_of(run: Run, shape: Sequence[int]) -> Any:
    """Make the run's prior; None where it is the standard one."""
    return make("prior", run.prior, shape=shape, latent=run.latent) if run.prior else None


def objective_of(run: Run) -> Objective:
    """Make the run's objective."""
    made: Objective = make("objective", run.objective)
    return made
