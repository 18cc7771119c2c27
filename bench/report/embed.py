"""Pictures inside a page, as data URIs: smaller, and not a pixel is lost."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from bench.store.files import picture as open_picture

EFFORT = 40  # of 100: more is slower, and smaller by a fiftieth


@dataclass(frozen=True)
class Embedded:
    """A picture as a data URI, with the size in pixels that it is shown at."""

    uri: str
    width: int
    height: int
    pixels: bool  # whether it was halved, so that each of its pixels is drawn as a square


def embed(path: Path) -> Embedded | None:
    """Read a PNG or GIF and compress it again, as lossless WebP; None where it cannot be read.

    Grids whose pixels are doubled both ways are halved.
    """
    try:
        state = path.lstat()
        return _embed(path, state.st_mtime_ns, state.st_size)
    except Exception:  # Pillow raises what its decoders do: SyntaxError, OSError, struct.error and more
        return None


@lru_cache(maxsize=256)
def _embed(path: Path, _changed: int, _size: int) -> Embedded:
    with open_picture(path) as picture:
        width, height = picture.size
        frames, times = [], []
        for frame in ImageSequence.Iterator(picture):
            frames.append(frame.convert("L" if picture.mode == "L" else "RGB"))
            times.append(frame.info.get("duration", 0))
        loop = picture.info.get("loop", 0)
    doubled = all(map(_doubled, frames))
    if doubled:
        frames = [frame.resize((width // 2, height // 2), Image.Resampling.NEAREST) for frame in frames]
    more = {"append_images": frames[1:], "duration": times, "loop": loop} if len(frames) > 1 else {}
    out = io.BytesIO()
    frames[0].save(out, "WEBP", lossless=True, method=1, quality=EFFORT, save_all=len(frames) > 1, **more)
    uri = f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
    return Embedded(uri, width, height, doubled)


def _doubled(frame: Image.Image) -> bool:
    a = np.asarray(frame)
    whole = a.shape[0] % 2 == a.shape[1] % 2 == 0
    return whole and bool((a[::2] == a[1::2]).all() and (a[:, ::2] == a[:, 1::2]).all())
