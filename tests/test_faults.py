"""What else a matrix goes through on machines that people use, in real processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_matrix import (
    LONGEST,
    Fault,
    begun,
    check_whole,
    end,
    fork,
    in_mlflow,
    kill,
    records,
    run,
    start,
    undisturbed,
    until,
)
from test_cli import bench

from bench.store.lock import LOCK, held

__all__ = ["undisturbed"]  # a fixture
pytestmark = pytest.mark.faults
CHECKPOINTS = "reports/runs/*/checkpoint.safetensors"


def importing(parent: int) -> bool:
    """Whether the process is there that imports what workers need, and that they are forked from."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with contextlib.suppress(OSError):  # one that is gone already
            if "multiprocessing.forkserver" in Path(f"/proc/{child}/cmdline").read_text():
                return True
    return False


def check_stopped(process: subprocess.Popen[str], folder: Path) -> None:
    """It says how to go on, in one line, and leaves a report, and no run open."""
    _, errors = process.communicate(timeout=LONGEST)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "goes on with the rest" in errors
    assert (folder / "reports/small/report.md").exists()
    assert not [run for run in in_mlflow(folder) if run["status"] == "RUNNING"]


def test_ctrl_c_and_sigterm_in_the_middle(
    undisturbed: list[dict[str, str]], tmp_path: Path, fault: Fault
) -> None:
    """A person's, to the whole group while the workers start; then a machine's, in the midst of training."""
    process = start(tmp_path)
    until(lambda: importing(process.pid), process)
    time.sleep(0.3)  # in the midst of seconds of imports
    os.killpg(process.pid, signal.SIGINT)
    check_stopped(process, tmp_path)
    fault("SIGINT", injected=1, survived=1)
    process, since = start(tmp_path), time.time()
    until(lambda: begun(tmp_path, CHECKPOINTS, since), process)
    process.terminate()
    check_stopped(process, tmp_path)
    fault("SIGTERM", injected=1, survived=1)
    assert "interrupted" in {record["status"] for record in records(tmp_path)}
    assert "goes on after epoch" in bench("plan", "small.yaml", cwd=tmp_path).stdout
    last = fork(tmp_path)
    assert end(last) == 0, last.told()
    resumed = [record for record in records(tmp_path) if record.get("resumed")]
    assert resumed, "nothing was gone on with"
    check_whole(tmp_path, undisturbed, fault, "SIGTERM", 0)


def test_a_worker_that_is_killed_costs_its_run_a_second_attempt_and_nothing_else(
    undisturbed: list[dict[str, str]], tmp_path: Path, fault: Fault
) -> None:
    process = fork(tmp_path)
    until(lambda: [*tmp_path.glob(CHECKPOINTS)], process)
    assert kill(process, "worker")
    assert end(process) == 0, process.told()
    [retried] = [record for record in records(tmp_path) if record.get("retried")]
    assert retried["retried"] == "its worker process ended with signal SIGKILL"
    assert retried["status"] == "finished"
    check_whole(tmp_path, undisturbed, fault, "a worker killed", 1)


def test_two_at_once_on_one_folder(tmp_path: Path, fault: Fault) -> None:
    """The second is told who is at work, and does nothing."""
    with held(tmp_path / "reports/small" / LOCK, "reports/small", ""):
        second = run(tmp_path)
    assert second.returncode == 2, second.stdout
    *_, told = second.stderr.strip().splitlines()
    assert told.startswith(f"bench: reports/small is in use by process {os.getpid()} on ")
    assert "Traceback" not in second.stderr
    assert not records(tmp_path)
    fault("two bench run at once", injected=1, survived=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_freed_space_is_all_it_takes(
    undisturbed: list[dict[str, str]], small_disk: Path, fault: Fault
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1_500_000))  # the store and a run or two have room, four have not
    full = fork(small_disk)
    code, told = end(full), full.told()
    assert code in (1, 2), told
    assert "No space left" in told or "full" in told, told
    assert "Traceback" not in told, told
    records(small_disk)  # whole, or absent
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    again = fork(small_disk)
    assert end(again) == 0, again.told()
    check_whole(small_disk, undisturbed, fault, "disk full", 1)


def test_a_disk_that_cannot_be_written_is_told_before_anything_trains(
    small_disk: Path, tmp_path: Path, fault: Fault
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for words, told in (
        (
            ("--reports", f"{small_disk}/reports"),
            f"--reports {small_disk}/reports: Read-only file system; give",
        ),
        (("--tracking-uri", f"sqlite:///{small_disk}/mlflow.db"), "cannot track runs in sqlite:///"),
    ):
        done = run(tmp_path, *words)
        assert done.returncode == 2
        assert [line for line in done.stderr.splitlines() if line.startswith(f"bench: {told}")], done.stderr
        assert "Traceback" not in done.stderr
        assert records(tmp_path) == []
    assert not [*small_disk.iterdir()]
    fault("disk read-only", injected=2, survived=2)


BACK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME && !access(getenv("CLOCK_BACK"), F_OK)) now->tv_sec -= 86400;
    return result;
}
"""


def test_a_clock_that_jumps_back_a_day(
    undisturbed: list[dict[str, str]], tmp_path: Path, fault: Fault
) -> None:
    """In bench and in its workers, once the first run has its record."""
    library = tmp_path / "back.so"
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to put the clock back with")
    words = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
    subprocess.run(words, input=BACK, text=True, check=True)
    back = tmp_path / "back"
    process = start(tmp_path, LD_PRELOAD=str(library), CLOCK_BACK=str(back))
    until(lambda: records(tmp_path), process)
    back.touch()
    output, errors = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, output + errors
    days = {record[key][:10] for record in records(tmp_path) for key in ("started", "finished")}
    assert len(days) == 2, "the clock did not jump"
    assert min(row["train_seconds"] for record in records(tmp_path) for row in record["curves"]) > 0
    check_whole(tmp_path, undisturbed, fault, "clock put back a day", 1)
