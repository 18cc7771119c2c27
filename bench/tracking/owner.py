"""Which process writes a run, so that one whose process died can be told from one that goes on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

PROCESS = uuid4().hex  # stands for the start of this process where the system does not tell it


def owner_tags() -> dict[str, str]:
    """Name this process in the tags of a run that it writes."""
    pid = os.getpid()
    return {"bench.host": platform.node(), "bench.pid": str(pid), "bench.begun": begun(pid) or PROCESS}


def ours(tags: Mapping[str, str]) -> bool:
    """Tell whether this very process writes the run."""
    return owner_tags().items() <= tags.items()


def abandoned(tags: Mapping[str, str]) -> bool:
    """Tell whether the run's process was on this machine and is surely gone."""
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
    """Give when a process began, as Linux counts: boot and clock ticks since; elsewhere an empty text."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return f"{boot}:{stat.rpartition(')')[2].split()[19]}"  # starttime, see proc(5); a name may hold anything
