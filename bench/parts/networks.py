"""Encoders x -> (mean, second head) and decoders z -> output, before any output non-linearity.

The posterior says what the second head means (log σ², raw σ), the likelihood what the output means (logits, a
mean). Networks are only functions. A posterior may ask for another size of the second head than Z: `second`.

Shapes: B images, D pixels (an image lies flat), Z latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn.functional import fold

from bench.parts.protocols import Decoder, Encoder, Shape
from bench.spec.options import (
    Activation,
    Activations,
    BatchNorms,
    Dropout,
    Initialisation,
    Width,
    Widths,
    activation_parts,
)

CONV_SMALLEST = 8  # pixels a side that document 002's three convolutions need
SHORT: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "identity": nn.Identity}


INITIALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier-uniform": nn.init.xavier_uniform_,
    "xavier-normal": nn.init.xavier_normal_,
    "kaiming-uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "kaiming-normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
}


class MLPEncoder(nn.Module):
    """Fully connected layers, each with its activation, then two linear heads.

    With `batch_norm` each layer is normalised before its activation, with `dropout` dropped out after it.
    `init` is torch's own, or one of Glorot & Bengio 2010 or He et al. 2015 with zero biases.
    """

    def __init__(
        self,
        shape: Shape,
        latent: int,
        second: int = 0,
        *,
        hidden: Widths,
        activation: Activations = "relu",
        batch_norm: BatchNorms = False,
        dropout: Dropout = 0.0,
        init: Initialisation = "torch",
    ) -> None:
        super().__init__()
        self.trunk = _layers([math.prod(shape), *hidden], activation, batch_norm, dropout)
        self.mean = nn.Linear(hidden[-1], latent)
        self.second = nn.Linear(hidden[-1], second or latent)
        _initialise(self, init)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x [B, D] to the two heads, each [B, Z]."""
        h = self.trunk(x)
        return self.mean(h), self.second(h)


def linear_encoder(shape: Shape, latent: int, second: int = 0, *, hidden: Width) -> MLPEncoder:
    """One linear layer without activation, then two linear heads (document 003)."""
    return MLPEncoder(shape, latent, second, hidden=[hidden], activation="identity")


class ConvEncoder(nn.Module):
    """Three convolutions with BatchNorm, then two heads of two layers (document 002).

    Images of 28 x 28 come down to the document's 128 features, 32 of 2 x 2.
    """

    def __init__(self, shape: Shape, latent: int, second: int = 0) -> None:
        super().__init__()
        self.shape = shape
        channels, sides = _conv_sides(shape)
        features = 32 * math.prod(sides[-1])
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, kernel_size=5, stride=2, padding=_last_padding(sides[2])),
            nn.BatchNorm2d(32),  # no ReLU: as documented
            nn.Flatten(),
        )
        self.mean = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, latent))
        self.second = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, second or latent))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x [B, D] to the two heads, each [B, Z]."""
        h = self.trunk(planes(x, self.shape))
        return self.mean(h), self.second(h)


class MLPDecoder(nn.Module):
    """Fully connected layers, each with its activation, then one linear layer to the pixels.

    The other options are those of the encoder.
    """

    def __init__(
        self,
        shape: Shape,
        latent: int,
        *,
        hidden: Widths,
        activation: Activations = "relu",
        batch_norm: BatchNorms = False,
        dropout: Dropout = 0.0,
        init: Initialisation = "torch",
    ) -> None:
        super().__init__()
        self.trunk = _layers([latent, *hidden], activation, batch_norm, dropout)
        self.output = nn.Linear(hidden[-1], math.prod(shape))
        _initialise(self, init)

    def forward(self, z: Tensor) -> Tensor:
        """Map z [..., Z] to the output [..., D]."""
        return self.output(self.trunk(z))  # type: ignore[no-any-return]


class FoldedConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution without groups or dilation: on a CPU a matrix product, its columns folded.

    With one output channel torch's own kernel takes four to six times as long: most lanes of a vector unit
    stay empty.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map x [B, C, H, W] to [B, C', H', W']."""
        if x.device.type != "cpu" or output_size is not None:
            return super().forward(x, output_size)
        (h, w), (padding, _) = x.shape[-2:], cast("tuple[int, int]", self.padding)
        (rows, columns), (stride, _) = self.kernel_size, self.stride
        more, wider = cast("tuple[int, int]", self.output_padding)
        size = (
            (h - 1) * stride - 2 * padding + rows + more,
            (w - 1) * stride - 2 * padding + columns + wider,
        )
        spread = self.weight.flatten(1).T @ x.flatten(2)  # [B, C'·rows·columns, H·W]
        image = fold(spread, size, (rows, columns), padding=padding, stride=stride)
        return image if self.bias is None else image + self.bias.view(-1, 1, 1)


