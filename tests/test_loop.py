"""The loop: paired seeds, the same bits again, curves, divergence; replicas train as they would alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import SHAPE, a_dataset, a_run, bytes_of, part, timeless, train_one
from torch import Tensor

from bench.engine import loop
from bench.engine.device import stream
from bench.engine.epochs import WARM_UP, Epochs, order
from bench.engine.images import Images, divide, untrained
from bench.engine.loop import Row, Training, make_step, train
from bench.engine.stacked import stack
from bench.parts import lookup
from bench.parts.objectives import Elbo, Iwae
from bench.parts.protocols import LossTerms
from bench.parts.vae import VAE
from bench.spec.experiment import Run

CPU = torch.device("cpu")
CONTRACT = Path(__file__).parents[1] / "docs" / "architecture.md"
IMAGES = Images(bytes_of(53), bytes_of(17, seed=1))
DATA = a_dataset()
CONV = {"encoder": "conv-bn", "decoder": "conv-bn"}


def trained(run: Run, images: Images = IMAGES) -> tuple[Training, VAE]:
    """A run of small models, trained."""
    model = untrained(run, SHAPE)
    return train_one(run, model, images), model


def without_times(training: Training) -> list[dict[str, Any]]:
    """The curves less what a clock says."""
    return [*map(timeless, training.curves)]


def numbers(training: Training) -> list[dict[str, Any]]:
    """The same, less what is absent: `pytest.approx` takes no None."""
    return [{k: v for k, v in row.items() if v is not None} for row in without_times(training)]


# One run


@pytest.mark.parametrize(
    ("likelihood", "engine", "note"),
    [
        ("bernoulli", "fast", None),
        (
            "continuous-bernoulli",
            "reference",
            "reference: likelihood ContinuousBernoulli has no written-out gradient",
        ),
    ],
)
def test_one_seed_gives_the_same_bits_again_and_another_does_not(
    likelihood: str, engine: str, note: str | None
) -> None:
    run = a_run(likelihood=likelihood)
    first, again, other = (trained(r)[0] for r in (run, run, run.model_copy(update={"seed": 1})))
    assert (first.engine, first.note) == (engine, note)
    assert without_times(first) == without_times(again)
    assert all(torch.equal(first.weights[k], again.weights[k]) for k in first.weights)
    for a, b in zip(without_times(first), without_times(other), strict=True):
        assert a["train_loss"] != b["train_loss"]
        assert a["test_loss"] != b["test_loss"]


def test_both_engines_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(epochs=3)
    fast, _ = trained(run)
    monkeypatch.setattr(loop, "refusal", lambda *_: "a test says so")
    reference, _ = trained(run)
    assert (fast.engine, reference.engine) == ("fast", "reference")
    for a, b in zip(numbers(fast), numbers(reference), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert fast.curves[-1]["train_loss"] < fast.curves[0]["train_loss"]  # type: ignore[operator]


def test_seeds_are_paired_over_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed s means the same batches in the same order and the same noise, whatever the parts."""
    seen: dict[str, list[Tensor]] = {}

    def recording(run: Run, model: VAE) -> Any:
        step = make_step(run, model)

        class Recorder:
            engine, note, model, optimizer = step.engine, step.note, step.model, step.optimizer

            def __call__(self, grey: Tensor, noise: Tensor, images: int, drawn: None) -> Tensor:
                seen.setdefault(run.variant, []).extend([grey.clone(), noise.clone(), torch.tensor(images)])
                return step(grey, noise)

        return Recorder()

    monkeypatch.setattr(loop, "make_step", recording)
    trained(a_run(variant="one"))
    other = {"likelihood": "gaussian-learned", "input": "normalised", "optimizer": "adamw"}
    trained(a_run(variant="two", encoder=part("linear", hidden=5), **other))
    assert len(seen["one"]) == 3 * 2 * 7  # grey, noise and images seen; epochs; batches
    assert all(torch.equal(a, b) for a, b in zip(seen["one"], seen["two"], strict=True))
    assert not torch.equal(seen["one"][1], seen["one"][3 * 7 + 1])  # fresh noise in the second epoch
    assert torch.stack(seen["one"][2::3]).tolist() == [*range(0, 53, 8), *range(53, 106, 8)]


