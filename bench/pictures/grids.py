"""Pictures of a model: what it makes of noise, of images, and of the way from one image to the next.

The model is taken in the mode it is in, which should be eval, and images are as wide and high as the data's.

Shapes: N images of H x W pixels, Z latents. What is called `shape` is (H, W), or (H, W, 3) of images in
colour, whose tensors have a last axis more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.special import ndtri
from torch import Tensor

from bench.engine.device import evaluation_noise, stream
from bench.engine.drawn import as_shown
from bench.evaluation.measure import prior_means
from bench.evaluation.posteriors import encode
from bench.parts.priors import StandardNormal
from bench.parts.vae import VAE
from bench.store.tiles import COLUMNS, WHITE, enlargement, page, without_colour, write
from bench.store.whole import replacing

GAP = 8  # screen pixels between what is given and what is made
GIF_ROWS = 3
GIF_BYTES = 300_000  # at most


def in_turns(labels: Tensor, count: int) -> Tensor:
    """Choose up to `count` indices: the first image of each class, then the second of each, and so on.

    Of labels [N]; it ends where a class has no image left.
    """
    classes = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    depth = min(len(indices) for indices in classes)
    return torch.stack([indices[:depth] for indices in classes], 1).flatten()[:count]


def columns_for(count: int) -> int:
    """Choose the columns of a grid: ten, or more where that keeps a big picture square."""
    return max(COLUMNS, math.isqrt(count - 1) + 1)


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Tile images [N, H, W] or [N, H, W, 3] in [0, 1] row by row; what is not covered is black.

    A tile is a square, so that it can be found again in the picture.
    """
    columns = columns or columns_for(len(images))
    count, height, width, *channels = images.shape
    rows, side = -(-count // columns), max(height, width)
    tiles = torch.zeros(rows * columns, side, side, *channels)
    tiles[:count, :height, :width] = images.cpu()
    whole = tiles.unflatten(0, (rows, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    pixels = (whole.clamp(0, 1) * 255).round().byte().numpy()
    scale = enlargement(side)
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(
        (columns * side * scale, rows * side * scale), Image.Resampling.NEAREST
    )


def save(image: Image.Image, path: Path) -> Path:
    """Write a PNG, whole or not at all, making its folder."""
    with replacing(path) as part:
        image.save(part, "PNG", compress_level=5)  # a fifth of the time of `optimize`, 1 % larger
    return path


def samples(model: VAE, shape: Sequence[int], seed: int, count: int = COLUMNS**2) -> Image.Image:
    """Draw decoder means of draws from the prior: the same z in every variant of a latent size."""
    return grid(prior_means(model, seed, count).unflatten(1, shape))


@torch.no_grad()
def reconstructions(model: VAE, images: Tensor, seed: int) -> Image.Image:
    """Draw uint8 images [N, H, W] in odd rows, decoder means at one sampled z in even rows (document 002)."""
    noise = evaluation_noise(seed, len(images), model.latent, images.device)
    made = model.grey_mean(
        model.decode(encode(model, as_shown(model, images.flatten(1), "pictures")).sample(noise))
    )
    pairs = torch.stack([images.float() / 255, made.view(images.shape)])  # [2, N, H, W]
    columns = columns_for(len(images))
    filled = torch.cat([pairs, pairs.new_zeros(2, -len(images) % columns, *images.shape[1:])], 1)
    return grid(filled.unflatten(1, (-1, columns)).transpose(0, 1).flatten(0, 2), columns)


@torch.no_grad()
def manifold(model: VAE, shape: Sequence[int], side: int = 20) -> Image.Image:
    """Draw decoder means over the plane of two latents, in steps of equal prior probability along each.

    A square through the inverse Gaussian CDF (Kingma & Welling 2013, fig. 4); of another prior than N(0, I)
    through the quantiles of draws from it.
    """
    device = next(model.parameters()).device
    shares = (np.arange(side) + 0.5) / side
    axis = torch.tensor(ndtri(shares), dtype=torch.float32)
    axes = torch.stack([axis, axis])
    if type(model.prior) is not StandardNormal:
        noise = torch.randn(10_000, 2, generator=stream(0, "prior"))
        drawn = model.prior.sample(noise.to(device)).cpu()
        axes = drawn.quantile(torch.tensor(shares, dtype=torch.float32), 0).T
    z = torch.stack(torch.meshgrid(axes[0], axes[1].flip(0), indexing="xy"), -1).view(-1, 2)
    made = model.grey_mean(model.decode(z.to(device)))
    return grid(made.unflatten(1, shape), side)


@torch.no_grad()
def interpolations(model: VAE, images: Tensor, steps: int = 10) -> Image.Image:
    """Draw the way from each of uint8 images [N, H, W] to the next, and from the last to the first.

    A row: the one image, decoder means at `steps` points on the line from its μ to the other's, the other.
    """
    mean = encode(model, as_shown(model, images.flatten(1), "pictures")).mean
    share = torch.linspace(0, 1, steps, device=mean.device).view(1, steps, 1)
    z = torch.lerp(mean.unsqueeze(1), mean.roll(-1, 0).unsqueeze(1), share).flatten(0, 1)
    made = model.grey_mean(model.decode(z)).unflatten(1, images.shape[1:])
    grey = images.float() / 255
    parts = [grid(grey, 1), grid(made, steps), grid(grey.roll(-1, 0), 1)]
    whole = page(sum(part.width + GAP for part in parts) - GAP, parts[0].height)
    left = 0
    for part in parts:
        whole.paste(part, (left, 0))
        left += part.width + GAP
    return without_colour(whole)


def progress(frames: Mapping[int, Image.Image], path: Path) -> Path:
    """Write an animated GIF of the first samples of each epoch, its last frame held (document 004).

    It has as many grey levels, evenly spaced from black to white, or as many colours, as keep it small.
    """
    pages = [_frame(epoch, max(frames), image) for epoch, image in sorted(frames.items())]
    held = [700] * (len(pages) - 1) + [3000]  # milliseconds
    with replacing(path) as part:
        for levels in (32, 16, 8):
            first, *rest = [_levels(image, levels) for image in pages]
            first.save(part, "GIF", save_all=True, append_images=rest, duration=held, loop=0, optimize=False)
            if part.stat().st_size < GIF_BYTES:
                break
    return path


def _frame(epoch: int, last: int, samples: Image.Image) -> Image.Image:
    """Put the first rows of the samples under a line that says the epoch, and how far that is."""
    top, shown = 28, GIF_ROWS * samples.width // COLUMNS
    frame = page(samples.width, top + shown)
    frame.paste(samples.crop((0, 0, samples.width, shown)), (0, top))
    write(frame, 6, 3, f"epoch {epoch} of {last}", 17)
    full = samples.width - 200
    frame.paste((200,) * 3, (190, 10, 190 + full, 18))
    frame.paste((0,) * 3, (190, 10, 190 + round(full * epoch / last), 18))
    return without_colour(frame)


def _levels(image: Image.Image, levels: int) -> Image.Image:
    """Give the same picture in a palette of so many greys, or of eight times as many colours."""
    if image.mode == "RGB":
        return image.quantize(8 * levels, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    index = image.point([round(value * (levels - 1) / WHITE) for value in range(WHITE + 1)])
    reduced = Image.frombytes("P", image.size, index.tobytes())
    reduced.putpalette([round(i * WHITE / (levels - 1)) for i in range(levels) for _ in range(3)])
    return reduced
