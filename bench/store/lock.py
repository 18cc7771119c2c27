"""One process at a time: locks that die with their process and say who holds them."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from bench.errors import BenchError, printable
from bench.store.files import no_link, read_regular

LOCK = ".lock"  # of an experiment's folder
LARGEST = 10_000_000  # bytes of what a lock says


@contextlib.contextmanager
def held(file: Path, what: str, instead: str, *, needed: bool = True, patience: float = 0) -> Iterator[None]:
    """Hold the lock `file` of `what`, so that no other process writes it meanwhile.

    Raises BenchError where another process holds it: by whom, since when, and to wait or do `instead`. An
    unwritable folder is an error too, unless the lock is not `needed`: who only reads may go on.
    """
    lock = FileLock(file)
    try:
        no_link(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience)
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


@contextlib.contextmanager
def claimed(store: Path, keys: Collection[str]) -> Iterator[None]:
    """Keep other processes from doing these runs of a store; several may do different runs at once.

    Each process lists its runs in a file that it holds locked, so that a list ends with its process. Raises
    BenchError, and claims nothing, where a live process does one of them.
    """
    own = store / f".claim-{platform.node()}-{os.getpid()}"
    with held(store / LOCK, str(store), "try again", patience=30):
        for file in store.glob(".claim-*"):
            lock = FileLock(file)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                taken = json.loads(read_regular(file, LARGEST))
                if common := sorted(set(keys) & set(taken["runs"])):
                    raise BenchError(
                        f"{len(common)} of these runs are being done by {_holder(file)}, {common[0]} first; "
                        "wait for it to end, leave them out by --only, or give another --reports"
                    ) from None
            else:
                lock.release()
                file.unlink(missing_ok=True)
        mine = FileLock(own)
        mine.acquire(timeout=0)
        own.write_text(json.dumps(_me() | {"runs": sorted(keys)}), encoding="utf-8")
    try:
        yield
    finally:
        mine.release()
        own.unlink(missing_ok=True)


def _me() -> dict[str, str | int]:
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": now}


def _holder(file: Path) -> str:
    """The process that wrote its name into a lock."""
    try:
        found = json.loads(read_regular(file, LARGEST))
        return printable(f"process {found['pid']} on {found['host']} since {found['since']}")
    except (OSError, ValueError, TypeError, KeyError):  # it is just taking it
        return "another process"
