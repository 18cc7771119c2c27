"""One process at a time: a lock that dies with its process and says who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from bench.errors import BenchError, printable

LOCK = ".lock"  # of an experiment's folder


@contextlib.contextmanager
def held(file: Path, what: str, instead: str, *, needed: bool = True) -> Iterator[None]:
    """Hold the lock `file` of `what`, so that no other process writes it meanwhile.

    Raises BenchError where another process holds it: by whom, since when, and to wait or do `instead`. Where
    it cannot be written raises BenchError too, unless it is not `needed`: who may not write harms nobody.
    """
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise BenchError(f"{what} is in use by {_holder(file)}; wait for it to end, or {instead}") from None
    except OSError as error:
        if needed:
            raise BenchError(f"cannot write {file}: {error.strerror}; {instead}") from None
    else:
        with contextlib.suppress(OSError):  # a full disk: the lock holds, its holder has no name
            file.write_text(json.dumps(_me()), encoding="utf-8")
    try:
        yield
    finally:
        lock.release()


def _me() -> dict[str, str | int]:
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": now}


def _holder(file: Path) -> str:
    """The process that wrote its name into a lock."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return printable(f"process {found['pid']} on {found['host']} since {found['since']}")
    except (OSError, ValueError, TypeError, KeyError):  # it is just taking it
        return "another process"
