"""A run that is stopped and taken up again comes to the bits that it would have come to."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import SHAPE, a_dataset, a_run, part, timeless, train_one
from test_groups import CPU, check_equal, jobs_of, shared

from bench.engine import checkpoint
from bench.engine.checkpoint import Checkpoint, Pace, State, epoch_kept
from bench.engine.images import divide, untrained
from bench.engine.loop import Training, train
from bench.parts.optimizers import OPTIMIZERS, SCHEDULES
from bench.runs import execute as runner
from bench.runs.execute import Job, SharedContext, execute, execute_group
from bench.spec.experiment import Run
from bench.store.records import CHECKPOINT, Record

__all__ = ["shared"]  # a fixture
DATA = a_dataset()
CHANGES = {
    "fast": {},
    "reference": {"likelihood": "continuous-bernoulli", "validation": 12_000},
    "conv-bn": {"encoder": "conv-bn", "decoder": "conv-bn", "batch_size": 50},
    "schedule": {
        "optimizer": part("sgd", lr=1e-4, momentum=0.9),
        "schedule": part("step", every=2, gamma=0.1),
    },
    "learned": {"optimizer": "adamw", "likelihood": "gaussian-learned", "encoder": "linear"},
    "no momentum": {"optimizer": part("sgd", lr=1e-4), "shuffle": False, "drop_last": True},
    "clipped": {"clip_norm": 1.0},
    **{
        f"drawn, {resample}": {"input": "target", "target": part("bernoulli", resample=resample)}
        for resample in ("batch", "epoch", "never")
    },
    "learned prior": {"prior": part("mixture", components=3)},
    "dropout": {"encoder": part("mlp", dropout=0.3, batch_norm=True)},
    **{name: {"optimizer": name} for name in OPTIMIZERS},
    **{name: {"schedule": name} for name in SCHEDULES},
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, shared: SharedContext) -> Record:
    """The record of three epochs that nothing stopped."""
    [whole] = jobs_of(tmp_path_factory.mktemp("whole"), [0], epochs=3)
    return execute(whole, shared, lambda kind, data: None)


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of these tests are too short to be kept each."""
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


def trained(run: Run, start: State | None = None, folder: Path | None = None) -> tuple[Training, list[State]]:
    """Train, with every state that is kept; through a file in the folder, where one is given."""
    kept: list[State] = []

    def keep(state: State) -> None:
        if folder:
            Checkpoint(folder / str(state.epoch), {}).keep(state)
            loaded = Checkpoint(folder / str(state.epoch), {}).load()
            assert loaded
            kept.append(loaded)
        else:
            kept.append(state)

    images = divide(run, DATA, CPU)[0]
    return train_one(run, untrained(run, SHAPE), images, start=start, keep=keep), kept


def check_same(got: Training, expected: Training) -> None:
    assert got.weights.keys() == expected.weights.keys()
    for name, value in expected.weights.items():
        assert torch.equal(got.weights[name], value), name
    assert [*map(timeless, got.curves)] == [*map(timeless, expected.curves)]


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_training_goes_on_to_the_same_bits_from_every_epoch(changes: dict[str, Any], tmp_path: Path) -> None:
    run = a_run(**({"batch_size": 32, "epochs": 4} | changes))
    whole, states = trained(run, folder=tmp_path)
    assert [state.epoch for state in states] == [1, 2, 3, 4]
    for state in states:
        rest, later = trained(run, state)
        check_same(rest, whole)
        assert [s.epoch for s in later] == [s.epoch for s in states[state.epoch :]]


@pytest.mark.parametrize("changes", [CHANGES["learned"], CHANGES["conv-bn"]], ids=["learned", "conv-bn"])
def test_a_group_goes_on_to_the_same_bits(changes: dict[str, Any], tmp_path: Path) -> None:
    runs = [a_run(**({"batch_size": 32, "epochs": 3} | changes), seed=seed) for seed in (0, 5)]
    images = [divide(run, DATA, CPU)[0] for run in runs]

    def together(starts: list[State], kept: dict[tuple[int, int], State]) -> list[Training]:
        def keep(replica: int, state: State) -> None:
            file = Checkpoint(tmp_path / f"{replica}-{state.epoch}", {})
            file.keep(state)
            kept[replica, state.epoch] = file.load()  # type: ignore[assignment]

        models = [untrained(run, SHAPE) for run in runs]
        return train(runs, models, images, lambda r, row, model: None, starts, keep, stacked=True)

    kept: dict[tuple[int, int], State] = {}
    whole = together([], kept)
    for epoch in (1, 2, 3):
        for got, expected in zip(together([kept[0, epoch], kept[1, epoch]], {}), whole, strict=True):
            check_same(got, expected)


class Stopped(BaseException):
    """What a killed process looks like from inside."""


def stopped(job: Job, shared: SharedContext, at: tuple[str, int]) -> None:
    """Do a run until an event has been told so many times."""
    kind_due, count = at
    seen = 0

    def emit(kind: str, data: dict[str, Any]) -> None:
        nonlocal seen
        seen += kind == kind_due
        if seen == count:
            raise Stopped

    with pytest.raises(Stopped):
        execute(job, shared, emit)


