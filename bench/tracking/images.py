"""Pictures for MLflow's image grid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from bench.store.files import picture as open_picture

WIDTH = 256  # pixels; the UI enlarges narrower pictures by blurring them
SUFFIXES = (".png", ".gif")  # of what bench draws
EPOCH_PICTURE = re.compile(r"(?P<key>.+)-epoch-(?P<step>\d+)")  # samples-epoch-020.png

Picture = tuple[Path, str, int]  # file, key, step


class UnreadableError(Exception):
    """A picture is damaged, or gone meanwhile."""


def in_folder(folder: Path, epochs: int) -> Iterator[Picture]:
    """Find the pictures in a folder; one whose name gives no epoch belongs to the last."""
    for file in sorted(folder.glob("*.png")):
        found = EPOCH_PICTURE.fullmatch(file.stem)
        yield (file, found["key"], int(found["step"])) if found else (file, file.stem, epochs)


def convert(picture: Picture, folder: Path) -> None:
    """Write a picture and the small copy that the grid shows, under the names that the UI parses.

    Narrow pictures are enlarged by whole factors. MLflow's own `log_image` puts time and a random number into
    the names; here they are fixed, so that a picture sent twice replaces itself. Raises UnreadableError.
    """
    file, key, step = picture
    try:
        with open_picture(file, under=3) as opened:
            image = opened.convert(opened.mode if opened.mode in ("L", "RGB") else "RGB")
    except Exception as error:  # Pillow has many kinds
        raise UnreadableError(f"{file} cannot be read: {error}") from None
    factor = -(-WIDTH // image.width)
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    name = f"{key}+step+{step}+timestamp+{step}+bench"
    image.save(folder / f"{name}.png")
    image.thumbnail((WIDTH, WIDTH))
    image.save(folder / f"{name}+compressed.webp")
