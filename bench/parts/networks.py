"""Encoders x -> (mean, second head) and decoders z -> output, before any output non-linearity.

Shapes: B images, D pixels (784, flat), Z latents. What the second head means (log σ², raw σ) is the
posterior's business, what the output means (logits, a mean) is the likelihood's: networks are only functions.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn.functional import fold

from bench.spec.options import Activations, Width, Widths

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "identity": nn.Identity}


class MLPEncoder(nn.Module):
    """Fully connected layers, each with its activation, then two linear heads."""

    def __init__(self, pixels: int, latent: int, *, hidden: Widths, activation: Activations = "relu") -> None:
        super().__init__()
        self.trunk = _layers([pixels, *hidden], activation)
        self.mean = nn.Linear(hidden[-1], latent)
        self.second = nn.Linear(hidden[-1], latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x [B, D] to the two heads, each [B, Z]."""
        h = self.trunk(x)
        return self.mean(h), self.second(h)


def linear_encoder(pixels: int, latent: int, *, hidden: Width) -> MLPEncoder:
    """One linear layer without activation, then two linear heads (document 003)."""
    return MLPEncoder(pixels, latent, hidden=[hidden], activation="identity")


class ConvEncoder(nn.Module):
    """Three convolutions with BatchNorm down to 128 features, then two heads of two layers (document 002)."""

    def __init__(self, pixels: int, latent: int) -> None:
        super().__init__()
        if pixels != 784:
            raise ValueError(f"conv-bn takes 28 x 28 = 784 pixels, not {pixels}")
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
        """Map x [B, 784] to the two heads, each [B, Z]."""
        h = self.trunk(x.view(-1, 1, 28, 28))
        return self.mean(h), self.second(h)


class MLPDecoder(nn.Module):
    """Fully connected layers, each with its activation, then one linear layer to the pixels."""

    def __init__(self, pixels: int, latent: int, *, hidden: Widths, activation: Activations = "relu") -> None:
        super().__init__()
        self.trunk = _layers([latent, *hidden], activation)
        self.output = nn.Linear(hidden[-1], pixels)

    def forward(self, z: Tensor) -> Tensor:
        """Map z [..., Z] to the output [..., D]."""
        return self.output(self.trunk(z))  # type: ignore[no-any-return]


class FoldedConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution without groups or dilation; on a CPU one matrix product, its columns folded.

    The library's own kernel leaves most lanes of a vector unit empty where there is one output channel: it
    takes four to six times as long.
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

    def __init__(self, pixels: int, latent: int) -> None:
        super().__init__()
        if pixels != 784:
            raise ValueError(f"conv-bn gives 28 x 28 = 784 pixels, not {pixels}")
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
        """Map z [..., Z] to the output [..., 784]."""
        return self.trunk(z.flatten(0, -2)).reshape(*z.shape[:-1], 784)  # type: ignore[no-any-return]


def _layers(widths: list[int], activation: Activations) -> nn.Sequential:
    names = [activation] * (len(widths) - 1) if isinstance(activation, str) else activation
    if len(names) != len(widths) - 1:
        raise ValueError(
            f"{len(names)} activations for {len(widths) - 1} hidden layers: give one, or one per layer"
        )
    pairs = zip(widths, widths[1:], names, strict=False)
    return nn.Sequential(*(m for a, b, name in pairs for m in (nn.Linear(a, b), ACTIVATIONS[name]())))


ENCODERS = {"mlp": MLPEncoder, "linear": linear_encoder, "conv-bn": ConvEncoder}

DECODERS = {"mlp": MLPDecoder, "conv-bn": ConvDecoder}
