"""The one way to a file that someone else may have written: regular, bounded, reached through no link."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

PICTURE = 64_000_000  # bytes of a picture
PIXELS = 100_000_000  # of all frames of a picture together
WEIGHTS = 4_000_000_000  # bytes of weights: a thousand million in fp32
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def opened(path: Path, most: int, *, under: int = 1) -> Iterator[io.BufferedReader]:
    """Open a regular file of at most `most` bytes, following no link in the last `under` parts of its path.

    Raises OSError for anything else: a link, a FIFO (it does not wait), a device, a folder, more bytes.
    """
    *folders, name = path.parts[-under:]
    at = os.open(path.parents[under - 1], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in (*folders, name):
            above, flags = at, _FLAGS | (0 if part is name else os.O_DIRECTORY)
            at = _open(part, flags, above, path)
            os.close(above)
        state = os.fstat(at)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        if state.st_size > most:
            raise OSError(errno.EFBIG, f"more than {most:,} bytes", str(path))
        with open(at, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(at)


def read_regular(path: Path, most: int, *, under: int = 1) -> bytes:
    """Read a file that `opened` opens; raises OSError as that does."""
    with opened(path, most, under=under) as stream:
        return stream.read(most)


def _open(part: str, flags: int, above: int, path: Path) -> int:
    try:
        return os.open(part, flags, dir_fd=above)
    except OSError as error:
        if stat.S_ISLNK(os.stat(part, dir_fd=above, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, "a link, which is not followed", str(path)) from None
        raise error from None


def is_own(path: Path, *, under: int = 1, most: float = math.inf) -> bool:
    """Tell whether a path is a regular file of at most `most` bytes, no link in its last `under` parts."""
    linked = any(p.is_symlink() for p in (path, *path.parents[: under - 1]))
    return not linked and path.is_file() and path.stat().st_size <= most


def no_link(*paths: Path) -> None:
    """Raise OSError where any of the paths is a link, so that nothing is written through it."""
    for path in paths:
        if path.is_symlink():
            raise OSError(errno.ELOOP, f"{path} is a link, and nothing is written through one", str(path))


def picture(path: Path, *, under: int = 1, formats: tuple[str, ...] = ("PNG", "GIF")) -> Image.Image:
    """Open a picture of these formats alone; raises OSError or ValueError for any other file."""
    content = io.BytesIO(read_regular(path, PICTURE, under=under))
    try:
        opened = Image.open(content, formats=formats)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: {error}") from None
    if opened.width * opened.height * getattr(opened, "n_frames", 1) > PIXELS:
        raise ValueError(f"{path}: more than {PIXELS:,} pixels")
    return opened