@pytest.mark.parametrize("drop_last", [False, True])
def test_an_epoch_is_a_permutation_of_its_own(drop_last: bool) -> None:
    run = a_run(drop_last=drop_last)
    kept = 48 if drop_last else 53
    first, again, other = (order(run, 53, epoch).tolist() for epoch in (1, 1, 2))
    assert len(first) == len(set(first)) == kept
    assert set(first) <= set(range(53))
    assert first == again != other
    unshuffled = order(run.model_copy(update={"shuffle": False}), 53, 2)
    assert unshuffled.tolist() == list(range(kept))


def test_rows_keep_the_contract_of_the_record() -> None:
    text = CONTRACT.read_text(encoding="utf-8")
    promised = re.search(r'"curves": \[(\{.*?\})\]', text, re.DOTALL)
    assert promised
    rows: list[dict[str, Any]] = []
    run = a_run(epochs=3)
    training = train_one(run, untrained(run, SHAPE), IMAGES, lambda row, model: rows.append(dict(row)))
    assert rows == training.curves
    for epoch, row in enumerate(rows, 1):
        assert list(row) == list(json.loads(promised[1]))
        assert row["epoch"] == epoch
        assert row["validation_loss"] is row["validation_loss_nats"] is None
        assert all(math.isfinite(v) for v in row.values() if v is not None)
        assert row["elbo"] == pytest.approx(-(row["reconstruction"] + row["kl"]))
        assert row["images_per_second"] == pytest.approx(53 / row["train_seconds"])
    assert training.seconds == pytest.approx(sum(row["train_seconds"] for row in rows))


def test_validation_images_are_judged_apart() -> None:
    training, _ = trained(a_run(), Images(IMAGES.train, IMAGES.test, IMAGES.test))
    for row in training.curves:  # the same images with the same noise: the same loss
        assert row["validation_loss"] == row["test_loss"]
        assert row["validation_loss_nats"] == row["test_loss_nats"]
    row = trained(a_run(), Images(IMAGES.train, IMAGES.test, bytes_of(11, seed=2)))[0].curves[-1]
    assert row["validation_loss"] != row["test_loss"]


def test_the_training_loss_is_an_average_over_images() -> None:
    """Not over batches, of which the last is smaller. A model that stands still can be asked again."""
    run = a_run(epochs=1, optimizer=part("sgd", lr=1e-30), objective=part("elbo", beta=0.5))
    training, model = trained(run)
    noise_stream, total = stream(0, "noise", 1), 0.0
    for index in order(run, 53, 1).split(8):
        noise = torch.randn(1, len(index), 3, generator=noise_stream)
        with torch.no_grad():
            made = model(IMAGES.train[index].float() / 255, noise)
        total += float((made.reconstruction_loss + 0.5 * made.charged_kl).sum())
    assert training.curves[0]["train_loss"] == pytest.approx(total / 53, rel=1e-5)


def test_the_schedule_and_the_weights() -> None:
    run = a_run(epochs=3, schedule="step", optimizer=part("adam", lr=0.01))
    training, model = trained(run)
    assert [row["learning_rate"] for row in training.curves] == pytest.approx([0.01, 0.001, 0.0001])
    assert model.state_dict().keys() == training.weights.keys()
    assert all(torch.equal(v, training.weights[k]) for k, v in model.state_dict().items())


# Divergence


