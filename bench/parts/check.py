"""Hold the parts of a user's own file to their protocols: `bench check`.

It imports the file, which runs it with the user's rights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from bench.errors import BenchError, did_you_mean, printable
from bench.parts import laws, model_laws
from bench.parts.files import part_class, raised
from bench.parts.lookup import sized
from bench.spec.experiment import PARTS, Part
from bench.spec.own import own_metric
from bench.spec.registry import Module, read_module

SIZED = ("posterior", "prior")  # whose constructors are given the sizes that they name
KINDS = (*dict.fromkeys((*PARTS, "prior", "metric", "dataset")),)


@dataclass(frozen=True)
class Found:
    """What came out of one part: its kind and the first thing that is wrong, "" of a good one."""

    name: str
    kind: str
    fault: str


def check_file(path: Path, name: str | None = None, kind: str | None = None) -> list[Found]:
    """Check the parts of a Python file, each with the defaults of its options, or the one called `name`.

    What `kind` a part is of is told by its methods, unless it is said. Classes without methods of a part, and
    what starts with an underscore, are left alone. Raises BenchError for a file that cannot be imported, an
    unknown name or kind, and a file without parts.
    """
    if kind is not None and kind not in KINDS:
        raise BenchError(f"unknown kind of part {printable(kind)!r}{did_you_mean(kind, KINDS)}")
    module = read_module(path)
    public = [each for each in module.defined if not each.startswith("_")]
    if name is not None and name not in public:
        raise BenchError(f"{path} defines no {printable(name)!r}{did_you_mean(name, public)}")
    own = _Own(module, {})
    for each in [name] if name else public:
        if found := kind or kind_of(own.imported(each)):
            own.kinds[each] = found
    if not own.kinds:
        what = f"{path}: {name or 'nothing in it'} is like a part"
        raise BenchError(f"{what}; docs/bring-your-own.md shows them; say by --kind what it is to be")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [Found(each, found, own.fault(each)) for each, found in own.kinds.items()]


def kind_of(made: Any) -> str | None:
    """Tell the kind of part by the methods of a class or the parameters of a function; None if it is none."""
    given = _positional(made)
    if not isinstance(made, type):
        by_name = {
            "params": "optimizer",
            "parameters": "optimizer",
            "optimizer": "schedule",
            "model": "metric",
        }
        parameters = inspect.signature(made).parameters.values()
        if not given and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            return "dataset"  # a posterior may take any number of heads
        return by_name.get(given[0], "posterior") if given else None
    called = _positional(getattr(made, "forward", made.__call__))[1:]
    decodes = "decoder" in made.__name__.lower() or called[:1] == ["z"]
    annotations = inspect.get_annotations(made)
    dense = hasattr(made, "log_prob") and hasattr(made, "sample")
    signs = (  # the first that holds tells
        (issubclass(made, torch.optim.Optimizer), "optimizer"),
        (issubclass(made, torch.optim.lr_scheduler.LRScheduler), "schedule"),
        (hasattr(made, "to_grey"), "target"),
        (hasattr(made, "encode") and hasattr(made, "decode"), "model"),
        (dense and {*given} <= {"shape", "latent"}, "prior"),
        (given[:1] == ["shape"], "decoder" if decodes else "encoder"),
        (not given and {"images", "train_images"} & {*dir(made), *annotations}, "dataset"),
        (bool(given), None),  # a class that the user's own code makes: a layer, a distribution
        (hasattr(made, "log_prob"), "likelihood"),
        ("terms" in called or "seen" in called, "objective"),
        (called[:1] == ["model"], "metric"),
        (bool(called), "posterior"),
    )
    return next((kind for holds, kind in signs if holds), None)


def _positional(called: Any) -> list[str]:
    """Name the positional parameters of a function, or of a class's constructor; none where it has none."""
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


@dataclass(frozen=True)
class _Own:
    """A file as parsed, and the kinds of those of its parts that are checked."""

    module: Module
    kinds: dict[str, str]

    def imported(self, name: str) -> Any:
        part = Part(name=name, sha256=self.module.sha256).located(self.module.path)
        return part_class({}, part)

    def made(self, name: str) -> Callable[..., Any]:
        """Give what makes a part of what bench gives it: with the defaults of its options."""
        options: BaseModel = self.module.entry(self.kinds[name], name, name).model.model_validate({})
        made, sizes = self.imported(name), []
        if self.kinds[name] in SIZED and isinstance(made, type):
            sizes = sized(made, shape=laws.SHAPE, latent=laws.LATENT)
        return partial(made, *sizes, **options.model_dump())

    def fault(self, name: str) -> str:
        """Say what is wrong with one part first, as what follows is often the same; "" of a good one."""
        try:
            self._hold(name)
        except (BenchError, laws.Fault) as error:
            return str(error)
        except ValidationError as error:
            missing = error.errors(include_url=False)[0]["loc"][0]
            return f"its option {missing} has no default to check it with; give one, if only while checking"
        except Exception as error:  # whatever a user's own code raises
            return raised(error, self.module.path)
        return ""

    def _hold(self, name: str) -> None:
        kind, make = self.kinds[name], self.made(name)
        called = make() if kind in ("posterior", "metric") and isinstance(self.imported(name), type) else make
        if kind == "posterior":
            laws.posterior(called, self._heads(called))
        elif kind == "model":
            model_laws.whole(make(laws.SHAPE, laws.LATENT))
        elif kind == "metric":
            own_metric(Part(name=name, sha256=self.module.sha256), self.module)
            model_laws.metric(called)
        elif kind == "encoder":
            laws.encoder(make, "posterior" in self.kinds.values())
        elif kind == "decoder":
            laws.decoder(make, "likelihood" in self.kinds.values())
        elif kind == "likelihood":
            laws.likelihood(make, self._outputs)
        else:
            LAWS[kind](make)

    def _heads(self, made: Any) -> tuple[Tensor, ...]:
        """Make heads for a posterior: those of the file's own encoder, or standard normal ones."""
        if encoder := self._first("encoder"):
            images = torch.rand(laws.IMAGES, laws.PIXELS)
            return laws.heads_of(self.made(encoder)(laws.SHAPE, laws.LATENT)(images))
        if hasattr(made, "second_head"):
            sizes = (laws.LATENT, made.second_head(laws.LATENT))
            return tuple(torch.randn(laws.IMAGES, size) for size in sizes)
        count = len(_positional(made)) or 2
        return tuple(torch.randn(laws.IMAGES, laws.LATENT) for _ in range(count))

    @cached_property
    def _outputs(self) -> int:
        """Count the outputs a pixel of the file's own decoder; 1 without one."""
        decoder = self._first("decoder")
        return laws.decoder(self.made(decoder), likelihood=True) if decoder else 1

    def _first(self, kind: str) -> str | None:
        return next((name for name, other in self.kinds.items() if other == kind), None)


LAWS: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "prior": laws.prior,
    "input": laws.pixels,
    "target": laws.pixels,
    "objective": laws.objective,
    "optimizer": laws.optimizer,
    "schedule": laws.schedule,
    "dataset": laws.dataset,
}
