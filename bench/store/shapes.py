"""What bench's files of JSON may hold: the types, sizes and numbers that every reader relies on."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, Required, get_args

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypeAliasType, TypedDict

KEY = r"^[0-9a-f]{16}-s\d{1,10}$"
FORMAT = 2  # raised whenever an older record can no longer be read correctly

Status = Literal["finished", "diverged", "failed", "interrupted"]
STATUSES: tuple[str, ...] = get_args(Status)

Text = Annotated[str, Field(max_length=100_000, pattern=r"^[^\x00]*$")]
Name = Annotated[str, Field(max_length=300, pattern=r"^[^\x00]*$")]
Heading = Annotated[
    str, Field(pattern=r"^[\w /%²³√·^().,+-]{0,40}$")
]  # nothing that a table takes for markup
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
LARGEST = 1e60  # its fourth power is a number too
Real = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Number = Whole | Real
Value = TypeAliasType("Value", "bool | Whole | Real | Text | list[Value] | dict[Name, Value] | None")
Table = dict[Name, Value] | None
Numbers = Annotated[dict[Name, Number | None], Field(max_length=1_000)] | None

Scalar = bool | Whole | Real | Text | None
Facts = dict[Name, Scalar] | None
Side = Annotated[int, Field(ge=1, le=4096)]  # of an image, in pixels
EpochNumber = Annotated[int, Field(ge=1, le=100_000)]


class Epoch(TypedDict, total=False):
    """A row of the curves."""

    epoch: Required[EpochNumber]
    test_loss_nats: Number | None


class Chosen(TypedDict, total=False):
    """Which epoch a run with patience was measured at, and why it ended."""

    epoch: Required[Annotated[int, Field(ge=0, le=100_000)]]  # 0 where none was finite
    ended: Text | None


class Diverged(TypedDict, total=False):
    """Where a run diverged."""

    epoch: Required[EpochNumber]
    term: Text | None


class Data(TypedDict, total=False):
    """What a run was trained on."""

    name: Required[Text]
    digest: Required[Text]
    shape: Annotated[list[Side], Field(min_length=2, max_length=3)]
    train: Whole
    validation: Whole
    test: Whole


class Recorded(TypedDict, total=False):
    """A record; what is absent, and what is more, is no fault."""

    format: Required[Annotated[int, Field(ge=FORMAT, le=FORMAT)]]
    id: Required[Name]
    status: Required[Status]
    variant: Required[Name]
    seed: Required[Annotated[int, Field(ge=0, lt=2**63)]]
    run: Required[Table]
    reason: Text | None
    diverged: Diverged | None
    chosen: Chosen | None
    yardstick: Annotated[int, Field(ge=1, le=1_000)]
    beta_eff: Number | None
    likelihood_class: Text | None
    metrics: Numbers
    undefined: list[Name]
    monte_carlo_error: Numbers
    kl_per_unit: list[Number] | None
    curves: Annotated[list[Epoch], Field(max_length=100_000)] | None
    calibration: Numbers
    evaluation_seconds: Numbers
    environment: Facts
    data: Data | None
    git: Facts
    experiment: Text | None
    started: Text | None
    finished: Text | None
    trained_as: Name | None
    command: Text | None
    artifacts: Annotated[dict[Name, Name], Field(max_length=10_000)] | None
    origin: Name | None
    joined: Name | None
    mlflow: Table


class Planned(TypedDict):
    """One run of an experiment: its variant there, its seed, and its folder in the store."""

    variant: Name
    seed: Whole
    run: Annotated[str, Field(pattern=KEY)]


class OwnMetric(TypedDict, total=False):
    """A metric of the user's own, as a report shows it."""

    name: Required[Heading]
    title: Required[Heading]
    unit: Heading
    direction: Literal["higher", "lower"] | None


class Printed(TypedDict, total=False):
    """A number that somebody published."""

    value: Number | None
    unit: Text | None
    metric: Text | None
    epoch: Whole | None
    to_nats: Number | None
    uncertainty: Number | None
    source: Text | None
    not_comparable: Text | None


class Claimed(TypedDict, total=False):
    """A prediction, and when it was made."""

    name: Text | None
    better: Name | None
    than: Name | None
    equal: Name | None
    to: Name | None
    on: Required[Text]
    by: Number | None
    within: Number | None
    registered: Facts


class OwnData(TypedDict, total=False):
    """What gives a data set of the user's own."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    name: Required[Name]
    options: dict[Name, Scalar | list[Scalar]]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Settings(TypedDict, total=False):
    """A variant."""

    latent: Whole | None
    own_data: OwnData | None
    importance_samples: Annotated[int, Field(ge=1, le=100_000)] | None
    epochs: Annotated[int, Field(ge=1, le=100_000)] | None
    patience: Annotated[int, Field(ge=0, le=100_000)] | None
    label: Text | None
    document: Text | None
    note: Text | None
    batch_size: Whole | None
    axes: Facts
    metrics: Annotated[list[OwnMetric], Field(max_length=1_000)]
    published: Annotated[list[Printed], Field(max_length=10_000)] | None


class Spec(TypedDict, total=False):
    """experiment.json."""

    variants: Required[Annotated[dict[Name, Settings], Field(max_length=2_000)]]
    planned: Annotated[dict[Name, Planned], Field(max_length=100_000)] | None
    seeds: list[Whole] | None
    question: Text | None
    command: Text | None
    by: Name | None
    equivalence_margin: Number | None
    budget: Facts | None
    claims: Annotated[list[Claimed], Field(max_length=1_000)] | None


class Source(TypedDict):
    """Runs of others, as their experiment has them."""

    name: Name
    variants: Annotated[dict[Name, Settings], Field(max_length=2_000)]
    planned: Annotated[dict[Name, Planned], Field(max_length=100_000)]


class Joined(TypedDict):
    """joined.json."""

    sources: Annotated[list[Source], Field(max_length=1_000)]


class Of(TypedDict, total=False):
    """What baselines are of."""

    data: Text
    latents: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(max_length=10_000)]


class Baselines(TypedDict, total=False):
    """baselines.json."""

    rows: Annotated[list[dict[Name, Value]], Field(max_length=10_000)]
    of: Of
    samples: dict[Name, dict[Name, Value]]
    classifier: dict[Name, Value]


@cache
def shape(kind: Any) -> TypeAdapter[Any]:
    """Make the reader of one kind of file, once."""
    return TypeAdapter(kind)
