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


def make(kind: str, part: Part, *given: Any) -> Any:
    """Make a part of what bench gives it (sizes, parameters) and of its options."""
    return find(kind, part)(*given, **part.options)


def sized(made: Callable[..., Any], **sizes: Any) -> list[Any]:
    """Give those of the sizes that a constructor names among its positional parameters, in its order."""
    parameters = inspect.signature(made).parameters.values()
    return [sizes[p.name] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name in sizes]


def prior_of(run: Run, shape: Sequence[int]) -> Any:
    """Make the run's prior; None where it is the standard one."""
    if run.prior is None:
        return None
    return make("prior", run.prior, *sized(find("prior", run.prior), shape=shape, latent=run.latent))


def posterior_of(run: Run) -> Any:
    """Give the run's posterior: a function of the encoder's heads, or an instance of a class of such."""
    assert run.posterior is not None  # noqa: S101  only a composed model asks
    return called("posterior", run.posterior, latent=run.latent)


def encoder_of(run: Run, shape: Sequence[int]) -> Any:
    """Make the run's encoder, with the second head that the posterior asks for.

    Raises ValueError for an encoder that has none of that size.
    """
    assert run.encoder and run.posterior  # noqa: S101, PT018
    asks = getattr(find("posterior", run.posterior), "second_head", None)
    if asks is None:
        return make("encoder", run.encoder, shape, run.latent)
    second = sized(find("encoder", run.encoder), second=asks(run.latent))
    if not second:
        what = f"posterior {run.posterior.name} asks for {asks(run.latent)} numbers in the second head"
        raise ValueError(f"{what}; encoder {run.encoder.name} has as many as latents")
    return make("encoder", run.encoder, shape, run.latent, *second)


def called(kind: str, part: Part, **sizes: Any) -> Any:
    """Give a part that is called as it is: a function with its options, or an instance of a class."""
    found = find(kind, part)
    if isinstance(found, type):
        return found(*sized(found, **sizes), **part.options)
    return partial(found, **part.options) if part.options else found


def objective_of(run: Run) -> Objective:
    """Make the run's objective."""
    made: Objective = make("objective", run.objective)
    return made
