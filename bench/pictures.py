"""Pictures of a model: what it makes of noise and of test images.

Nearest-neighbour, never rescaled in grey level.

Shapes: N images, D pixels (28 x 28), Z latents.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import norm
from torch import Tensor

from bench.evaluate import encode, prior_means
from bench.model.vae import VAE
from bench.train import evaluation_noise

SIDE = 28
SCALE = 2  # screen pixels a picture pixel: a row of ten is 560 wide
COLUMNS = 10


def epochs_shown(epochs: int) -> set[int]:
    """The epochs that get pictures: 1, 2, 5, 10, 20, 50 … and the last."""
    series = {step * 10**power for step in (1, 2, 5) for power in range(len(str(epochs)))}
    return {epoch for epoch in series if epoch <= epochs} | {epochs}


def grid(images: Tensor, columns: int = COLUMNS) -> Image.Image:
    """Tile grey images [N, D] in [0, 1] row by row."""
    rows = -(-len(images) // columns)
    padded = torch.zeros(rows * columns, SIDE * SIDE)
    padded[: len(images)] = images.cpu()
    tiles = padded.view(rows, columns, SIDE, SIDE).transpose(1, 2).reshape(rows * SIDE, columns * SIDE)
    pixels = (tiles.clamp(0, 1) * 255).round().byte().numpy()
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(
        (columns * SIDE * SCALE, rows * SIDE * SCALE), Image.Resampling.NEAREST
    )


def save(image: Image.Image, path: Path) -> Path:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)
    return path


def samples(model: VAE, seed: int) -> Image.Image:
    """The means of 100 draws from the prior: the same z in every variant of a latent size."""
    return grid(_eval(model, lambda: prior_means(model, seed, COLUMNS * COLUMNS)))


def reconstructions(model: VAE, images: Tensor, labels: Tensor, seed: int) -> Image.Image:
    """Five test images of each digit in columns.

    Odd rows originals, even rows reconstructions (as in document 002).

    Of uint8 images [N, D] with labels [N]; reconstructions are decoder means at one sampled z.
    """
    firsts = [torch.nonzero(labels == digit).flatten()[:5] for digit in range(COLUMNS)]
    depth = min(len(first) for first in firsts)
    index = torch.stack([first[:depth] for first in firsts], 1)  # [depth, 10]: a row holds one of each digit
    chosen = images[index.flatten().to(images.device)]
    noise = evaluation_noise(seed, len(chosen), model.latent, images.device)
    made = _eval(model, lambda: model.grey_mean(model.decode(encode(model, chosen).sample(noise))))
    shape = (depth, 1, COLUMNS, SIDE * SIDE)
    pairs = torch.cat([(chosen.float() / 255).view(shape), made.view(shape)], 1)  # [depth, 2, 10, D]
    return grid(pairs.flatten(0, 2))


def manifold(model: VAE, side: int = 20) -> Image.Image:
    """Decoder means over the plane of two latents.

    A grid through the inverse Gaussian CDF (Kingma & Welling 2013, fig. 4).
    """
    axis = torch.tensor(norm.ppf((np.arange(side) + 0.5) / side), dtype=torch.float32)
    z = torch.stack(torch.meshgrid(axis, axis.flip(0), indexing="xy"), -1).view(-1, 2)
    device = next(model.parameters()).device
    return grid(_eval(model, lambda: model.grey_mean(model.decode(z.to(device)))), side)


@torch.no_grad()
def _eval(model: VAE, draw: Callable[[], Tensor]) -> Tensor:
    """Draw in eval mode and leave the model in the mode it came in."""
    was_training = model.training
    model.eval()
    drawn: Tensor = draw()
    model.train(was_training)
    return drawn
