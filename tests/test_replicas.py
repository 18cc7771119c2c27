"""Training together gives each run what it would get alone: curves, weights, divergence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from factory import a_dataset, a_run, part
from torch import nn

from bench.engine.images import divide, untrained
from bench.engine.replicas import WARM_UP, Loop, train_stacked
from bench.engine.stacked import StackedStep, stack
from bench.engine.train import DivergedError, Row, Training, objective_of, train
from bench.parts.optimizers import OPTIMIZERS
from bench.parts.vae import VAE
from bench.spec.experiment import Run

CPU = torch.device("cpu")
DATA = a_dataset()
CONV = {"encoder": "conv-bn", "decoder": "conv-bn"}
TIMES = {"train_seconds", "images_per_second"}


def seeds_of(run: Run, seeds: list[int]) -> list[Run]:
    return [run.model_copy(update={"seed": seed}) for seed in seeds]


def together(runs: list[Run], models: list[VAE] | None = None) -> tuple[list[Training | DivergedError], Any]:
    told: list[tuple[int, int]] = []

    def on_epoch(r: int, row: Row, model: VAE) -> None:
        told.append((r, int(row["epoch"] or 0)))

    models = models or [untrained(run) for run in runs]
    return train_stacked(runs, models, [divide(run, DATA, CPU)[0] for run in runs], on_epoch), told


def alone(run: Run) -> Training:
    return train(run, untrained(run), divide(run, DATA, CPU)[0], lambda row, model: None)


def check_curves(got: list[Row], expected: list[Row], rtol: float) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert list(a) == list(b)
        for name in a.keys() - TIMES:
            x, y = a[name], b[name]
            assert (x is None) == (y is None)
            assert math.isclose(float(x or 0), float(y or 0), rel_tol=rtol, abs_tol=1e-6), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"validation": 12_000, "drop_last": True},
        {"shuffle": False, "schedule": part("step", every=1, gamma=0.1)},
        {"optimizer": "adamw", "likelihood": "gaussian-learned", "encoder": "linear"},
        CONV
        | {"batch_size": 50, "optimizer": part("sgd", lr=1e-4)},  # Adam: see WITHOUT_GRADIENT of test_stacked
    ],
    ids=["mlp", "validation", "schedule", "learned", "conv-bn"],
)
def test_curves_and_weights_are_those_of_each_run_alone(changes: dict[str, Any]) -> None:
    runs = seeds_of(a_run(**({"batch_size": 32} | changes)), [0, 3, 7])
    ended, told = together(runs)
    assert told == [(r, epoch) for epoch in (1, 2) for r in range(3)]
    for run, training in zip(runs, ended, strict=True):
        assert isinstance(training, Training)
        expected = alone(run)
        check_curves(training.curves, expected.curves, 1e-4)
        assert training.weights.keys() == expected.weights.keys()
        for name, value in expected.weights.items():
            torch.testing.assert_close(training.weights[name], value, rtol=1e-2, atol=2e-3)
        assert (training.engine, training.replicas) == ("stacked", 3)
        assert training.note == "no CUDA graph on cpu"


def test_company_does_not_matter() -> None:
    runs = seeds_of(a_run(), [0, 3, 7])
    three, _ = together(runs)
    [one], _ = together(runs[1:2])
    assert isinstance(one, Training)
    assert isinstance(three[1], Training)
    check_curves(three[1].curves, one.curves, 1e-6)


def test_seconds_are_the_groups_divided_among_its_replicas() -> None:
    ended, _ = together(seeds_of(a_run(), [0, 1, 2]))
    seconds = [[row["train_seconds"] for row in t.curves] for t in ended if isinstance(t, Training)]
    assert seconds[0] == seconds[1] == seconds[2]


def test_a_replica_that_diverges_leaves_the_others_what_they_are() -> None:
    runs = seeds_of(a_run(epochs=3), [0, 1, 2])
    clean, _ = together(runs)
    spoilt = [untrained(run) for run in runs]
    with torch.no_grad():
        next(spoilt[1].encoder.parameters()).fill_(torch.inf)
    ended, told = together(runs, spoilt)
    error = ended[1]
    assert isinstance(error, DivergedError)
    assert (error.epoch, error.term, error.training.curves) == (1, "training reconstruction", [])
    assert error.training.weights == {}
    assert error.training.engine == "stacked"
    assert {r for r, _ in told} == {0, 2}
    for r in (0, 2):
        kept, whole = ended[r], clean[r]
        assert isinstance(kept, Training)
        assert isinstance(whole, Training)
        check_curves(kept.curves, whole.curves, 0.0)
        assert all(torch.equal(kept.weights[name], whole.weights[name]) for name in whole.weights)


def test_training_ends_when_all_have_diverged() -> None:
    runs = seeds_of(a_run(epochs=3), [0, 1])
    spoilt = [untrained(run) for run in runs]
    for model in spoilt:
        nn.init.constant_(next(model.decoder.parameters()), torch.nan)
    ended, told = together(runs, spoilt)
    assert all(isinstance(end, DivergedError) and end.epoch == 1 for end in ended)
    assert told == []


def test_late_divergence_keeps_the_last_finite_epoch() -> None:
    run = a_run(optimizer=part("sgd", lr=1e30), likelihood="gaussian", epochs=3)
    [end], _ = together([run])
    assert isinstance(end, DivergedError)
    assert "non-finite" in str(end)


# What a CUDA graph does, played on a CPU: capturing launches nothing, replaying does the recorded work


def loop_of(run: Run, seeds: list[int]) -> Loop:
    runs = seeds_of(run, seeds)
    stacked = stack([untrained(r) for r in runs])
    step = StackedStep(
        stacked, objective_of(run), lambda p: OPTIMIZERS[run.optimizer.name](p, **run.optimizer.options)
    )
    return Loop(runs, [divide(r, DATA, CPU)[0].train for r in runs], step)


def test_a_captured_step_reads_static_buffers_and_is_replayed() -> None:
    run = a_run(batch_size=16)  # 130 images: eight batches of 16 and one of 2
    plain, replayed = loop_of(run, [0, 1]), loop_of(run, [0, 1])
    captures: list[Any] = []
    replays: list[int] = []

    def fake(body: Callable[[], None], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        captures.append(body)
        me = len(captures)
        return lambda: (replays.append(me), body())[0]

    replayed.capture = fake
    for epoch, rate in ((1, 1e-3), (2, 1e-3), (3, 1e-4), (4, 1e-4)):
        a, seen = plain.epoch(epoch, rate)
        b, _ = replayed.epoch(epoch, rate)
        assert torch.equal(a, b)
        assert seen == 130
    # Captured for 16 images at each rate, and for the last 2 in the fourth epoch
    assert len(captures) == 3
    assert replays == [1] * (8 - WARM_UP) + [1] * 8 + [2] * 8 + [2] * 8 + [3]
    assert (replayed.engine, replayed.note) == ("stacked+graph", None)


def test_what_cannot_be_captured_goes_on_without() -> None:
    run = a_run(batch_size=16)
    plain, failing = loop_of(run, [0, 1]), loop_of(run, [0, 1])

    def fake(body: Callable[[], None], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    failing.capture = fake
    for epoch in (1, 2):
        assert torch.equal(plain.epoch(epoch, 1e-3)[0], failing.epoch(epoch, 1e-3)[0])
    assert failing.engine == "stacked"
    assert failing.note == "no CUDA graph: RuntimeError: operation not permitted when stream is capturing"
