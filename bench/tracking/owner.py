"""Which process writes a run, so that a run whose process died can be told from one that is still going."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

PROCESS = uuid4().hex  # tells this process from an earlier one that had the same number


def owner_tags() -> dict[str, str]:
    """The tags that mark a run as written by this process."""
    return {
        "bench.host": platform.node(),
        "bench.pid": str(os.getpid()),
        "bench.begun": begun(os.getpid()),
        "bench.process": PROCESS,
    }


def ours(tags: Mapping[str, str]) -> bool:
    """Whether this very process writes the run."""
    return tags.get("bench.process") == PROCESS


def abandoned(tags: Mapping[str, str]) -> bool:
    """Whether the run's process, on this machine, is surely gone; in doubt, no."""
    if tags.get("bench.host") != platform.node() or not tags.get("bench.pid", "").isdigit():
        return False
    pid = int(tags["bench.pid"])
    if pid == os.getpid():
        return not ours(tags)
    if os.name == "nt":  # there, signal 0 would end the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it lives and is another user's
        pass
    told, now = tags.get("bench.begun"), begun(pid)
    return bool(told and now) and told != now  # another process has the number now


def begun(pid: int) -> str:
    """When a process of this machine began, as Linux counts: boot and clock ticks since; elsewhere empty."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return f"{boot}:{stat.rpartition(')')[2].split()[19]}"  # starttime, see proc(5); a name may hold anything
