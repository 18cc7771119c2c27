"""The arrays of a data set of the user's own: their names, types and sizes, and an .npz that holds them.

An .npz is a zip of .npy files. Its directory and the headers are read first, and nothing that they do not
announce is read after that: a file that would unpack to more than MOST is refused before any of it is.
"""

from __future__ import annotations

import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.errors import BenchError, printable

if TYPE_CHECKING:
    import numpy as np

WHOLE, DIVIDED = ("images", "labels"), ("train_images", "train_labels", "test_images", "test_labels")
# MedMNIST's files have these, too: bench holds validation images out of the training set itself
IGNORED = ("val_images", "val_labels")
SIDES = (8, 64)  # pixels
FEWEST = 10  # images of a set: the neighbours of one are searched
CLASSES = 1000
MOST = 2_000_000_000  # bytes of all arrays together
_DIRECTORY = 100_000  # bytes of a zip's directory
_END = 22  # bytes of a zip's end record without a comment, before which that of a zip64 would have 20 more


@dataclass(frozen=True)
class Array:
    """Describe an array: its type by NumPy's letter (`u` for uint), that type's name, and its shape."""

    kind: str
    dtype: str
    shape: tuple[int, ...]


def arrays_of(made: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Take the arrays of what a part gives: of a mapping, or of an object that has them as attributes."""
    import numpy as np

    names = (*WHOLE, *DIVIDED)
    found = made if isinstance(made, Mapping) else {n: getattr(made, n) for n in names if hasattr(made, n)}
    return {str(name): np.asarray(value) for name, value in found.items() if value is not None}


def check_arrays(arrays: Mapping[str, np.ndarray[Any, Any]]) -> tuple[int, ...]:
    """Give the shape of one image, as `image_shape` does; raises BenchError for labels out of range, too."""
    shape = image_shape({name: Array(a.dtype.kind, str(a.dtype), a.shape) for name, a in arrays.items()})
    for name, array in arrays.items():
        if name in ("labels", *DIVIDED[1::2]):
            low, high = int(array.min()), int(array.max())
            if low < 0 or high >= CLASSES:
                raise BenchError(f"{name} are {low} to {high}; allowed: 0 to {CLASSES - 1}")
            if low == high and name != "test_labels":
                raise BenchError(f"{name} are of one class; allowed: two or more, or no labels")
    if "images" in arrays and len(arrays["images"]) < 2 * FEWEST:
        what = f"images are {len(arrays['images'])}; allowed: at least {2 * FEWEST}"
        raise BenchError(f"{what}, as some are the test set")
    return shape


def image_shape(arrays: Mapping[str, Array]) -> tuple[int, ...]:
    """Give the shape of one image, (H, W) or (H, W, 3), once names, types and sizes are found good.

    Raises BenchError for the first that is not: what was given, and what is allowed.
    """
    _check_names(arrays)
    for name, array in arrays.items():
        if name not in IGNORED:
            _check_images(name, array) if name.endswith("images") else _check_labels(name, array, arrays)
    first, *others = (array.shape[1:] for name, array in arrays.items() if name in (WHOLE[0], *DIVIDED[::2]))
    if any(other != first for other in others):
        shown = " and ".join("×".join(map(str, shape)) for shape in (first, *others))
        raise BenchError(f"train_images and test_images are of {shown}; allowed: of one size and kind")
    if (size := sum(math.prod(array.shape) for array in arrays.values())) > MOST:
        raise BenchError(f"the arrays have {size:,} elements; allowed: at most {MOST:,}; take fewer images")
    return first if first[2:] == (3,) else first[:2]


def _check_names(arrays: Mapping[str, Array]) -> None:
    known = (*WHOLE, *DIVIDED, *IGNORED)
    allowed = "allowed: images, or train_images and test_images; with labels likewise, or without"
    if unknown := next((name for name in arrays if name not in known), None):
        raise BenchError(f"unknown array {printable(unknown[:60])!r}; {allowed}")
    split = any(name in arrays for name in DIVIDED)
    if split and any(name in arrays for name in WHOLE):
        raise BenchError(f"arrays for a given split and for one to be made; {allowed}")
    missing = [name for name in (DIVIDED[::2] if split else WHOLE[:1]) if name not in arrays]
    if not missing and split and len({name in arrays for name in DIVIDED[1::2]}) == 2:
        missing = [name for name in DIVIDED[1::2] if name not in arrays]
    if missing:
        raise BenchError(f"no array {' nor '.join(missing)}; {allowed}")


def _check_images(name: str, array: Array) -> None:
    shape, (low, high) = array.shape, SIDES
    if array.dtype != "uint8":
        hint = "objects are a pickle, which is never read" if array.kind == "O" else "write 255 for white"
        raise BenchError(f"{name} are {array.dtype}; allowed: uint8, 0 to 255; {hint}")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        allowed = "[N, H, W] grey, or [N, H, W, C] with C = 1 or 3, channels last"
        raise BenchError(f"{name} have the shape {[*shape]}; allowed: {allowed}")
    if not all(low <= side <= high for side in shape[1:3]):
        raise BenchError(f"{name} are of {shape[1]}×{shape[2]} pixels; allowed: {low} to {high} a side")
    if shape[0] < FEWEST:
        raise BenchError(f"{name} are {shape[0]}; allowed: at least {FEWEST}")


def _check_labels(name: str, array: Array, arrays: Mapping[str, Array]) -> None:
    count = arrays[name.replace("labels", "images")].shape[:1]
    if array.kind not in "iu":
        hint = "number the classes from 0, or leave labels out"
        raise BenchError(f"{name} are {array.dtype}; allowed: whole numbers; {hint}")
    if array.shape not in (count, (*count, 1)):
        raise BenchError(f"{name} have the shape {[*array.shape]}; allowed: {[*count]}, one for each image")


def npz_shape(path: Path) -> tuple[int, ...]:
    """Read the shape of the images of an .npz from its headers alone.

    Raises BenchError for what is none, for a bomb, and for arrays that `image_shape` refuses.
    """
    with _opened(path) as archive:
        return image_shape({name: _header(archive, name)[0] for name in _members(archive)})


def read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the arrays of an .npz, never a pickle and never more than their headers announce.

    Raises BenchError as `npz_shape` does, and for content that is cut short or altered.
    """
    import numpy as np

    npz_shape(path)
    found = {}
    with _opened(path) as archive:
        for name in _members(archive):
            if name in IGNORED:
                continue
            array, stream, dtype, fortran = _header(archive, name)
            with stream:
                content = stream.read()  # to the size that the header was held against, then the checksum
            flat = np.frombuffer(content, dtype)
            found[name] = flat.reshape(array.shape[::-1]).T if fortran else flat.reshape(array.shape)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an .npz, once its directory is known to be small; errors begin with its name."""
    file = printable(path.name)
    try:
        if not path.is_file():  # a pipe would keep us waiting for ever
            raise BenchError(f"no {'regular' if path.exists() else 'such'} file; correct the path")
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _END - 20))
            end = stream.read()
            plain = end[-_END:][:4] == b"PK\5\6" and end[:4] != b"PK\6\7"
            if not plain or int.from_bytes(end[-10:-6], "little") > _DIRECTORY:
                raise _no_npz("it is no zip as NumPy writes one")
            with zipfile.ZipFile(stream) as archive:
                yield archive
    except BenchError as error:
        raise BenchError(f"{file}: {error}") from None
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        why = printable(str(error).partition("\n")[0][:100])
        raise BenchError(f"{file}: {_no_npz(why)}") from None


def _no_npz(why: str) -> BenchError:
    return BenchError(f"cannot be read as .npz ({why}); allowed: what numpy.savez writes; write it again")


def _members(archive: zipfile.ZipFile) -> list[str]:
    """Name the arrays of an .npz."""
    files = [entry.filename for entry in archive.infolist()]
    if odd := next((name for name in files if not name.endswith(".npy") or files.count(name) > 1), None):
        raise _no_npz(f"it holds {printable(odd[:60])!r}")
    return [name.removesuffix(".npy") for name in files]


def _header(archive: zipfile.ZipFile, name: str) -> tuple[Array, IO[bytes], np.dtype[Any], bool]:
    """Read the header of an array: what it is, the stream behind it, its type, if columns come first."""
    import numpy as np

    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _no_npz(f"{printable(name[:60])} is packed as NumPy packs nothing")
    stream = archive.open(info)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in read:
        raise _no_npz(f"{printable(name[:60])} is of a kind that NumPy does not write for numbers")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of headers as Python 2 wrote them
            shape, fortran, dtype = read[version](stream)
    except Exception as error:  # whatever Python's parser makes of a stranger's text
        why = type(error).__name__
        raise _no_npz(f"the header of {printable(name[:60])} cannot be read: {why}") from None
    size, content = dtype.itemsize * math.prod(shape), info.file_size - stream.tell()
    if dtype.kind != "O" and size != content:
        raise _no_npz(f"{printable(name[:60])} announces {size:,} bytes and holds {content:,}")
    return Array(dtype.kind, str(dtype), tuple(shape)), stream, dtype, fortran
