"""Tiles and words, which the pictures of a run and the contact sheets of a report are made of.

A grid of images has COLUMNS tiles a row, each a square that holds one image. Pixels are enlarged by repeating
them, so that a grid can be cut up again without loss. No torch: a report is made from files alone.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLUMNS = 10
TILE = 56  # screen pixels that a tile's side comes near to, whatever the size of an image
WHITE, BLACK, GREY = 255, 0, 90


def enlargement(side: int) -> int:
    """Give the screen pixels for each pixel of images whose longer side has so many."""
    return max(1, round(TILE / side))


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans as Matplotlib ships it: the same on every machine, with Greek letters."""
    import matplotlib as mpl  # only where something is drawn

    file = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


def page(width: int, height: int) -> Image.Image:
    """Make an empty white page, in colour: `without_colour` makes it grey where nothing on it has one."""
    return Image.new("RGB", (width, height), (WHITE,) * 3)


def without_colour(image: Image.Image) -> Image.Image:
    """Give a picture whose pixels are all grey one channel in place of three."""
    if image.mode != "RGB":
        return image
    red, green, blue = image.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else image


def write(
    image: Image.Image, x: float, y: float, words: str, size: int, *, bold: bool = False, shade: int = BLACK
) -> float:
    """Write one line of text with its top left at (x, y); give the x where it ends."""
    face = font(size, bold)
    ImageDraw.Draw(image).text((x, y), words, fill=(shade,) * 3, font=face)
    return x + face.getlength(words)


def fitted(words: str, size: int, width: float, *, bold: bool = False) -> str:
    """Cut a text where it would be wider than `width` screen pixels."""
    face = font(size, bold)
    if face.getlength(words) <= width:
        return words
    while words and face.getlength(f"{words}…") > width:
        words = words[:-1]
    return f"{words}…"
