"""The types that options of parts may have: each is its own range check.

Constructors of parts annotate their keyword-only parameters with these names, or with `Literal`, `list` and
`|` of them. `bench.spec.registry` makes of it the check that a YAML leaf has to pass. No torch here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

PositiveInt = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # `32/784` and `dz/dx` are numbers, too
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Real = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
BelowOnes = Annotated[list[BelowOne], Field(min_length=2, max_length=2)]  # the two β of Adam and its kin
Milestones = Annotated[list[PositiveInt], Field(min_length=1, max_length=100)]  # epochs
Width = Annotated[int, Field(ge=1, le=16_384)]  # between two layers this wide lies a gigabyte of weights
Widths = Annotated[list[Width], Field(min_length=1, max_length=16)]  # hidden widths, input side first

Activation = Literal["relu", "tanh", "identity"]
# One for all layers, or one a layer
Activations = Activation | Annotated[list[Activation], Field(min_length=1)]
Mean = Literal["sigmoid", "linear"]  # how a Gaussian's mean is made of the decoder's output
# torch's words: "sum" over pixels (or latents) and images, "batchmean" divides by images, "mean" by both
Reduction = Literal["sum", "batchmean", "mean"]
