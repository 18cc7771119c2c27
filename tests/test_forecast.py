"""Predictions of time: what is timed, what it is multiplied by, and when rounds of seeds should end."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from factory import a_dataset, a_run, part

from bench.cli.outlook import precision
from bench.engine.device import stream
from bench.engine.fast import FastStep
from bench.engine.images import untrained
from bench.evaluation import bound
from bench.evaluation.cost import Common, Cost, gradients
from bench.evaluation.footing import BinaryPixels
from bench.evaluation.posteriors import encode
from bench.parts.vae import VAE
from bench.runs import predict as prediction
from bench.runs.forecast import PATIENCE, TIMED, Pace, _apart, bf16_shares, forecast, setting
from bench.runs.order import Prediction
from bench.runs.plan import Plan, make_plan
from bench.runs.predict import predict
from bench.runs.request import Request
from bench.spec.experiment import Run
from bench.spec.resolve import load

CPU = torch.device("cpu")
NOTHING = Common(0.0, 0.0)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that are timed; a step of each takes as many seconds as it has latents, nothing else any."""
    found: list[Run] = []

    def pace(run: Run, **_: object) -> Pace:
        found.append(run)
        return Pace(float(run.latent), 0.0)

    monkeypatch.setattr("bench.runs.forecast._pace", pace)
    monkeypatch.setattr("bench.runs.forecast._cost", lambda run, **_: Cost(0.0, 0.0, 0.0, 0.0))
    for name in ("FIXED", "PICTURE", "LAST_PICTURES"):
        monkeypatch.setattr(f"bench.runs.forecast.{name}", 0.0)
    return found


def test_each_kind_of_run_is_timed_once(timed):
    first = a_run(encoder=part("mlp", hidden=[7]))
    same = [
        {"seed": 1}, {"epochs": 9}, {"objective": part("elbo", beta=4.0)},
        {"optimizer": part("adam", lr=0.5)},
    ]  # fmt: skip
    other = [
        {"precision": "bf16"}, {"likelihood": part("gaussian")}, {"optimizer": part("sgd", lr=0.1)},
        {"objective": part("iwae", samples=5)}, {"objective": part("iwae", samples=50)}, {"latent": 2},
    ]  # fmt: skip
    runs = [first.model_copy(update=update) for update in ({}, *same, *other)]
    seconds = forecast(runs, a_dataset(), CPU, NOTHING)
    alike = [0, *[0] * len(same), *range(len(same) + 1, len(runs))]  # the first of a run's kind
    assert sorted(alike[runs.index(run)] for run in timed) == sorted(set(alike))
    assert len(seconds) == len(runs)


