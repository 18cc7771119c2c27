"""Where data sets lie, and torchvision's downloads into the user's cache with a bounded wait."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

STALL = 15.0  # seconds without a new byte after which a download is given up
LONGEST = 600.0  # seconds after which any download is given up


def cache_dir() -> Path:
    """Name the user's cache of bench, in $XDG_CACHE_HOME or ~/.cache; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bench"


_FETCH = """
import json, pathlib, socket, sys, torchvision.datasets
layout, folder, seconds, calls = sys.argv[1:]
pathlib.Path(folder, "started").write_text("imports are over: from here on silence is the network's")
pathlib.Path(folder, "data").mkdir()
socket.setdefaulttimeout(float(seconds))
for options in json.loads(calls):
    getattr(torchvision.datasets, layout)(folder + "/data", **options, download=True)
"""


def fetch(layout: str, final: Path, part: str, calls: Sequence[Mapping[str, Any]] = ({},)) -> str:
    """Have torchvision fetch a data set, all or nothing; give why it failed, or "".

    `part` of what it fetches becomes the folder `final`; `calls` are the options of each call that fetches.
    It runs in a process of its own: a name that never resolves and a silent server cannot be timed out inside
    this one. The folder gets its final name once torchvision has verified and unpacked all of it.
    """
    cache = cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as folder:
            said = json.dumps([{k: v for k, v in call.items() if k != "download"} for call in calls])
            why = _watch([sys.executable, "-c", _FETCH, layout, folder, str(STALL), said], Path(folder))
            if not why and not final.exists():
                final.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(Path(folder) / "data" / part, final)
    except OSError as error:
        return str(error)
    return why


def _watch(command: list[str], folder: Path) -> str:
    """Run a command for as long as it goes on writing to `folder`; give why it failed, or ""."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,  # noqa: S603  our own command
    ):
        size, start = 0, time.monotonic()
        changed = start
        while process.poll() is None:
            time.sleep(0.1)
            now, before, size = time.monotonic(), size, 0
            for path in folder.rglob("*"):
                with suppress(FileNotFoundError):  # renamed since it was listed
                    size += path.stat().st_size
            changed = changed if size == before else now
            if (size and now - changed > STALL) or now - start > LONGEST:
                process.kill()
                return f"no progress for {now - changed:.0f} s"
        if process.returncode == 0:
            return ""
        log.seek(0)
        return (log.read().strip().splitlines() or ["no message"])[-1][:200]
