"""Experiment, Variant, Run: what a YAML file is checked against, and the identity of a run. No torch here."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from bench.errors import BenchError, did_you_mean
from bench.spec.images import npz_shape
from bench.spec.options import NonNegative, Positive, PositiveInt, Real
from bench.spec.registry import image_shape, part

ENGINE = 1  # raised when the same specification comes to give other numbers
SLUG = "[a-z0-9][a-z0-9.-]{0,79}"  # fit for folders, links and tables on every system
FILE_STEM = "[A-Za-z0-9][A-Za-z0-9._-]{0,79}"
# What Windows takes for a device, whatever follows the dot; it drops a dot at the end
_UNFIT = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9])(\..*)?|.*\.", re.IGNORECASE)
# A matrix of this size trains for weeks; what is larger is a slip, and would only fill the memory
MAX_VARIANTS = 2_000  # of an experiment, with those of the files that it extends
MAX_RUNS = 100_000  # variants × seeds


def names_folder(name: str, pattern: str) -> bool:
    """Tell whether a name matches SLUG or FILE_STEM and can name a folder on every system."""
    return bool(re.fullmatch(pattern, name)) and not _UNFIT.fullmatch(name)


def _slug(name: str) -> str:
    if not names_folder(name, SLUG):
        raise ValueError("cannot name a folder")
    return name


Slug = Annotated[str, AfterValidator(_slug)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Precision = Literal["fp32", "bf16"]
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=1000)]
Scalar = bool | int | float | str


class _Frozen(BaseModel):
    # Deferred: a schema costs milliseconds to build, and `bench --help` uses none
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Part(_Frozen):
    """A named part with all its options, defaults filled in.

    One from a file of the user's own has the SHA-256 of the file. The path stays with the process that read
    the YAML and those it sends the run to: it is neither hashed nor dumped, nor is it read from a record. So
    a record, which may be somebody else's, never names code to be run.
    """

    name: str
    options: dict[str, Scalar | list[Scalar]] = {}
    sha256: Sha256 | None = None
    _file: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """Give the file to import the part from; None for a built-in one and for one read from a record."""
        return self._file

    def located(self, file: Path) -> Self:
        """Copy the part with the file to import it from."""
        copy = self.model_copy()
        copy._file = file
        return copy

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Built-in parts are dumped, and hashed, as they were before there were others
        return {key: value for key, value in handler(self).items() if value is not None}


class OwnMetric(Part):
    """A metric from a file of the user's own, with what the file says of it: how a report shows it."""

    title: str
    unit: str = ""
    direction: Literal["higher", "lower"] | None = None  # None: a description, never ranked


class Published(_Frozen):
    """A number somebody printed; `value` × `to_nats` is nats per image."""

    value: Real
    unit: str = "nats/image"
    metric: str  # a loss of the curves, or any of the table of metrics
    epoch: PositiveInt | None = None
    to_nats: Positive = 1.0
    uncertainty: NonNegative | None = None  # in the value's unit, such as ±10 for a number read off a plot
    source: str
    not_comparable: str | None = None  # the reason


class Claim(_Frozen):
    """A prediction: one variant is better than another by more than `by`, or equal to it within `within`.

    Both are in the metric's unit; of a metric whose differences are ratios, factors.
    """

    name: str
    better: str | None = None
    than: str | None = None
    equal: str | None = None
    to: str | None = None
    on: str  # a metric of the table of metrics
    by: NonNegative = 0.0
    within: Positive = 1.0

    @property
    def variants(self) -> tuple[str, str]:
        """The two variants: the one that is said to be better first."""
        return str(self.better or self.equal), str(self.than or self.to)


class Size(_Frozen):
    """The latent size, on which `dz/dx` in other settings depends."""

    latent: Annotated[int, Field(ge=1, le=4096)]


COMPOSED = ("encoder", "decoder", "posterior")  # of what bench composes a model; a `model` is one whole
# Settings that came later, or that not every run has: empty they are as good as absent
ADDED = (*COMPOSED, "model", "prior", "patience", "clip_norm", "metrics", "own_data")