def test_of_many_kinds_some_are_timed_and_stand_for_those_most_like_them(timed):
    runs = [a_run(latent=n, seed=seed, batch_size=130, epochs=1) for seed in (0, 1) for n in range(100, 200)]
    seconds = forecast(runs, a_dataset(train=130), CPU, NOTHING, full=5)
    assert len(timed) == TIMED
    assert seconds[:100] == seconds[100:]
    assert max(abs(s - run.latent) for s, run in zip(seconds, runs, strict=True)) <= 100 / (TIMED // 3)


def test_what_is_not_timed_takes_as_long_as_what_has_most_in_common_with_it(timed, monkeypatch):
    objectives = [part("beta-tcvae", beta=6.0), part("elbo"), part("free-bits", nats=0.5)]
    slow, fast = part("vamp"), part("standard")
    runs = [a_run(objective=objective, prior=prior) for objective in objectives for prior in (fast, slow)]
    monkeypatch.setattr("bench.runs.forecast._apart", lambda count: [2, 4][:count])
    monkeypatch.setattr(
        "bench.runs.forecast._pace", lambda run, **_: Pace(1.0 + 9 * (run.prior == slow), 0.0)
    )
    seconds = forecast(runs, a_dataset(train=130), CPU, NOTHING, full=9)
    assert seconds[1::2] == [10 * s for s in seconds[::2]]
    assert len(set(seconds)) == 2


def test_what_the_first_kind_imports_leaves_time_for_the_others(timed, monkeypatch):
    runs, seconds = [a_run(latent=n) for n in range(3, 9)], [100.0]
    monkeypatch.setattr(
        "bench.runs.forecast.time.process_time", lambda: seconds[0] + PATIENCE * len(timed) / 10
    )
    forecast(runs, a_dataset(), CPU, NOTHING)
    assert len(timed) == len(runs)
    seconds[0], timed[:] = 0.0, []
    monkeypatch.setattr("bench.runs.forecast.time.process_time", lambda: 2 * PATIENCE * len(timed))
    forecast(runs, a_dataset(), CPU, NOTHING)
    assert len(timed) == 2  # the second spent it


def test_an_evaluation_that_is_not_timed_grows_with_what_judging_an_image_takes(timed, monkeypatch):
    runs = [a_run(latent=n) for n in (2, 3, 4, 5)]
    monkeypatch.setattr("bench.runs.forecast._pace", lambda run, **_: Pace(0.0, float(run.latent)))
    monkeypatch.setattr(
        "bench.runs.forecast._apart", lambda count: range(count) if count == len(runs) else [0]
    )
    monkeypatch.setattr("bench.runs.forecast._cost", lambda run, **_: Cost(run.latent, 0.0, 0.0, 0.0))
    asked: list[tuple[int, float]] = []
    monkeypatch.setattr(
        Cost, "seconds", lambda self, _, latent, *__: asked.append((latent, self.decoded)) or 0.0
    )
    forecast(runs, a_dataset(), CPU, NOTHING)
    assert asked == [(2, 2.0), *((n, pytest.approx(n)) for n in (3, 4, 5))]  # integrated ones stand apart


@pytest.mark.parametrize("count", [1, 2, 3, 7, 24, 100, 1000])
def test_the_first_places_lie_far_apart_however_many_are_taken(count):
    order = _apart(count)
    assert sorted(order) == [*range(count)]
    for taken in range(1, count + 1):
        ends = [-1, *sorted(order[:taken]), count]
        assert max(b - a for a, b in pairwise(ends)) <= 1 + 2 * count // taken


def test_epochs_batches_and_held_out_images_are_counted(timed):
    run = a_run(latent=3, batch_size=50, epochs=4)
    data = a_dataset(train=130)
    for changes, steps in (({}, 3), ({"drop_last": True}, 2), ({"validation": 30_000}, 2)):
        (seconds,) = forecast([run.model_copy(update=changes)], data, CPU, NOTHING, full=9)
        assert seconds == 4 * steps * 3


def test_what_is_known_is_not_timed_and_one_seed_draws_tsne(timed):
    runs = [a_run(latent=3, seed=seed) for seed in (0, 1)]
    data = a_dataset()
    with_tsne, without = forecast(runs, data, CPU, NOTHING, {setting(runs[0]): 7.0}, full=0)
    assert not timed
    assert without == 7
    assert with_tsne > 7


@pytest.mark.parametrize("latent", [2, 3])
def test_a_bound_decodes_about_what_is_counted(latent, monkeypatch):
    """How many rounds, temperatures and refinements of a grid are enough is the affair of the model."""
    data = a_dataset()
    model = untrained(a_run(latent=latent), data.shape).eval()
    for room, name, value in (
        ("quadrature", "SIDES", {2: (60,)}), ("cost", "SIDES", {2: (60,)}), ("cost", "REFINED", 1),
        ("refit", "ENOUGH", -math.inf), ("refit", "ROUNDS", 2), ("cost", "ROUNDS", 2), ("bound", "ENOUGH", 0),
    ):  # fmt: skip
        monkeypatch.setattr(f"bench.evaluation.{room}.{name}", value)
    found: Counter[str] = Counter()
    decode = VAE.decode

    def counted(self: VAE, z: torch.Tensor) -> torch.Tensor:
        kind = "moved" if z.requires_grad else "other"
        found.update({kind: z.shape[:-1].numel(), f"{kind} calls": 1})
        return decode(self, z)

    monkeypatch.setattr(VAE, "decode", counted)
    pixels = BinaryPixels(model, 1.0, 0.0)
    images = (data.test_images.flatten(1) > 127).float()
    for _ in range(2):
        bound.log_px(pixels, encode(model, images), images, torch.zeros(len(images)), stream(0, "a"))
    bound.certificate(pixels, len(images), bound.TEMPERATURES[1] // 4, stream(0, "b"))
    calls, moved, points = gradients(len(images), latent)
    assert calls == pytest.approx(found["moved calls"], rel=0.02)
    assert moved == pytest.approx(found["moved"], rel=0.02)
    assert points == pytest.approx(found["other"], rel=0.3) or latent > 2


def test_an_evaluation_takes_longer_the_more_there_is_of_it():
    cost, common, data = Cost(1e-5, 1e-3, 1e-4, 1e-5), Common(1e-6, 0.1, 0.2), a_dataset()
    base = cost.seconds(data, 8, 100, common)
    assert cost.seconds(data, 8, 200, common) > base
    assert cost.seconds(data, 8, 100, Common(1e-6, 0.1, 0.7)) == pytest.approx(base + 0.5)
    assert cost.seconds(data, 2, 100, common) != base


def test_shares_of_an_evaluation_are_timed():
    data = a_dataset()
    for latent in (1, 2, 5):
        cost = Cost.of(untrained(a_run(latent=latent), data.shape), data, CPU)
        assert min(cost.decoded, cost.call + cost.moved) > 0
        assert (cost.point > 0) == (latent <= 2)
    common = Common.of(data, CPU)
    assert min(common.scored, common.latents, common.samples) > 0


SPEC = """
question: When?
dataset: digits
seeds: [3, 5]
defaults: {epochs: 2, encoder: {name: mlp, hidden: [8]}, decoder: {name: mlp, hidden: [8]}}
variants:
  a: {latent: 2}
  b: {latent: 3}
"""


def test_rounds_of_seeds_end_one_after_the_other_between_start_and_report(tmp_path: Path, monkeypatch):
    (tmp_path / "small.yaml").write_text(SPEC)
    monkeypatch.setattr(prediction, "forecast", lambda runs, *_: [float(run.latent) for run in runs])
    monkeypatch.setattr(prediction.Common, "of", lambda *_: Common(0, 0, samples=1.0, classifiers=10.0))
    monkeypatch.setattr(prediction.time, "process_time", lambda: 4.0)
    plan = make_plan(Request(load(tmp_path / "small.yaml"), reports=tmp_path, workers=1))
    found = predict(plan)
    start = 2 * 4 + 10 + prediction.BASELINES_SCORED * 1.0
    assert found.start == start
    assert found.rounds == {3: start + 5, 5: start + 10}
    assert found.total == start + 10 + prediction.REPORT + 2 * prediction.REPORT_VARIANT
    assert predict(replace(plan, runs=())) == Prediction()


def wide(**changes) -> Run:
    return a_run(encoder=part("mlp", hidden=[2000]), decoder=part("mlp", hidden=[2000])).model_copy(
        update=changes
    )


def test_bf16_is_timed_where_it_rounds_and_the_step_is_the_fast_one(monkeypatch):
    def seconds(run: Run, step: FastStep, *_: object) -> float:
        assert bool(step.rounded) is (run.precision == "bf16")
        return 1.0 if step.rounded else 4.0

    monkeypatch.setattr("bench.runs.forecast._step_seconds", seconds)
    runs = [
        wide(variant="wide"), wide(variant="declared", precision="bf16"), wide(variant="wide", seed=1),
        a_run(variant="small"), wide(variant="own", objective=part("iwae", samples=2)),
    ]  # fmt: skip
    assert bf16_shares(runs, a_dataset(), CPU) == {"wide": 0.25, "declared": 0.25}
    assert bf16_shares(runs, a_dataset(), torch.device("meta")) == {}


@pytest.mark.parametrize(
    ("share", "fp32", "bf16"),
    [(0.5, "to 50% of its time", ""), (1.0, "", ""), (9.0, "", "9.0 times as long")],
)
def test_a_plan_offers_bf16_where_it_is_faster_and_warns_where_it_is_slower(share, fp32, bf16, monkeypatch):
    monkeypatch.setattr("bench.runs.forecast.bf16_shares", lambda *_: dict.fromkeys("abcde", share))
    for declared, words in (("fp32", fp32), ("bf16", bf16)):
        runs = [wide(variant=name, precision=declared) for name in "abcde"]
        plan = SimpleNamespace(todo=[SimpleNamespace(run=run) for run in runs], data=None, device=CPU)
        said = [*precision(cast("Plan", plan))]
        assert len(said) == bool(words)
        assert all(words in line and "a, b, c and 2 others" in line for line in said)