def test_a_log_of_zero_is_told_by_epoch_and_term() -> None:
    """Document 000: a saturated sigmoid makes 0·log 0, which eps hides and logits avoid."""
    drawing = (bytes_of(1) > 127).byte() * 255  # one drawing in black and white: soon learned by heart
    black_and_white = Images(drawing.repeat(53, 1), drawing.repeat(17, 1))

    def run(**options: Any) -> Run:
        return a_run(likelihood=part("bernoulli", **options), optimizer=part("adam", lr=0.3), epochs=4)

    lost, _ = trained(run(form="probabilities"), black_and_white)
    assert lost.diverged
    assert lost.diverged.term == "training reconstruction"
    assert [row["epoch"] for row in lost.curves] == list(range(1, lost.diverged.epoch))
    assert all(value.isfinite().all() for value in lost.weights.values())
    assert bool(lost.weights) == (lost.diverged.epoch > 1)
    for survivor in (run(form="probabilities", eps=1e-20), run(form="logits")):
        made, _ = trained(survivor, black_and_white)
        assert (len(made.curves), made.diverged) == (4, None)


def test_the_kl_is_named_where_it_alone_diverges() -> None:
    """A σ of 0 has no logarithm: the reconstruction is finite, the KL is not."""
    run = a_run(epochs=1)
    model = untrained(run, SHAPE)
    with torch.no_grad():
        model.encoder.second.bias.fill_(-math.inf)
    assert train_one(run, model, IMAGES).diverged == (1, "training kl")


# Objectives that say nothing of themselves


def test_an_objective_of_a_few_lines_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lookup.REGISTRIES, "objective", {"mine": Iwae})
    run = a_run(objective="mine", epochs=3)
    training, model = trained(run)
    assert training.note == "reference: objective Iwae has no written-out gradient"
    for row in training.curves:
        assert row["train_loss_nats"] is row["test_loss_nats"] is None
        assert math.isfinite(row["train_loss"] or math.nan)
    assert training.curves[-1]["train_loss"] < training.curves[0]["train_loss"]  # type: ignore[operator]
    # The last row of the curves, by hand
    noise = torch.randn(5, 17, 3, generator=stream(0, "evaluation"))
    with torch.no_grad():
        terms = model.eval()(IMAGES.test.float() / 255, noise)
    last = training.curves[-1]
    assert last["test_loss"] == pytest.approx(float(Iwae()(terms, 3 * 53).mean()), rel=1e-5)
    assert last["elbo"] == pytest.approx(float((terms.log_px.mean(0) - terms.rate).mean()), rel=1e-5)


def test_a_loss_that_alone_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad(Iwae):
        def __call__(self, terms: LossTerms, seen: int) -> Tensor:
            return super().__call__(terms, seen) / (0.0 if seen == 53 + 8 else 1.0)

    monkeypatch.setitem(lookup.REGISTRIES, "objective", {"mine": Bad})
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)  # the gradient would spoil all terms
    assert trained(a_run(objective="mine"))[0].diverged == (2, "training loss")


# Several runs as one


def seeds_of(run: Run, seeds: list[int]) -> list[Run]:
    return [run.model_copy(update={"seed": seed}) for seed in seeds]


def together(runs: list[Run], models: list[VAE] | None = None) -> tuple[list[Training], list[Any]]:
    told: list[tuple[int, int]] = []

    def on_epoch(r: int, row: Row, model: VAE) -> None:
        told.append((r, int(row["epoch"] or 0)))

    models = models or [untrained(run, SHAPE) for run in runs]
    images = [divide(run, DATA, CPU)[0] for run in runs]
    return train(runs, models, images, on_epoch, stacked=True), told


