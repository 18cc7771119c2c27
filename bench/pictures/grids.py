"""Pictures of a model: what it makes of noise, of test images, and of the way from one to the next.

Enlarged by repeating pixels, never rescaled in grey level.

Shapes: N images, D pixels (28 x 28), Z latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import norm
from torch import Tensor

from bench.engine.train import evaluation_noise
from bench.evaluation.measure import encode, prior_means
from bench.parts.vae import VAE
from bench.store.tiles import COLUMNS, SCALE, SIDE, TILE, WHITE, page, write

__all__ = [  # SIDE and COLUMNS too: who draws needs them
    "COLUMNS", "SIDE", "epochs_shown", "grid", "interpolations", "manifold", "progress", "reconstructions",
    "samples", "save",
]  # fmt: skip
GAP = 8  # screen pixels between what is given and what is made
GIF_ROWS = 3
GIF_BYTES = 300_000  # at most


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
    image.save(path, compress_level=5)  # a fifth of the time of `optimize`, 1 % larger
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


def interpolations(model: VAE, images: Tensor, labels: Tensor, steps: int = 10) -> Image.Image:
    """From the first test image of each digit to the next digit's, straight from mean to mean.

    A row: the one image, decoder means at `steps` points from its μ to the other's, the other image.

    Of uint8 images [N, D] with labels [N].
    """
    firsts = [int(torch.nonzero(labels == digit)[0]) for digit in labels.unique().tolist()]
    starts = images[torch.tensor(firsts, device=images.device)]
    ends = starts.roll(-1, 0)
    mean = _eval(model, lambda: encode(model, starts).mean)
    share = torch.linspace(0, 1, steps, device=mean.device).view(1, steps, 1)
    z = torch.lerp(mean.unsqueeze(1), mean.roll(-1, 0).unsqueeze(1), share).flatten(0, 1)
    made = _eval(model, lambda: model.grey_mean(model.decode(z)))
    parts = [grid(starts.float() / 255, 1), grid(made, steps), grid(ends.float() / 255, 1)]
    whole = page(sum(part.width + GAP for part in parts) - GAP, parts[0].height)
    for i, part in enumerate(parts):
        whole.paste(part, (sum(before.width + GAP for before in parts[:i]), 0))
    return whole


def progress(frames: Mapping[int, Image.Image], path: Path) -> Path:
    """Write an animated GIF of the first samples of each epoch, its last frame held (as in document 004).

    In as many grey levels, evenly spaced from black to white, as keep it small.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = [_frame(epoch, max(frames), image) for epoch, image in sorted(frames.items())]
    held = [700] * (len(pages) - 1) + [3000]  # milliseconds
    for levels in (32, 16, 8):
        first, *rest = [_levels(image, levels) for image in pages]
        first.save(path, save_all=True, append_images=rest, duration=held, loop=0, optimize=False)
        if path.stat().st_size < GIF_BYTES:
            break
    return path


def _frame(epoch: int, last: int, samples: Image.Image) -> Image.Image:
    """The first rows of the samples under a line that says the epoch, and how far that is."""
    top, shown = 28, GIF_ROWS * TILE
    frame = page(samples.width, top + shown)
    frame.paste(samples.crop((0, 0, samples.width, shown)), (0, top))
    write(frame, 6, 3, f"epoch {epoch} of {last}", 17)
    full = samples.width - 200
    frame.paste(200, (190, 10, 190 + full, 18))
    frame.paste(0, (190, 10, 190 + round(full * epoch / last), 18))
    return frame


def _levels(image: Image.Image, levels: int) -> Image.Image:
    """The same picture in a palette of so many greys."""
    index = image.point([round(value * (levels - 1) / WHITE) for value in range(WHITE + 1)])
    reduced = Image.frombytes("P", image.size, index.tobytes())
    reduced.putpalette([round(i * WHITE / (levels - 1)) for i in range(levels) for _ in range(3)])
    return reduced


@torch.no_grad()
def _eval(model: VAE, draw: Callable[[], Tensor]) -> Tensor:
    """Draw in eval mode and leave the model in the mode it came in."""
    was_training = model.training
    model.eval()
    drawn: Tensor = draw()
    model.train(was_training)
    return drawn