class ConvDecoder(nn.Module):
    """Two linear layers and three transposed convolutions with BatchNorm (document 002).

    Each layer brings back the size that the encoder's had.
    """

    def __init__(self, shape: Shape, latent: int) -> None:
        super().__init__()
        channels, sides = _conv_sides(shape)
        last = _last_padding(sides[2])
        # What rounding down lost, each 0 or 1: a kernel of 4 halves a side, one of 5 a side less 1
        third, second, first = (
            ((height + odd) % 2, (width + odd) % 2)
            for (height, width), odd in zip(sides, (0, 0, 1), strict=False)
        )
        self.trunk = nn.Sequential(
            nn.Linear(latent, 64),
            nn.ReLU(),
            nn.Linear(64, 32 * math.prod(sides[3])),  # no ReLU: as documented
            nn.Unflatten(1, (32, *sides[3])),
            nn.ConvTranspose2d(32, 32, kernel_size=5, stride=2, padding=last, output_padding=first),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, kernel_size=4, stride=2, padding=1, output_padding=second),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            FoldedConvTranspose2d(16, channels, kernel_size=4, stride=2, padding=1, output_padding=third),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map z [..., Z] to the output [..., D]."""
        return flat(self.trunk(z.flatten(0, -2))).reshape(*z.shape[:-1], -1)


def planes(x: Tensor, shape: Shape) -> Tensor:
    """Bring images x [..., D] to [..., C, H, W], a plane a channel; of grey ones C is 1."""
    height, width, *channels = shape
    if not channels:
        return x.reshape(*x.shape[:-1], 1, height, width)
    return x.reshape(*x.shape[:-1], height, width, *channels).movedim(-1, -3)


def flat(x: Tensor) -> Tensor:
    """Bring planes x [..., C, H, W] to flat images [..., D]."""
    return x.movedim(-3, -1).flatten(-3)


def _conv_sides(shape: Shape) -> tuple[int, list[tuple[int, int]]]:
    """Give the channels of images, and their height and width before each convolution and after the last."""
    if len(shape) not in (2, 3) or min(shape[:2]) < CONV_SMALLEST:
        given, smallest = " x ".join(map(str, shape)), f"{CONV_SMALLEST} x {CONV_SMALLEST}"
        raise ValueError(f"conv-bn is made for images of {smallest} pixels or more, not {given}; use mlp")
    height, width, *channels = shape
    sides = [(height, width), (height // 2, width // 2), (height // 4, width // 4)]
    last = [(side + 2 * p - 5) // 2 + 1 for side, p in zip(sides[2], _last_padding(sides[2]), strict=True)]
    return (channels or [1])[0], [*sides, (last[0], last[1])]


def _last_padding(sides: tuple[int, int]) -> tuple[int, int]:
    """Pad what the last convolution's kernel of 5 would not fit into; the document's 7 x 7 it does."""
    height, width = (2 * (side < 5) for side in sides)
    return height, width


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm over all axes but the last (Ioffe & Szegedy 2015): samples count as images do."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., H]."""
        return super().forward(x.flatten(0, -2)).view_as(x)


def _layers(widths: list[int], activation: Activations, batch_norm: bool, dropout: float) -> nn.Sequential:
    names = [activation] * (len(widths) - 1) if isinstance(activation, str) else activation
    if len(names) != len(widths) - 1:
        raise ValueError(
            f"{len(names)} activations for {len(widths) - 1} hidden layers: give one, or one per layer"
        )
    layers: list[nn.Module] = []
    for a, b, name in zip(widths, widths[1:], names, strict=False):
        layers += [nn.Linear(a, b), *([BatchNorm(b)] if batch_norm else []), _activation(name)]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)


def _activation(text: Activation) -> nn.Module:
    name, options = activation_parts(text)
    made: nn.Module = SHORT[name]() if name in SHORT else getattr(nn, name)(**options)
    return made


def _initialise(network: nn.Module, init: Initialisation) -> None:
    """Draw the weights of all linear layers anew, and set their biases to zero; `torch` leaves them."""
    for module in network.modules() if init != "torch" else ():
        if isinstance(module, nn.Linear):
            INITIALISATIONS[init](module.weight)
            nn.init.zeros_(module.bias)


ENCODERS: dict[str, Callable[..., Encoder]] = {
    "mlp": MLPEncoder,
    "linear": linear_encoder,
    "conv-bn": ConvEncoder,
}

DECODERS: dict[str, Callable[..., Decoder]] = {"mlp": MLPDecoder, "conv-bn": ConvDecoder}
