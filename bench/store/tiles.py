"""The tiles that pictures are made of, and words on them: what drawing and the sheets of a report share.

Every grid of images is COLUMNS wide, a tile TILE screen pixels; enlarged by repeating pixels, so that a grid
can be cut up again without loss. No torch: a report is made from files alone.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE = 28
SCALE = 2  # screen pixels a picture pixel: a row of ten is 560 wide
COLUMNS = 10
TILE = SIDE * SCALE
WHITE, BLACK, GREY = 255, 0, 90


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as Matplotlib ships it: the same on every machine, with Greek letters."""
    import matplotlib as mpl  # only where something is drawn

    file = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


def page(width: int, height: int) -> Image.Image:
    """An empty page, white."""
    return Image.new("L", (width, height), WHITE)


def write(
    image: Image.Image, x: float, y: float, words: str, size: int, *, bold: bool = False, shade: int = BLACK
) -> float:
    """Write one line of text, its top left at (x, y); gives where it ends."""
    face = font(size, bold)
    ImageDraw.Draw(image).text((x, y), words, fill=shade, font=face)
    return x + face.getlength(words)


def fitted(words: str, size: int, width: float, *, bold: bool = False) -> str:
    """Text cut where it would be wider than `width` screen pixels."""
    face = font(size, bold)
    if face.getlength(words) <= width:
        return words
    while words and face.getlength(f"{words}…") > width:
        words = words[:-1]
    return f"{words}…"
