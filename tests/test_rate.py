"""Likelihoods at equal rate: laws of the comparison, on curves that are known."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from bench.report import rate, rate_figure, write_report
from bench.report.answers import answers
from bench.report.effects import EffectRow
from bench.report.rate import Pair, pairs
from bench.report.results import BY_NAME, Results, load

BETAS = {"bernoulli": (0.25, 0.5, 1.0, 2.0), "gaussian": (0.125, 0.25, 0.5, 1.0, 2.0)}
RATE = {"bernoulli": 25.0, "gaussian": 16.0}  # at β = 1


def results(
    folder: Path, shift: Callable[[float], float] = lambda kl: 0.0, *, apart: float = 0.0, noise: float = 0.0,
    seeds: int = 3, shuffled: bool = False,
) -> Results:  # fmt: skip
    """Two likelihoods, distortion 150 − 30·ln KL; the Gaussian `shift`ed up and `apart` in its KL."""
    made = {
        f"{kind}-{beta}": synthetic.settings(
            likelihood=kind, beta=beta, axes={"architecture": "mlp", "likelihood": kind, "beta": beta}
        )
        for kind, betas in BETAS.items()
        for beta in betas
    }
    if shuffled:
        made = dict(random.Random(1).sample([*made.items()], len(made)))

    def measure(name: str, settings: dict[str, Any], seed: int) -> dict[str, float]:
        kind, beta = settings["likelihood"]["name"], settings["objective"]["options"]["beta"]
        gaussian = kind == "gaussian"
        own = random.Random(f"{kind} {seed}").gauss(0, 1)
        kl = RATE[kind] / beta**0.5 + 0.3 * own + gaussian * apart
        up = gaussian * shift(kl) + noise * own
        return {
            "kl": kl, "elbo_bernoulli": -(150 - 30 * math.log(kl) + up) - kl,
            "mse": 0.02 * 2.0 ** (-kl / 20 + gaussian * (shift(kl) != 0)), "frechet_distance": 100.0,
        }  # fmt: skip

    return load(synthetic.write(folder, made, range(seeds), measure=measure))


def the_pair(found: Results) -> Pair:
    [pair] = pairs(found)
    return pair


def rows(found: Results) -> list[EffectRow]:
    return [row for _, by_metric in rate.compared(found) for of_metric in by_metric for row in of_metric]


def test_the_same_curve_differs_nowhere_and_a_shifted_one_by_the_shift(tmp_path: Path) -> None:
    for name, shift in (("same", 0.0), ("shifted", 3.0)):
        pair = the_pair(results(tmp_path / name / "x", lambda kl, by=shift: by))  # type: ignore[misc]
        assert len(pair.rates) >= 4
        for effect in pair.effects("elbo_bernoulli", pair.rates):
            assert effect.size.mean == pytest.approx(shift, abs=1e-9)  # the first is better
        for effect in pair.effects("mse", pair.rates):
            assert effect.size.mean == pytest.approx(0.5 if shift else 1.0)
    growing = the_pair(results(tmp_path / "growing" / "x", math.log))
    found = [effect.size.mean for effect in growing.effects("elbo_bernoulli", growing.rates)]
    assert found == pytest.approx([math.log(at) for at in growing.rates], abs=1e-9)


def test_noise_of_the_seeds_is_in_the_interval(tmp_path: Path) -> None:
    found = results(tmp_path / "x", noise=0.5, seeds=5)
    pair = the_pair(found)
    for effect in pair.effects("elbo_bernoulli", pair.rates):
        assert effect.half_width
        assert abs(effect.value) < effect.half_width
        assert effect.p is not None
        assert effect.p > 0.05
    assert not any(row.sure for row in rows(found))


def test_nothing_is_extrapolated(tmp_path: Path) -> None:
    pair = the_pair(results(tmp_path / "x"))
    for curves in (pair.a, pair.b):
        low, high = curves.span
        assert not np.isnan(curves.at("mse", [low, high])).any()
        assert np.isnan(curves.at("mse", [low - 10, high + 10])).all()
    assert pair.low <= min(pair.rates) < max(pair.rates) <= pair.high
    far = results(tmp_path / "far" / "x", apart=100)
    assert the_pair(far).rates == []
    [answer] = [a for a in answers(far) if a.kind == "rate"]
    assert answer.data["metrics"] == rate.tables(rate.compared(far)) == []
    assert "they spend no KL in common" in write_report(far.folder, figures=False).read_text()
    assert rate_figure.draw(far) is None


def test_what_interpolation_misses_is_told_of_the_compared_rates(tmp_path: Path) -> None:
    pair = the_pair(results(tmp_path / "line" / "x"))
    assert pair.left_out == pytest.approx(0, abs=1e-9)  # a line over ln KL
    outside = the_pair(results(tmp_path / "outside" / "x", lambda kl: 9.0 * (kl < 13)))
    assert outside.left_out < 2  # though a point below the compared rates is 9 off
    bent = the_pair(results(tmp_path / "bent" / "x", lambda kl: 2.0 * (30 < kl < 34)))
    assert bent.left_out == pytest.approx(2, abs=0.3)


def test_collapsed_variants_whose_kl_is_nearly_nothing_are_points_too(tmp_path: Path) -> None:
    rates = {"collapsed": (0.0002, 0.0008, 3.0, 20.0), "below": (-0.3, -0.2, 3.0, 20.0)}
    for name, kl in rates.items():
        pair = the_pair(results(tmp_path / name / "x"))
        curves = dataclasses.replace(pair.a, variants=pair.a.variants[: len(kl)])
        curves.__dict__["rates"] = {0: dict(zip([v.name for v in curves.variants], kl, strict=True))}
        assert np.isfinite(curves.at("elbo_bernoulli", [3.0, 10.0])).all()


def test_the_order_of_variants_changes_nothing(tmp_path: Path) -> None:
    one, other = (results(tmp_path / str(s) / "x", lambda kl: kl / 9, shuffled=s) for s in (False, True))
    a, b = the_pair(one), the_pair(other)
    assert a.rates == b.rates
    sign = 1 if a.a.likelihood == b.a.likelihood else -1
    for x, y in zip(*(r.effects("mse", a.rates) for r in (a, b)), strict=True):
        assert (x.value, x.p) == pytest.approx((sign * y.value, y.p))


def test_few_seeds_have_no_verdict_and_few_points_no_curve(tmp_path: Path) -> None:
    few = results(tmp_path / "x", lambda kl: 3.0, seeds=2)
    assert all(effect.p is None for effect in the_pair(few).effects("elbo_bernoulli", [20.0]))
    assert {row.verdict(1.0)[:13] for row in rows(few)} == {"too few seeds"}
    assert pairs(load(synthetic.write(tmp_path / "matrix" / "x", synthetic.matrix()))) == []


def test_a_value_of_an_older_definition_is_on_no_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = results(tmp_path / "x")
    pair = the_pair(found)
    monkeypatch.setitem(BY_NAME, "mse", dataclasses.replace(BY_NAME["mse"], since=3))
    assert not np.isnan(pair.a.at("mse", pair.rates)).all()  # all of one definition: they compare
    newer = tuple(dataclasses.replace(v, newest=3) for v in found.variants)
    old = the_pair(dataclasses.replace(found, variants=newer))
    assert np.isnan(old.a.at("mse", old.rates)).all()


def test_the_report_has_answer_effects_table_and_figure(tmp_path: Path) -> None:
    found = results(tmp_path / "x", lambda kl: 3.0)
    [answer] = [a for a in answers(found) if a.kind == "rate"]
    elbo = answer.data["metrics"][0]
    assert [row.where for row in elbo] == [f"KL = {kl} nats · mlp" for kl in (20, 25, 30, 35, 40)]
    assert {(row.better, row.sure) for row in elbo} == {("bernoulli", True)}
    assert next(table.title for table in rate.tables(rate.compared(found))) == "mlp · ELBO, binarised"
    assert rate_figure.draw(found) is not None
    told = write_report(found.folder, figures=False).read_text()
    assert (
        "| [Which likelihood at equal KL, `mlp`?](#at-equal-rate) | `bernoulli`, at 5 of 5 rates. |" in told
    )
    assert "nats do the curves overlap." in told
