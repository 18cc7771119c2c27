"""The loop: paired seeds, the same bits again, what an epoch reports, divergence by epoch and term."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import a_run, bytes_of, part

from bench.engine.device import initialised, stream
from bench.engine.images import Images
from bench.engine.train import (
    DivergedError,
    Training,
    batches,
    evaluation_noise,
    make_step,
    objective_of,
    train,
)
from bench.parts.vae import VAE, build
from bench.spec.experiment import Run

TIMES = {"train_seconds", "images_per_second"}
CONTRACT = Path(__file__).parents[1] / "docs" / "architecture.md"
IMAGES = Images(bytes_of(53), bytes_of(17, seed=1))


def trained(run: Run, images: Images = IMAGES) -> tuple[Training, VAE]:
    """A run of small models, trained."""
    with initialised(run.seed):
        model = build(run)
    return train(run, model, images, lambda row, model: None), model


def without_times(training: Training) -> list[dict[str, Any]]:
    """The curves less what a clock says."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in training.curves]


@pytest.mark.parametrize(
    ("likelihood", "engine"), [("bernoulli", "fast"), ("continuous-bernoulli", "reference")]
)
def test_one_seed_gives_the_same_bits_again_and_another_does_not(likelihood: str, engine: str) -> None:
    run = a_run(likelihood=likelihood)
    first, again, other = (trained(r)[0] for r in (run, run, run.model_copy(update={"seed": 1})))
    assert first.engine == engine
    assert without_times(first) == without_times(again)
    assert all(torch.equal(first.weights[k], again.weights[k]) for k in first.weights)
    for a, b in zip(without_times(first), without_times(other), strict=True):
        assert a["train_loss"] != b["train_loss"]
        assert a["test_loss"] != b["test_loss"]


def test_both_engines_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(epochs=3)
    fast, _ = trained(run)
    monkeypatch.setattr("bench.engine.train.accepts", lambda model, precision: False)
    reference, _ = trained(run)
    assert (fast.engine, reference.engine) == ("fast", "reference")
    for a, b in zip(without_times(fast), without_times(reference), strict=True):
        assert {k: v for k, v in a.items() if v} == pytest.approx({k: v for k, v in b.items() if v}, rel=1e-5)
    assert fast.curves[-1]["train_loss"] < fast.curves[0]["train_loss"]  # type: ignore[operator]