class Settings(Size):
    """Everything that determines a result but the seed, the data's content and the engine."""

    dataset: str  # its name; of one's own such as mine.npz or mine_data.Mine
    own_data: Part | None = None  # what gives a data set of one's own: `npz`, or a part of a Python file
    validation: Annotated[int, Field(ge=0, le=59_999)]  # images split off the training set
    model: Part | None = None
    encoder: Part | None = None
    decoder: Part | None = None
    posterior: Part | None = None
    prior: Part | None = None  # N(0, I) without one
    input: Part
    target: Part
    likelihood: Part
    objective: Part
    optimizer: Part
    schedule: Part
    batch_size: Annotated[int, Field(ge=1, le=60_000)]
    epochs: Annotated[int, Field(ge=1, le=100_000)]  # with patience, at most
    # Epochs without a lower validation loss after which training ends, to measure the model of the best
    # epoch; 0 trains all epochs, to measure the model of the last
    patience: Annotated[int, Field(ge=0, le=100_000)] = 0
    clip_norm: NonNegative = 0.0  # a batch's gradient is scaled down to this norm; 0 leaves it as it is
    shuffle: bool
    drop_last: bool  # leave out the last batch of an epoch if it is smaller
    precision: Precision
    importance_samples: Annotated[int, Field(ge=1, le=100_000)] = 200  # K of iwae_bernoulli
    metrics: list[OwnMetric] = []  # of the user's own, beside the table's

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if any((getattr(self, kind) is None) != (self.model is not None) for kind in COMPOSED):
            raise ValueError(f"either a model, or {', '.join(COMPOSED)}")
        return self

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Settings without these are dumped, and hashed, as they were before there were any
        return {key: value for key, value in handler(self).items() if value or key not in ADDED}


# What a variant says in YAML: all of it but what is said once a file
ONCE = ("dataset", "own_data", "importance_samples", "metrics")
SETTINGS = tuple(name for name in Settings.model_fields if name not in ONCE)
PARTS = tuple(name for name in SETTINGS if Settings.model_fields[name].annotation in (Part, Part | None))
ABOUT = ("document", "published", "note")  # true of one variant, never inherited by another


class _Keyed(_Frozen):
    """What is stored under a hash of all that determines its result."""

    variant: Slug
    seed: Seed
    document: str | None = None

    def key(self, digest: str, engine: int = ENGINE) -> str:
        """Name the run by what determines its result: `<16 hex digits>-s<seed>`, its folder in a store.

        `digest` is the data's. Name and document of the variant are not hashed: renaming changes no result.
        Nor is the name of a data set of one's own, which is its file's.
        """
        told = {"variant", "document"} | ({"dataset"} if getattr(self, "own_data", None) else set())
        facts = self.model_dump(mode="json", exclude=told) | {"data": digest, "engine": engine}
        canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return f"{hashlib.sha256(canonical.encode()).hexdigest()[:16]}-s{self.seed}"

    def identity(self, digest: str, engine: int = ENGINE) -> str:
        """Name the run as people read it; `digest` is the data's."""
        return self.name_of(self.key(digest, engine))

    def name_of(self, key: str) -> str:
        """Name the run of a key as people read it: `<variant>-s<seed>-<8 hex digits>`, the key's first."""
        return f"{self.variant}-s{self.seed}-{key[:8]}"


class Run(_Keyed, Settings):
    """One training and evaluation, resolved down to every default."""

    @property
    def parts(self) -> list[Part]:
        """All of its parts, which may be from files of the user's own."""
        return [*filter(None, (*(getattr(self, kind) for kind in PARTS), self.own_data)), *self.metrics]


class Judged(_Keyed, Size):
    """A model that was trained elsewhere, as it is measured here."""

    dataset: str
    model: Part
    weights: Sha256  # of the state_dict as safetensors
    importance_samples: Annotated[int, Field(ge=1, le=100_000)] = 200
    epochs: ClassVar[int] = 0  # trained here
    validation: ClassVar[int] = 0
    metrics: ClassVar[tuple[OwnMetric, ...]] = ()  # of the user's own: no file of theirs is at hand


class Variant(Settings):
    """A run less its seed, with what is said about it."""

    name: Slug
    label: str  # readable, such as `mlp-512-256-2 · bernoulli · β=32/784`
    axes: dict[str, str] = {}  # the matrix's axes and this variant's values, as written
    document: str | None = None  # the documented system it is
    published: tuple[Published, ...] = ()
    note: str | None = None

    def run(self, seed: int) -> Run:
        """Make the run of this variant with one seed."""
        about = {"name", "label", "axes", "published", "note"}
        return Run(variant=self.name, seed=seed, **{key: value for key, value in self if key not in about})