@pytest.mark.parametrize("at", [("image", 6), ("evaluate", 1)], ids=lambda at: at[0])
def test_a_stopped_run_leaves_the_record_and_the_files_of_a_whole_one(
    at: tuple[str, int], tmp_path: Path, shared: SharedContext, expected: Record
) -> None:
    [job] = jobs_of(tmp_path, [0], epochs=3)
    stopped(job, shared, at)
    epoch = epoch_kept(job.folder)
    assert epoch == {"image": 2, "evaluate": 3}[at[0]]
    told: list[tuple[str, Any]] = []
    job = replace(job, id="as-another-experiment-calls-it", resume=epoch)
    record = execute(job, shared, lambda kind, data: told.append((kind, data)))
    assert record["id"] == job.id
    assert record["resumed"] == [epoch]
    check_equal(record | {"id": expected["id"]}, expected)  # weights and pictures, byte for byte
    assert not (job.folder / CHECKPOINT).exists()
    # Tracking is told everything, also what it may have missed
    assert [data["epoch"] for kind, data in told if kind == "epoch"] == [1, 2, 3]
    pictures = [(data["key"], data["step"]) for kind, data in told if kind == "image"]
    assert len(pictures) == len(set(pictures))
    assert {("samples", 1), ("samples", 2), ("samples", 3)} < set(pictures)


@pytest.mark.parametrize("why", ["no leave to go on", "checkpoint damaged", "picture damaged"])
def test_a_run_starts_again_from_scratch(
    why: str, tmp_path: Path, shared: SharedContext, expected: Record
) -> None:
    [job] = jobs_of(tmp_path, [0], epochs=3)
    stopped(job, shared, ("epoch", 3))
    if why != "no leave to go on":
        damaged = CHECKPOINT if why == "checkpoint damaged" else "pictures/samples-epoch-001.png"
        file = job.folder / damaged
        file.write_bytes(file.read_bytes()[:-100])
        job = replace(job, resume=2)
    record = execute(job, shared, lambda kind, data: None)
    assert "resumed" not in record
    assert record["artifacts"] == expected["artifacts"]


def test_replicas_of_a_group_go_on_together_from_one_epoch(tmp_path: Path, shared: SharedContext) -> None:
    jobs = jobs_of(tmp_path, [0, 1, 2], epochs=3)

    def emit(run_id: str, kind: str, data: dict[str, Any]) -> None:
        if (run_id, kind, data.get("epoch")) == (jobs[2].id, "epoch", 2):
            raise Stopped

    with pytest.raises(Stopped):
        [*execute_group(jobs, shared, emit)]
    epochs = [epoch_kept(job.folder) for job in jobs]
    assert epochs == [2, 2, 1]  # the last one was not written any more
    again = [replace(job, resume=epoch) for job, epoch in zip(jobs, epochs, strict=True)]
    records = [*execute_group(again, shared, lambda *_: None)]
    assert {record["seed"]: record["resumed"] for record in records} == {0: [2], 1: [2], 2: [1]}
    for record in records:
        assert record["status"] == "finished"
        assert record["environment"]["replicas"] == (1 if record["seed"] == 2 else 2)


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    tmp_path: Path, shared: SharedContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if CHECKPOINT in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    [job] = jobs_of(tmp_path, [0])
    assert execute(job, shared, lambda kind, data: None)["status"] == "finished"


def test_a_record_that_cannot_be_written_is_told_and_the_checkpoint_stays(
    tmp_path: Path, shared: SharedContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: runner.RunFolder, record: Record) -> None:
        raise runner.BenchError("cannot write record.json: No space left on device")

    monkeypatch.setattr(runner.RunFolder, "write_record", full)
    [job] = jobs_of(tmp_path, [0])
    record = execute(job, shared, lambda kind, data: None)
    assert (record["status"], record["environmental"]) == ("failed", True)
    assert "No space left" in record["reason"]
    assert epoch_kept(job.folder) == 2


def a_state(**changes: Any) -> State:
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}
    state = State(2, tensors, {"0.step": torch.tensor(4.0)}, {"last_epoch": 2}, [{"epoch": 1}, {"epoch": 2}])
    return replace(state, **changes)


@pytest.mark.parametrize("maker", [{"id": "b"}, {"id": "a", "torch": "1.0"}])
def test_a_checkpoint_of_another_maker_is_not_gone_on_from(maker: dict[str, str], tmp_path: Path) -> None:
    Checkpoint(tmp_path, {"id": "a"}).keep(a_state())
    assert Checkpoint(tmp_path, maker).load() is None


def test_any_damage_is_found(tmp_path: Path) -> None:
    """Every truncation, and a flipped bit in every byte: never another state, never an exception."""
    file = Checkpoint(tmp_path, {})
    file.keep(a_state())
    content = file.file.read_bytes()
    for cut in range(len(content)):
        file.file.write_bytes(content[:cut])
        assert file.load() is None, cut
        assert epoch_kept(tmp_path) in (0, 2)
    padding = 0
    for place in range(len(content)):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << (place % 8)
        file.file.write_bytes(spoilt)
        padding += file.load() is not None
        epoch_kept(tmp_path)
    assert padding == 0


def test_short_epochs_are_kept_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(checkpoint, "SHARE", 0.05)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    pace, kept = Pace(), 0
    for epoch in range(1, 101):
        now += 0.010
        for _ in range(3):  # replicas
            if pace.keeps(epoch):
                kept += 1
                with pace.writing():
                    now += 0.001
    assert kept % 3 == 0
    assert kept * 0.001 <= 0.06 * now
    assert kept >= 3 * 10
