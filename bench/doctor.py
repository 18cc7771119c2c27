"""Check what this machine has: Python, the torch/torchvision pair, devices, data, store, disk."""

from __future__ import annotations

import os
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

from bench.errors import BenchError

OLDEST_PYTHON = (3, 11)
DISK_GB = 2.0  # the runs of experiments/all.yaml on MNIST, with pictures and weights


class Finding(NamedTuple):
    """Hold one line of `bench doctor`. What is not `required` may be absent: bench works without it."""

    name: str
    ok: bool
    detail: str
    required: bool = True


def check(data_dir: Path | None, tracking_uri: str) -> list[Finding]:
    """Check everything that a run needs of this machine, in the order in which to mend it."""
    findings = [_python(), _torch_pair(), _mlflow()]
    if findings[1].ok:  # importing a mismatched pair is what crashes
        findings += [_devices(), *_data(data_dir)]
    return [*findings, _store(tracking_uri), _disk(Path.cwd())]


def require_matching_torch() -> None:
    """Refuse a torchvision that was built for another torch. Reads metadata only, imports neither.

    Raises BenchError naming both versions and the torch that this torchvision asks for.
    """
    try:
        installed, torchvision = Version(version("torch")), version("torchvision")
    except PackageNotFoundError as error:
        raise BenchError(f"{error.name} is not installed; run `make setup`") from error
    for line in requires("torchvision") or ():
        wanted = Requirement(line)
        # `public` drops the local part: torch 2.11.0+cu130 is the 2.11.0 that torchvision asks for.
        if wanted.name == "torch" and not wanted.specifier.contains(installed.public, prereleases=True):
            raise BenchError(
                f"torchvision {torchvision} needs torch{wanted.specifier} and torch is {installed}; "
                "run `make setup`, or install a pair that was built together"
            )


def _python() -> Finding:
    oldest, here = (".".join(map(str, v)) for v in (OLDEST_PYTHON, sys.version_info[:3]))
    return Finding("python", sys.version_info[:2] >= OLDEST_PYTHON, f"{here} (at least {oldest})")


def _torch_pair() -> Finding:
    try:
        require_matching_torch()
    except BenchError as error:
        return Finding("torch", False, str(error))
    return Finding("torch", True, f"torch {version('torch')}, torchvision {version('torchvision')}")


def _mlflow() -> Finding:
    try:
        found = version("mlflow")
        wanted = next(
            r.specifier for r in map(Requirement, requires("bench-vae") or ()) if r.name == "mlflow"
        )
    except PackageNotFoundError as error:
        return Finding("mlflow", False, f"{error.name} is not installed; run `make setup`")
    return Finding("mlflow", wanted.contains(found), f"{found} (wanted {wanted})")


def _devices() -> Finding:
    from bench.engine.device import describe, pick, present

    best = describe(pick("auto"))
    detail = f"{', '.join(present())}; auto takes {best['device']}, {best['device_name']}"
    return Finding("devices", True, f"{detail}, {os.cpu_count()} CPU cores")


def _data(data_dir: Path | None) -> Iterator[Finding]:
    """Read and verify every data set. None is fetched."""
    from bench.data.dataset import DataUnavailable
    from bench.data.datasets import DATASETS, load

    for name in DATASETS:
        try:
            found = load(name, data_dir, download=False)
        except DataUnavailable as error:
            yield Finding(f"data {name}", False, str(error), required=False)
        except BenchError as error:
            yield Finding(f"data {name}", False, str(error))
        else:
            size = f"{len(found.train_images):,} + {len(found.test_images):,} images"
            yield Finding(f"data {name}", True, f"{size} in {found.source}, digest {found.digest}")


def _store(uri: str) -> Finding:
    """Check that MLflow's store can be written to (SQLite) or answers (a server)."""
    scheme, _, rest = uri.partition("://")
    if not rest or scheme == "file":
        detail = f"{uri}: MLflow 3.13 and later refuse a folder as store; give sqlite:///mlflow.db"
        return Finding("store", False, detail)
    if scheme in {"http", "https"}:
        return _server(uri)
    if scheme != "sqlite":
        return Finding("store", True, f"{scheme} store, not checked here")
    database = Path(rest.removeprefix("/")).absolute()  # sqlite:///relative, sqlite:////absolute
    places = [database.parent, *([database] if database.exists() else [])]  # SQLite keeps a journal beside it
    bad = next((place for place in places if not os.access(place, os.W_OK)), None)
    return Finding("store", not bad, f"{uri}: {bad} is absent or cannot be written to" if bad else uri)


def _server(uri: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=3) as answer:  # noqa: S310  http(s) only
            return Finding("store", True, f"{uri} answers {answer.status}")
    except (OSError, ValueError) as error:
        return Finding("store", False, f"{uri} does not answer ({error}); start it or give --tracking-uri")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    return Finding("disk", free >= DISK_GB, f"{free:.1f} GB free (wanted {DISK_GB:.0f} GB)")
