"""The run's folder: record.json, weights and pictures; a record is written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from bench.errors import BenchError, printable
from bench.store.files import WEIGHTS as WEIGHTS_SIZE
from bench.store.files import is_own, opened, read_regular
from bench.store.shapes import FORMAT, LARGEST, Recorded, Value, shape
from bench.store.whole import replacing

DONE = ("finished", "diverged")  # a diverged run is a result: the same seed diverges again
RECORD = "record.json"
WEIGHTS = "weights.safetensors"
PARTS = "parts/"  # beside the record: copies of the Python files that the run's parts come from
CHECKPOINT = "checkpoint.safetensors"  # of a run under way; gone once it has ended
MOST = 64_000_000  # bytes of a record or an experiment; the curves of a year of epochs are less

Record = dict[str, Any]


class RunFolder:
    """`reports/runs/<key>/`: what one run leaves behind."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.record = self.path / RECORD
        self.weights = self.path / WEIGHTS
        self.pictures = self.path / "pictures"
        self.parts = self.path / "parts"  # copies of the user's own files, to repeat it; never imported

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write record.json atomically; it comes last, so a folder that has one is complete.

        Raises ValueError, naming the key, for a non-finite number or a type JSON lacks (a bug of ours);
        BenchError when the folder cannot be written.
        """
        write_json_atomic(self.record, {"format": FORMAT, **record})

    def read(self) -> Record | None:
        """Read the record, None where the run left none; raises BenchError for one that cannot be trusted."""
        return read(self.path)

    def files(self) -> list[str]:
        """Relative paths of everything in the folder, in order, hidden files left out."""
        files = (f for f in sorted(self.path.rglob("*")) if is_own(f, under=2) and not f.name.startswith("."))
        return [f.relative_to(self.path).as_posix() for f in files]

    def artifacts(self) -> dict[str, str]:
        """sha256 by relative path of everything in the folder except the record itself and a checkpoint."""
        return {f: digest(self.path / f, under=2) for f in self.kept()}

    def kept(self) -> list[str]:
        """Relative paths of the same."""
        return [f for f in self.files() if f not in (RECORD, CHECKPOINT)]

    def bare(self, record: Record) -> bool:
        """Tell whether it holds the record, and at most parts of what this lists, as runs are published."""
        listed = record.get("artifacts") or {}
        parts = {RECORD, *(file for file in listed if file.startswith(PARTS))}
        return bool(listed) and parts.issuperset(self.files())


def read(path: Path | str) -> Record | None:
    """Read the record of a run folder (or a record.json); None where there is none.

    Raises BenchError, naming the file and the way out, for a truncated or foreign record.
    """
    path = Path(path)
    file = path if path.name == RECORD else path / RECORD
    try:
        record: Record = read_json(file, Recorded, under=2)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BenchError(f"cannot read {file}: {error.strerror}; bring it back, or allow reading") from error
    except ValidationError as error:
        raise _untrusted(file, f"is not a bench record: {fault(error)}") from None
    except ValueError:  # broken JSON and broken UTF-8 alike
        raise _untrusted(file, "is truncated or not JSON") from None
    return record


def read_json(file: Path, kind: Any, *, under: int = 1) -> Any:
    """Read a file of JSON of one of the kinds in `bench.store.shapes`; `under` as for `read_regular`.

    Raises OSError where it cannot be read or is no regular file of at most MOST bytes; ValueError for what is
    no JSON, a ValidationError for what is of another kind.
    """
    found = from_json(read_regular(file, MOST, under=under), allow_inf_nan=False)
    for each in (Value, kind):
        shape(each).validate_python(found, strict=True)
    return found


def fault(error: ValidationError) -> str:
    """Say what is wrong first, and where, on one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    return printable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200])


def digest(file: Path, *, under: int = 1) -> str:
    """Compute the SHA-256 of a file's bytes, in hexadecimal; raises OSError as `bench.store.files.opened`."""
    with opened(file, WEIGHTS_SIZE, under=under) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def now() -> str:
    """Give the time as records hold it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_json_atomic(path: Path | str, data: object) -> None:
    """Write JSON beside `path`, flush it to the disk, rename: readers see the old file or the new one.

    Raises ValueError, naming the key, for what JSON cannot hold; BenchError, naming it too, for a number that
    no reader takes, and when it cannot be written.
    """
    path = Path(path)
    _check(data, path.name)
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        why = error.strerror or str(error)
        raise BenchError(
            f"cannot write {path}: {why}; free space, allow writing there, or give another --reports"
        ) from error


def _check(value: object, where: str) -> None:
    """Refuse what JSON would hold wrongly or not at all, saying where it lies."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: a record holds finite numbers only")
    if isinstance(value, (int, float)):
        try:
            shape(Value).validate_python(value, strict=True)
        except ValidationError:
            told = f"{where} is {value}; allowed: numbers up to {LARGEST:g}; give a smaller one"
            raise BenchError(told) from None
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}: JSON keys are text")
            _check(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]")
    elif not (value is None or isinstance(value, (str, int, float))):
        raise ValueError(f"{where} is a {type(value).__name__}: JSON has no such type")


def _untrusted(file: Path, why: str) -> BenchError:
    return BenchError(f"{file} {why}; remove its folder ({file.parent}) and run again to make it anew")
