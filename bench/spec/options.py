"""The types that options of parts may have: each is its own range check.

Constructors of parts annotate their keyword-only parameters with these names, or with `Literal`, `list` and
`|` of them. `bench.spec.registry` makes of it the check that a YAML leaf has to pass. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bench.spec.source import given_text


@dataclass(frozen=True)
class Added:
    """Marks an option that a part got later: at its default it is no part of a run's identity."""


@dataclass(frozen=True)
class Says:
    """Tells an error message what a checked text may be, and the words to look for a near one in."""

    says: str
    words: tuple[str, ...]


PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # `32/784` and `dz/dx` are numbers, too
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Real = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
BelowOnes = Annotated[list[BelowOne], Field(min_length=2, max_length=2)]  # the two β of Adam and its kin
Milestones = Annotated[list[PositiveInt], Field(min_length=1, max_length=100)]  # epochs
Width = Annotated[int, Field(ge=1, le=16_384)]  # between two layers this wide lies a gigabyte of weights
Widths = Annotated[list[Width], Field(min_length=1, max_length=16)]  # hidden widths, input side first

# What options of torch's optimizers and schedules may be; any other is at least 0, or a bool as its default
TORCH_OPTIONS: dict[str, Any] = {
    **dict.fromkeys(("lr", "d", "gamma", "start_factor", "power"), Positive),
    **dict.fromkeys(("rho", "factor", "RMSprop.alpha"), BelowOne),
    **dict.fromkeys(("step_size", "total_iters", "T_max", "T_0", "T_mult"), PositiveInt),
    "beta2_decay": Real,
    "betas": BelowOnes,
    "milestones": Milestones,
}

# Elementwise activations of torch.nn, and their options with torch's defaults
ACTIVATIONS: dict[str, dict[str, float]] = {
    "CELU": {"alpha": 1.0},
    "ELU": {"alpha": 1.0},
    "GELU": {},
    "Hardshrink": {"lambd": 0.5},
    "Hardsigmoid": {},
    "Hardswish": {},
    "Hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "LeakyReLU": {"negative_slope": 0.01},
    "LogSigmoid": {},
    "Mish": {},
    "ReLU": {},
    "ReLU6": {},
    "SELU": {},
    "SiLU": {},
    "Sigmoid": {},
    "Softplus": {"beta": 1.0, "threshold": 20.0},
    "Softshrink": {"lambd": 0.5},
    "Softsign": {},
    "Tanh": {},
    "Tanhshrink": {},
}
SHORT_ACTIVATIONS = ("relu", "tanh", "identity")


def activation_text(given: object) -> str:
    """Write an activation as torch would, `LeakyReLU(negative_slope=0.2)`, of its name or {name, options}.

    Options that are not given have torch's defaults; short names stay, and so does what is written already.
    Raises ValueError.
    """
    if isinstance(given, dict):
        said: dict[str, Any] = dict(given)
        name = said.pop("name", None)
    else:
        name, said = activation_parts(str(given))
    if name in SHORT_ACTIVATIONS and not said:
        return str(name)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(
            f"options of {given_text(str(name))}" if name in SHORT_ACTIVATIONS else "another name"
        )
    for key, value in said.items():
        if key not in ACTIVATIONS[name]:
            raise ValueError(f"the unknown option {given_text(str(key))}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{given_text(str(key))}, which is no number")
    options = {key: float(said.get(key, default)) for key, default in ACTIVATIONS[name].items()}
    return f"{name}({', '.join(f'{k}={v}' for k, v in options.items())})" if options else name


def activation_parts(text: str) -> tuple[str, dict[str, float]]:
    """Read the name and the options of what `activation_text` wrote."""
    name, _, options = text.rstrip(")").partition("(")
    pairs = (option.split("=") for option in options.split(", ") if option)
    return name, {key: float(value) for key, value in pairs}


Activation = Annotated[
    str,
    BeforeValidator(activation_text),
    Says(
        "relu, tanh, identity or one of torch.nn such as {name: LeakyReLU, negative_slope: 0.2}",
        (*SHORT_ACTIVATIONS, *ACTIVATIONS),
    ),
]
# One for all layers, or one a layer
Activations = Activation | Annotated[list[Activation], Field(min_length=1)]
# Of an MLP, which had none of these at first
BatchNorms = Annotated[bool, Added()]
Dropout = Annotated[float, Field(ge=0, lt=1), Added()]
Initialisation = Annotated[
    Literal["torch", "xavier-uniform", "xavier-normal", "kaiming-uniform", "kaiming-normal"], Added()
]
Mean = Literal["sigmoid", "linear"]  # how a Gaussian's mean is made of the decoder's output
# torch's words: "sum" over pixels (or latents) and images, "batchmean" divides by images, "mean" by both
Reduction = Literal["sum", "batchmean", "mean"]
