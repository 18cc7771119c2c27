"""Experiment, Variant, Run: YAML -> checked runs with an identity. No torch is imported here."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError, did_you_mean, printable
from bench.spec.options import NonNegative, Positive, PositiveInt, Real

ENGINE = 1  # raised when the same specification comes to give other numbers
SLUG = "[a-z0-9][a-z0-9.-]{0,79}"  # fit for folders, links and tables on every system
FILE_STEM = "[A-Za-z0-9][A-Za-z0-9._-]{0,79}"
# What Windows takes for a device, whatever follows the dot; it drops a dot at the end
_UNFIT = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9])(\..*)?|.*\.", re.IGNORECASE)
# A matrix of this size trains for weeks; what is larger is a slip, and would only fill the memory
MAX_VARIANTS = 2_000  # of an experiment, with those of the files that it extends
MAX_RUNS = 100_000  # variants × seeds


def names_folder(name: str, pattern: str) -> bool:
    """Whether a name matches SLUG or FILE_STEM and can name a folder on every system."""
    return bool(re.fullmatch(pattern, name)) and not _UNFIT.fullmatch(name)


def _folder(pattern: str) -> AfterValidator:
    def check(name: str) -> str:
        if not names_folder(name, pattern):
            raise ValueError("cannot name a folder")
        return name

    return AfterValidator(check)


Slug = Annotated[str, _folder(SLUG)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Option = bool | int | float | str | list[int] | list[float] | list[str]


class _Frozen(BaseModel):
    # Deferred: a schema costs milliseconds to build, and `bench --help` uses none
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Part(_Frozen):
    """A named part with all its options, defaults filled in."""

    name: str
    options: dict[str, Option] = {}


class Published(_Frozen):
    """A number somebody printed; `value` × `to_nats` is nats per image."""

    value: Real
    unit: str = "nats/image"
    metric: Literal["train_loss", "test_loss", "validation_loss"]
    epoch: PositiveInt | None = None
    to_nats: Positive = 1.0
    uncertainty: NonNegative | None = None  # in the value's unit, such as ±10 for a number read off a plot
    source: str
    not_comparable: str | None = None  # the reason


class Size(_Frozen):
    """The latent size, on which `dz/dx` in other settings depends."""

    latent: Annotated[int, Field(ge=1, le=4096)]


class Settings(Size):
    """Everything that determines a result but the seed, the data's content and the engine."""

    dataset: str
    validation: Annotated[int, Field(ge=0, le=59_999)]  # images split off the training set
    encoder: Part
    decoder: Part
    posterior: Part
    input: Part
    target: Part
    likelihood: Part
    objective: Part
    optimizer: Part
    schedule: Part
    batch_size: Annotated[int, Field(ge=1, le=60_000)]
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    shuffle: bool
    drop_last: bool  # leave out the last batch of an epoch if it is smaller
    precision: Literal["fp32", "bf16"]
    importance_samples: Annotated[int, Field(ge=1, le=100_000)] = 200  # K of log_px


class Run(Settings):
    """One training and evaluation, resolved down to every default."""

    variant: Slug
    seed: Seed
    document: str | None = None

    def identity(self, digest: str, engine: int = ENGINE) -> str:
        """`<variant>-s<seed>-<8 hex digits>`, the digits a hash of all that determines the result.

        `digest` is the data's. Name and document of the variant are not hashed: renaming changes no result.
        """
        facts = self.model_dump(mode="json", exclude={"variant", "document"}) | {
            "data": digest,
            "engine": engine,
        }
        canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return f"{self.variant}-s{self.seed}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


class Variant(Settings):
    """A run less its seed, with what is said about it."""

    name: Slug
    label: str  # readable, such as `mlp-512-256-2 · bernoulli · β=32/784`
    axes: dict[str, str] = {}  # the matrix's axes and this variant's values, as written
    document: str | None = None  # the documented system it is
    published: tuple[Published, ...] = ()
    note: str | None = None

    def run(self, seed: int) -> Run:
        """The run of this variant with one seed."""
        about = {"name", "label", "axes", "published", "note"}
        return Run(variant=self.name, seed=seed, **{key: value for key, value in self if key not in about})


class Experiment(_Frozen):
    """A question, and the variants and seeds that answer it."""

    name: Annotated[str, _folder(FILE_STEM)]
    path: Path
    question: str
    dataset: str
    offline_fallback: str | None = None  # the dataset to go on with, loudly, where the first can't be had
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000)]
    variants: dict[Slug, Variant]

    def runs(self) -> Iterator[Run]:
        """Every run, seed-major: all variants of the first seed come first."""
        return (variant.run(seed) for seed in self.seeds for variant in self.variants.values())

    def select(self, globs: Iterable[str]) -> Experiment:
        """Only the variants that match a glob. Raises BenchError for a glob that matches none."""
        chosen = set()
        for glob in globs:
            matches = fnmatch.filter(self.variants, glob)
            if not matches:
                raise BenchError(
                    f"{glob!r} matches no variant of {self.path}{did_you_mean(glob, self.variants)}"
                )
            chosen.update(matches)
        return self.model_copy(update={"variants": {n: v for n, v in self.variants.items() if n in chosen}})

    def with_overrides(
        self, *, seeds: Iterable[int] | None = None, epochs: int | None = None, dataset: str | None = None
    ) -> Experiment:
        """Other seeds, epochs or dataset (which then has no fallback). Raises BenchError."""
        changes: dict[str, Any] = {}
        if seeds is not None:
            changes["seeds"] = _seeds(tuple(seeds))
            if fault := too_many_runs(len(self.variants), len(changes["seeds"])):
                raise BenchError(fault)
        if dataset is not None:
            from bench.spec.registry import part

            part("dataset", dataset)
            changes |= {"dataset": dataset, "offline_fallback": None}
        if epochs is not None and not 1 <= epochs <= 100_000:
            raise BenchError(f"epochs {epochs}; allowed: a whole number from 1 to 100000; give such a number")
        update = {
            key: value for key, value in (("epochs", epochs), ("dataset", dataset)) if value is not None
        }
        if update:
            changes["variants"] = {n: v.model_copy(update=update) for n, v in self.variants.items()}
        return self.model_copy(update=changes)

    def to_json(self) -> str:
        """The resolved experiment as JSON."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Experiment:
        """The experiment that `to_json` wrote. Raises BenchError for anything else."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(step) for step in first["loc"]) or "the text"
            what = printable(f"{where}: {first['msg']}")
            raise BenchError(
                f"not a resolved experiment ({what}); run the experiment again to write it"
            ) from None


def _seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not 1 <= len(seeds) <= 1000 or len(set(seeds)) < len(seeds) or not all(0 <= s < 2**32 for s in seeds):
        shown = ",".join(map(str, seeds[:10])) or "none"
        raise BenchError(f"seeds {shown}; allowed: 1 to 1000 different whole numbers from 0; give some")
    return seeds


def too_many_runs(variants: int, seeds: int) -> str:
    """What is wrong with so many runs, or ""."""
    if variants * seeds <= MAX_RUNS:
        return ""
    what = f"{variants} variants with {seeds} seeds are {variants * seeds} runs"
    return f"{what}; allowed: at most {MAX_RUNS}; take fewer seeds, or split the experiment"