@pytest.mark.parametrize(
    "changes",
    [
        {"validation": 12_000, "drop_last": True, "schedule": part("step", every=1, gamma=0.1)},
        {"optimizer": "adamw", "likelihood": "gaussian-learned", "encoder": "linear"},
        CONV
        | {"batch_size": 50, "optimizer": part("sgd", lr=1e-4)},  # Adam: see WITHOUT_GRADIENT of test_stacked
    ],
    ids=["validation", "learned", "conv-bn"],
)
def test_curves_and_weights_are_those_of_each_run_alone(changes: dict[str, Any]) -> None:
    runs = seeds_of(a_run(**({"batch_size": 32} | changes)), [0, 3, 7])
    ended, told = together(runs)
    assert told == [(r, epoch) for epoch in (1, 2) for r in range(3)]
    for run, training in zip(runs, ended, strict=True):
        expected = train_one(run, untrained(run, SHAPE), divide(run, DATA, CPU)[0])
        for a, b in zip(numbers(training), numbers(expected), strict=True):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
        assert training.weights.keys() == expected.weights.keys()
        for name, value in expected.weights.items():
            torch.testing.assert_close(training.weights[name], value, rtol=1e-2, atol=2e-3)
        assert (training.engine, training.replicas) == ("stacked", 3)
        assert training.note == "no CUDA graph on cpu"
        assert [r["train_seconds"] for r in training.curves] == [r["train_seconds"] for r in ended[0].curves]


def test_a_replica_that_diverges_leaves_the_others_what_they_are() -> None:
    runs = seeds_of(a_run(epochs=3), [0, 1, 2])
    clean, _ = together(runs)
    spoilt = [untrained(run, SHAPE) for run in runs]
    with torch.no_grad():
        next(spoilt[1].encoder.parameters()).fill_(torch.inf)
    ended, told = together(runs, spoilt)
    lost = ended[1]
    assert (lost.diverged, lost.curves, lost.weights) == ((1, "training reconstruction"), [], {})
    assert lost.engine == "stacked"
    assert {r for r, _ in told} == {0, 2}
    for r in (0, 2):
        assert ended[r].diverged is None
        assert without_times(ended[r]) == without_times(clean[r])
        assert all(torch.equal(ended[r].weights[name], clean[r].weights[name]) for name in clean[r].weights)


# What a CUDA graph does, played on a CPU: capturing launches nothing, replaying does the recorded work


def epochs_of(run: Run, seeds: list[int]) -> Epochs:
    runs = seeds_of(run, seeds)
    stacked = stack([untrained(r, SHAPE) for r in runs], Elbo())
    return Epochs(runs, [divide(r, DATA, CPU)[0].train for r in runs], make_step(run, stacked))


def test_a_captured_step_reads_static_buffers_and_is_replayed() -> None:
    run = a_run(batch_size=16)  # 130 images: eight batches of 16 and one of 2
    plain, replayed = epochs_of(run, [0, 1]), epochs_of(run, [0, 1])
    captures: list[Any] = []
    replays: list[int] = []

    def fake(body: Callable[[], None], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        captures.append(body)
        me = len(captures)
        return lambda: (replays.append(me), body())[0]

    replayed.capture = fake
    for epoch, rate in ((1, 1e-3), (2, 1e-3), (3, 1e-4), (4, 1e-4)):
        for epochs in (plain, replayed):
            epochs.step.optimizer.param_groups[0]["lr"] = rate
        a, seen = plain.epoch(epoch)
        b, _ = replayed.epoch(epoch)
        assert torch.equal(a, b)
        assert seen == 130
    # Captured for 16 images at each rate, and for the last 2 in the fourth epoch
    assert len(captures) == 3
    assert replays == [1] * (8 - WARM_UP) + [1] * 8 + [2] * 8 + [2] * 8 + [3]
    assert (replayed.engine, replayed.note) == ("stacked+graph", None)


def test_what_cannot_be_captured_goes_on_without() -> None:
    run = a_run(batch_size=16)
    plain, failing = epochs_of(run, [0, 1]), epochs_of(run, [0, 1])

    def fake(body: Callable[[], None], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    failing.capture = fake
    for epoch in (1, 2):
        assert torch.equal(plain.epoch(epoch)[0], failing.epoch(epoch)[0])
    assert failing.engine == "stacked"
    assert failing.note == "no CUDA graph: RuntimeError: operation not permitted when stream is capturing"
