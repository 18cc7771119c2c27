"""Encoders x -> (mean, second head) and decoders z -> output, before any output non-linearity.

The posterior says what the second head means (log σ², raw σ), the likelihood what the output means (logits, a
mean). Networks are only functions.

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

CONV_SHAPE = (28, 28)  # of the images that document 002's network is made for
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
        self.second = nn.Linear(hidden[-1], latent)
        _initialise(self, init)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x [B, D] to the two heads, each [B, Z]."""
        h = self.trunk(x)
        return self.mean(h), self.second(h)


def linear_encoder(shape: Shape, latent: int, *, hidden: Width) -> MLPEncoder:
    """One linear layer without activation, then two linear heads (document 003)."""
    return MLPEncoder(shape, latent, hidden=[hidden], activation="identity")


class ConvEncoder(nn.Module):
    """Three convolutions with BatchNorm down to 128 features, then two heads of two layers (document 002)."""

    def __init__(self, shape: Shape, latent: int) -> None:
        super().__init__()
        _refuse_unless_conv(shape)
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, kernel_size=5, stride=2),
            nn.BatchNorm2d(32),  # no ReLU: as documented
            nn.Flatten(),
        )
        self.mean = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, latent))
        self.second = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, latent))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x [B, D] to the two heads, each [B, Z]."""
        h = self.trunk(x.view(-1, 1, *CONV_SHAPE))
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
        size = ((h - 1) * stride - 2 * padding + rows, (w - 1) * stride - 2 * padding + columns)
        spread = self.weight.flatten(1).T @ x.flatten(2)  # [B, C'·rows·columns, H·W]
        image = fold(spread, size, (rows, columns), padding=padding, stride=stride)
        return image if self.bias is None else image + self.bias.view(-1, 1, 1)


class ConvDecoder(nn.Module):
    """Two linear layers and three transposed convolutions with BatchNorm (document 002)."""

    def __init__(self, shape: Shape, latent: int) -> None:
        super().__init__()
        _refuse_unless_conv(shape)
        self.trunk = nn.Sequential(
            nn.Linear(latent, 64),
            nn.ReLU(),
            nn.Linear(64, 128),  # no ReLU: as documented
            nn.Unflatten(1, (32, 2, 2)),
            nn.ConvTranspose2d(32, 32, kernel_size=5, stride=2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            FoldedConvTranspose2d(16, 1, kernel_size=4, stride=2, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map z [..., Z] to the output [..., D]."""
        return self.trunk(z.flatten(0, -2)).reshape(*z.shape[:-1], -1)  # type: ignore[no-any-return]


def _refuse_unless_conv(shape: Shape) -> None:
    if shape != CONV_SHAPE:
        (h, w), given = CONV_SHAPE, " x ".join(map(str, shape))
        raise ValueError(f"conv-bn is made for grey images of {h} x {w} pixels, not {given}; use mlp")


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