class Experiment(_Frozen):
    """A question, and the variants and seeds that answer it."""

    name: str
    path: Path
    question: str
    dataset: str
    offline_fallback: str | None = None  # the dataset to go on with, loudly, where the first can't be had
    seeds: tuple[Seed, ...]
    equivalence_margin: Positive = 1.0  # nats within which the report calls two variants equal
    claims: tuple[Claim, ...] = ()  # made before the runs, as far as they are
    variants: dict[Slug, Variant]

    @property
    def own_data(self) -> Part | None:
        """What gives the data set, if it is one of the user's own."""
        return next(iter(self.variants.values())).own_data

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of an image; None of a Python file's data, which nobody knows before they are made."""
        own = self.own_data
        if own is None:
            return image_shape(self.dataset)
        return None if own.sha256 or own.file is None else npz_shape(own.file)

    def digest(self) -> str:
        """Hash what is asked and expected: question, data, seeds, margin, variants and claims."""
        return hashlib.sha256(self.model_dump_json(exclude={"name", "path"}).encode()).hexdigest()

    def runs(self) -> Iterator[Run]:
        """Make every run, seed-major: all variants of the first seed come first."""
        return (variant.run(seed) for seed in self.seeds for variant in self.variants.values())

    def select(self, globs: Iterable[str]) -> Experiment:
        """Keep only the variants that match a glob. Raises BenchError for a glob that matches none."""
        chosen = set()
        for glob in globs:
            matches = fnmatch.filter(self.variants, glob)
            if not matches:
                known = did_you_mean(glob, self.variants)
                raise BenchError(f"{glob!r} matches no variant of {self.path}{known}")
            chosen.update(matches)
        return self.model_copy(update={"variants": {n: v for n, v in self.variants.items() if n in chosen}})

    def with_overrides(
        self,
        *,
        seeds: Iterable[int] | None = None,
        epochs: int | None = None,
        dataset: str | None = None,
        precision: str | None = None,
    ) -> Experiment:
        """Take other seeds, epochs, dataset (which then has no fallback) or precision. Raises BenchError."""
        changes: dict[str, Any] = {}
        update: dict[str, Any] = {}
        if seeds is not None:
            changes["seeds"] = chosen = tuple(seeds)
            fit = 1 <= len(chosen) <= 1000 and all(0 <= seed < 2**32 for seed in chosen)
            if not fit or len(set(chosen)) < len(chosen):
                shown = ",".join(map(str, chosen[:10])) or "none"
                allowed = "1 to 1000 different whole numbers from 0"
                raise BenchError(f"seeds {shown}; allowed: {allowed}; give some")
            if fault := too_many_runs(len(self.variants), len(chosen)):
                raise BenchError(fault)
        if epochs is not None:
            if not 1 <= epochs <= 100_000:
                allowed = "allowed: a whole number from 1 to 100000"
                raise BenchError(f"epochs {epochs}; {allowed}; give such a number")
            update["epochs"] = epochs
        if dataset is not None:
            part("dataset", dataset)
            if image_shape(dataset) != self.shape:  # dz/dx, and networks, depend on it
                what = f"dataset {dataset} has images of another shape than {self.dataset}"
                raise BenchError(f"{what}; write an experiment for it")
            changes |= {"dataset": dataset, "offline_fallback": None}
            update |= {"dataset": dataset, "own_data": None}
        if precision is not None:
            if precision not in (known := get_args(Precision)):
                allowed = f"allowed: {' or '.join(known)}; give one of them"
                raise BenchError(f"precision {precision!r}; {allowed}")
            update["precision"] = precision
        changes["variants"] = {n: v.model_copy(update=update) for n, v in self.variants.items()}
        return self.model_copy(update=changes)


def too_many_runs(variants: int, seeds: int) -> str:
    """Say what is wrong with so many runs, or ""."""
    if variants * seeds <= MAX_RUNS:
        return ""
    what = f"{variants} variants with {seeds} seeds are {variants * seeds} runs"
    return f"{what}; allowed: at most {MAX_RUNS}; take fewer seeds, or split the experiment"
