"""Import a part from the Python file that an experiment names.

It is the user's own code, and runs with the user's rights.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable, Mapping
from importlib.abc import SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from bench.errors import BenchError, printable
from bench.spec.experiment import Part
from bench.spec.source import content

T = TypeVar("T")


def part_class(registry: Mapping[str, T], part: Part) -> T:
    """Look a part's class or function up in its registry, or import it from the part's own file.

    Raises BenchError for a file that is not as it was when the experiment was read, or that cannot be
    imported, and for a part read from a record, which names no file.
    """
    if part.sha256 is None:
        return registry[part.name]
    if part.file is None:
        what = f"{part.name} comes from a Python file (SHA-256 {part.sha256[:8]}…), which no record names"
        raise BenchError(f"{what}; only a command that reads its experiment can build it")
    module = _module(part.file, part.sha256)
    if part.name not in vars(module):
        raise BenchError(f"{part.file} has no {part.name} once imported; define it at the top level")
    found: T = vars(module)[part.name]
    return found


def keep(parts: Iterable[Part], folder: Path) -> None:
    """Copy the files that parts come from to a folder, each as its SHA-256 begins and as it is called.

    Raises BenchError for a file that is not as it was when the experiment was read.
    """
    for part in parts:
        if part.file and part.sha256:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{part.sha256[:8]}-{part.file.name}").write_bytes(_source(part.file, part.sha256))


def raised(error: Exception, file: Path | None) -> str:
    """Say what the code of a user's file raised, and where."""
    what = printable(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:300])
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file and frame.filename == str(file.resolve())]
    if not own:
        return f"it cannot be used as its protocol says ({what})"
    return f"{own[0].name} raises {what} (line {own[-1].lineno})"


def _source(path: Path, wanted: str) -> bytes:
    source = content(path, "a Python file (.py)")
    if hashlib.sha256(source).hexdigest() != wanted:
        raise BenchError(f"{path} has changed since the experiment was read; run the command again")
    return source


class _Loader(SourceLoader):
    """Loads the very bytes that were checked, and keeps no compiled copy beside them."""

    def __init__(self, path: Path, source: bytes) -> None:
        self.path = path
        self.source = source

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str) -> bytes:
        return self.source


def _module(path: Path, wanted: str) -> ModuleType:
    name = f"bench_part_{wanted}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _Loader(path, _source(path, wanted))
    spec = ModuleSpec(name, loader, origin=str(path))
    spec.has_location = True  # the module's __file__ is the path
    module = sys.modules[name] = module_from_spec(spec)  # where its dataclasses look for their types
    try:
        loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        what = printable(f"{where}: cannot be imported ({type(error).__name__}: {error})")
        raise BenchError(f"{what}; correct the file") from None
    return module