def test_seeds_are_paired_over_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed s means the same batches in the same order and the same noise, whatever the parts."""
    seen: dict[str, list[torch.Tensor]] = {}

    def recording(run: Run, model: VAE) -> Any:
        step = make_step(run, model)

        class Recorder:
            engine, optimizer = step.engine, step.optimizer

            def __call__(self, grey: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
                seen.setdefault(run.variant, []).extend([grey.clone(), noise.clone()])
                return step(grey, noise)

        return Recorder()

    monkeypatch.setattr("bench.engine.train.make_step", recording)
    trained(a_run(variant="one"))
    trained(
        a_run(
            variant="two",
            encoder=part("linear", hidden=5),
            likelihood="gaussian-learned",
            input="normalised",
            optimizer="adamw",
        )
    )
    assert len(seen["one"]) == 2 * 2 * 7  # grey and noise, epochs, batches
    assert all(torch.equal(a, b) for a, b in zip(seen["one"], seen["two"], strict=True))
    assert not torch.equal(seen["one"][1], seen["one"][2 * 7 + 1])  # fresh noise in the second epoch


def test_an_epoch_is_a_permutation_of_its_own() -> None:
    run = a_run()
    epochs = [list(batches(run, 53, epoch)) for epoch in (1, 1, 2)]
    orders = [torch.cat(epoch).tolist() for epoch in epochs]
    assert [len(b) for b in epochs[0]] == [8] * 6 + [5]
    assert sorted(orders[0]) == list(range(53))
    assert orders[0] == orders[1] != orders[2]


def test_without_shuffling_the_order_is_that_of_the_files() -> None:
    order = torch.cat(list(batches(a_run(shuffle=False), 53, 2)))
    assert order.tolist() == list(range(53))


def test_drop_last_leaves_out_the_smaller_batch() -> None:
    run = a_run(drop_last=True)
    assert [len(b) for b in batches(run, 53, 1)] == [8] * 6
    assert [len(b) for b in batches(run, 48, 1)] == [8] * 6


def test_rows_keep_the_contract_of_the_record() -> None:
    text = CONTRACT.read_text(encoding="utf-8")
    promised = re.search(r'"curves": \[(\{.*?\})\]', text, re.DOTALL)
    assert promised
    rows: list[dict[str, Any]] = []
    run = a_run(epochs=3)
    training = train(run, build(run), IMAGES, lambda row, model: rows.append(dict(row)))
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
    held_out = Images(IMAGES.train, IMAGES.test, IMAGES.test)
    training, _ = trained(a_run(), held_out)
    for row in training.curves:  # the same images with the same noise: the same loss
        assert row["validation_loss"] == row["test_loss"]
        assert row["validation_loss_nats"] == row["test_loss_nats"]
    held_out = Images(IMAGES.train, IMAGES.test, bytes_of(11, seed=2))
    row = trained(a_run(), held_out)[0].curves[-1]
    assert row["validation_loss"] != row["test_loss"]


def test_the_training_loss_is_an_average_over_images() -> None:
    """Not over batches, of which the last is smaller. A model that stands still can be asked again."""
    run = a_run(epochs=1, optimizer=part("sgd", lr=1e-30), objective=part("elbo", beta=0.5))
    training, model = trained(run)
    terms = []
    for index in batches(run, 53, 1):
        grey = IMAGES.train[index].float() / 255
        terms.append(model.input(grey))
    assert sum(len(t) for t in terms) == 53
    noise_stream, total = stream(0, "noise", 1), 0.0
    for grey in terms:
        with torch.no_grad():
            made = model(grey, torch.randn(len(grey), 3, generator=noise_stream))
        total += float((made.reconstruction + 0.5 * made.charged_kl).sum())
    assert training.curves[0]["train_loss"] == pytest.approx(total / 53, rel=1e-5)


def test_the_schedule_and_the_weights() -> None:
    run = a_run(epochs=3, schedule="step", optimizer=part("adam", lr=0.01))
    training, model = trained(run)
    assert [row["learning_rate"] for row in training.curves] == pytest.approx([0.01, 0.001, 0.0001])
    assert model.state_dict().keys() == training.weights.keys()
    assert all(torch.equal(v, training.weights[k]) for k, v in model.state_dict().items())


def test_evaluation_noise_is_the_same_each_time_and_longer_sets_extend_it() -> None:
    a, b = (evaluation_noise(3, 17, 5, torch.device("cpu")) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == (17, 5)
    assert not torch.equal(a, evaluation_noise(4, 17, 5, torch.device("cpu")))


def test_a_log_of_zero_is_told_by_epoch_and_term() -> None:
    """Document 000: a saturated sigmoid makes 0·log 0, which eps hides and logits avoid."""
    drawing = (bytes_of(1) > 127).byte() * 255  # one drawing in black and white: soon learned by heart
    black_and_white = Images(drawing.repeat(53, 1), drawing.repeat(17, 1))

    def run(**options: Any) -> Run:
        return a_run(likelihood=part("bernoulli", **options), optimizer=part("adam", lr=0.3), epochs=4)

    with pytest.raises(DivergedError, match=r"training reconstruction became non-finite in epoch \d") as told:
        trained(run(form="probabilities"), black_and_white)
    error = told.value
    assert error.term == "training reconstruction"
    assert [row["epoch"] for row in error.training.curves] == list(range(1, error.epoch))
    assert all(value.isfinite().all() for value in error.training.weights.values())
    assert bool(error.training.weights) == (error.epoch > 1)
    for survivor in (run(form="probabilities", eps=1e-20), run(form="logits")):
        assert len(trained(survivor, black_and_white)[0].curves) == 4


def test_divergence_after_a_finite_epoch_keeps_that_epoch() -> None:
    run = a_run(
        epochs=5,
        optimizer=part("sgd", lr=1e-4),
        schedule=part("step", every=1, gamma=1e9),
        likelihood=part("gaussian", mean="linear"),
    )
    with pytest.raises(DivergedError) as told:
        trained(run)
    assert told.value.epoch > 1
    assert len(told.value.training.curves) == told.value.epoch - 1
    assert all(v.isfinite().all() for v in told.value.training.weights.values())


def test_the_kl_is_named_where_it_alone_diverges() -> None:
    """A σ of 0 has no logarithm: the reconstruction is finite, the KL is not."""
    run = a_run(epochs=1)
    model = build(run)
    with torch.no_grad():
        model.encoder.second.bias.fill_(-math.inf)
    with pytest.raises(DivergedError, match="training kl became non-finite in epoch 1"):
        train(run, model, IMAGES, lambda row, model: None)


def test_half_precision_trains_close_to_full() -> None:
    full, half = (trained(a_run(precision=p, epochs=2))[0] for p in ("fp32", "bf16"))
    assert half.engine == "fast"
    assert half.curves[-1]["train_loss"] == pytest.approx(full.curves[-1]["train_loss"], rel=0.01)


def test_options_of_the_objective_come_from_the_run() -> None:
    objective = objective_of(a_run(objective=part("elbo", beta=0.1, reconstruction="mean", kl="mean")))
    assert objective.beta_eff(8, 784, 16) == pytest.approx(4.9)
