"""The parent's side of a matrix: what it does when a run, the disk or the store fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from factory import a_record, a_run
from tracked import until

from bench.errors import BenchError
from bench.runs import matrix
from bench.runs.execute import Job
from bench.runs.groups import TaskGroup
from bench.runs.matrix import Matrix
from bench.runs.plan import Plan, make_plan
from bench.runs.progress import Display
from bench.runs.request import Request
from bench.spec.resolve import load
from bench.store.records import CHECKPOINT, RunFolder
from bench.tracking import Attempt, Tracker


class Store:
    """A tracker that takes everything and keeps the order."""

    experiment_id, uri, warnings = "1", "sqlite:///x.db", ["a view was not written"]

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.status = ""  # of the run that was sent last

    def deliver(self, record: dict[str, Any], attempt: Attempt) -> None:
        attempt.asked, self.status = True, record.get("status", "RUNNING")

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.taken.append(name)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Matrix:
    """A matrix of two runs that stops at the first failure."""
    monkeypatch.setattr(matrix, "write_report", lambda folder, *, html: folder)
    data = SimpleNamespace(name="tiny", digest="d" * 32)
    (tmp_path / "experiment.json").write_text('{"variants": {}, "planned": {}}')
    runs = tuple(SimpleNamespace(id=run_id, key=run_id) for run_id in "ab")
    plan = SimpleNamespace(folder=tmp_path, data=data, device="cpu", todo=(), runs=runs)
    display = Display({"a": 1.0, "b": 1.0}, 2.0, quiet=False)
    return Matrix(cast(Plan, plan), cast(Tracker, Store()), display, fail_fast=True)


def job(run_id: str, folder: Path) -> Job:
    return Job(run_id, a_run(), folder / "runs" / run_id, {})


def failed(run_id: str, status: str = "failed") -> dict[str, Any]:
    return {
        "id": run_id,
        "status": status,
        "reason": "out of memory",
        "run": {},
        "variant": "small",
        "seed": 0,
    }


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_the_first_failure_stops_the_matrix_where_that_was_asked_for(
    status: str, made: Matrix, tmp_path: Path
) -> None:
    made.starting(job("a", tmp_path))
    made.starting(job("b", tmp_path))
    with pytest.raises(matrix.StopMatrixError):
        made.ended(job("a", tmp_path), failed("a", status))
    made.ended(job("b", tmp_path), failed("b", "interrupted"))  # as the executor stops what goes on
    made.close()
    assert made.stopped == f"small · seed 0 {status}: out of memory"
    assert {*made.outcomes.values()} == {status, "interrupted"}
    taken = cast(Store, made.tracker).taken
    assert taken[-1] == "describe", "the report is sent, after the runs"
    assert made.faults == ["a view was not written"]


@pytest.mark.parametrize("status", ["diverged", "interrupted"])
def test_a_run_whose_end_ctrl_c_kept_from_being_told_is_closed(
    status: str, made: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    a, store = job("a", tmp_path), cast(Store, made.tracker)
    made._fail_fast = False
    group = TaskGroup([a], made, 2)
    group.begin()
    until(lambda: store.status == "RUNNING")
    if status == "diverged":  # by its worker
        RunFolder(a.folder).write_record(failed("a", status))
    with monkeypatch.context() as patched:
        patched.setattr(made._writer, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            group.hear("a", "done", failed("a", status))
    group.end("interrupted", "stopped")  # it has forgotten the run by now
    made.close()
    assert store.status == made.outcomes["a"] == status
    assert (RunFolder(a.folder).read() or {})["status"] == status
    assert made._writer.left == 0


def test_without_it_the_matrix_goes_on(made: Matrix, tmp_path: Path) -> None:
    made._fail_fast = False
    made.ended(job("a", tmp_path), failed("a"))
    made.close()
    assert made.stopped == ""


def test_a_report_that_cannot_be_written_is_told_once_and_the_runs_are_still_sent(
    made: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def full(folder: Path, *, html: bool) -> Path:
        asked.append(folder)
        raise BenchError("cannot write the report: No space left on device")

    monkeypatch.setattr(matrix, "write_report", full)
    made._fail_fast = False
    made.starting(job("a", tmp_path))
    with pytest.raises(BenchError, match="No space left"):
        made.ended(job("a", tmp_path), failed("a"))
    made.ended(
        job("b", tmp_path), failed("b", "interrupted")
    )  # must not raise: the workers are to be stopped
    made.close()
    assert len(asked) == 1
    assert cast(Store, made.tracker).taken[-1] == "describe"


def test_what_a_run_tells_is_shown(made: Matrix, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.display.console.file = sys.stderr
    made.event(job("a", tmp_path), "retry", {"reason": "its worker was killed"})
    made.event(job("a", tmp_path), "resumed", {"epoch": 7})
    made.event(job("a", tmp_path), "evaluate", {})
    made.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "small · seed 0: taken up once more, as its worker was killed",
        "small · seed 0: goes on after epoch 7",
    ]


def test_what_is_left_out_may_be_under_way(tmp_path: Path) -> None:
    """By another process, or stopped by Ctrl-C: its checkpoint stays, and that of a finished run goes."""
    spec = """
question: Why?
dataset: digits
seeds: 1
defaults: {encoder: conv-bn, decoder: conv-bn}
variants: {a: {latent: 2}, b: {latent: 3}}
"""
    (tmp_path / "two.yaml").write_text(spec)
    plan = make_plan(Request(load(tmp_path / "two.yaml"), only=("b",), reports=tmp_path / "reports"))
    left_out, done = (plan.home.runs / planned.key / CHECKPOINT for planned in plan.runs)
    for file in (left_out, done):
        file.parent.mkdir(parents=True)
        file.touch()
    RunFolder(done.parent).write_record(a_record("b-s0-0"))
    made = Matrix(plan.again(), cast(Tracker, Store()), Display({}, 0.0, quiet=True))
    made.open()
    assert (left_out.exists(), done.exists()) == (True, False)


def test_a_report_under_way_is_no_change_of_the_code(tmp_path: Path) -> None:
    """Reports may be tracked, and bench writes them while it runs; a changed module is told."""

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    code, report = tmp_path / "bench" / "matrix.py", tmp_path / "reports" / "x" / "report.md"
    for file in (code, report):
        file.parent.mkdir(parents=True)
        file.write_text("as committed")
    assert matrix.git_state(tmp_path) == {}
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    report.write_text("one more run")
    assert matrix.git_state(code.parent) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    code.write_text("changed")
    assert matrix.git_state(code.parent)["dirty"]
