"""Effects and answers say what the statistics support, and no more."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import synthetic
from synthetic import SMALL, Settings, settings

from bench.report import answers as answering
from bench.report import effects, write_report
from bench.report.answers import Answer, answers
from bench.report.effects import EffectRow
from bench.report.results import load

NOISE = (0.0, 0.1, -0.1, 0.05, -0.05)


def found(
    folder: Path, variants: dict[str, Settings], measure=synthetic.measure, **more
) -> dict[str, Answer]:
    """The answers by kind and what they are about."""
    results = load(synthetic.write(folder, variants, measure=measure, **more))
    return {a.kind + str(a.data.get("axis", "")): a for a in answers(results)}


def of_axis(folder: Path, axis: str, variants: dict[str, Settings], measure, **more) -> list[EffectRow]:
    return effects.of_axis(load(synthetic.write(folder, variants, measure=measure, **more)), axis)


def said(folder: Path) -> str:
    """The answers as the report tells them."""
    text = write_report(folder, figures=False).read_text()
    return text.partition("## Answer")[2].partition("\n## ")[0].replace("\N{NO-BREAK SPACE}", " ")


def two_by_two(metric: str = "elbo_bernoulli", effect: float = 2.0):
    """Likelihood × architecture: bernoulli better by `effect`, architecture `deep` by 5; noise is shared."""
    variants = {
        f"{a}-{b}": settings(likelihood=b, axes={"architecture": a, "likelihood": b})
        for a in ("deep", "flat")
        for b in ("bernoulli", "gaussian")
    }

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        own = 0.01 * seed * ("deep" in name) * ("bernoulli" in name)
        return {metric: -100 + 5 * ("deep" in name) + effect * ("bernoulli" in name) + NOISE[seed] + own}

    return variants, measure


def test_an_axis_is_answered_at_equal_settings(tmp_path: Path) -> None:
    [row] = of_axis(tmp_path, "likelihood", *two_by_two())
    assert (row.better, row.sure, row.settings) == ("bernoulli", True, 2)
    assert (row.effect.n, row.effect.test) == (5, "Welch")
    assert row.effect.value == pytest.approx(2.01)
    assert of_axis(tmp_path, "architecture", *two_by_two())[0].better == "deep"
    told = said(tmp_path)
    assert "| [Which likelihood?](#effects) | `bernoulli`. | ELBO, binarised +2.01" in told
    assert "for `bernoulli` against `gaussian` (n = 5)." in told


def test_where_lower_is_better_the_winner_is_the_lower_and_the_effect_a_factor(tmp_path: Path) -> None:
    variants, _ = two_by_two()

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        return {"mse": (2 if "bernoulli" in name else 1) * (1 + NOISE[seed] / 10)}

    [row] = of_axis(tmp_path, "likelihood", variants, measure)
    assert (row.better, row.effect.size.mean) == ("gaussian", pytest.approx(2))
    assert effects.by(row.effect, row.metric).startswith("a factor of 2.000")


def test_which_value_fits_is_said_by_ln_p_x_where_it_is_measured(tmp_path: Path) -> None:
    """A poor encoder lowers the ELBO of a better decoder: the table of answers asks for the model."""
    variants, _ = two_by_two()

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        good = "gaussian" in name
        fit = {"elbo_bernoulli": -110.0 - 3 * good, "log_px_bernoulli": -100.0 + 2 * good}
        return {metric: value + NOISE[seed] for metric, value in fit.items()}

    told = found(tmp_path, variants, measure)["axislikelihood"].data
    assert (told["first"].metric.name, told["first"].better) == ("log_px_bernoulli", "gaussian")
    [row] = told["rest"]
    assert (row.metric.name, row.better) == ("elbo_bernoulli", "bernoulli")


def test_near_twins_alone_are_paired(tmp_path: Path) -> None:
    """Two precisions share every draw; two likelihoods have the seed in common, and are not paired."""
    twins = {p: settings(axes={"precision": p}, precision=p) for p in ("fp32", "bf16")}

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        own = 0.01 + NOISE[seed] / 1000 if name == "fp32" else 0
        return {"elbo_bernoulli": -100 + seed + own}

    [row] = of_axis(tmp_path / "twins", "precision", twins, measure)
    assert (row.effect.test, row.sure, row.better) == ("paired by seed", True, "fp32")
    unlike = {p: settings(axes={"likelihood": p}, likelihood=p) for p in ("fp32", "bf16")}
    [row] = of_axis(tmp_path / "unlike", "likelihood", unlike, measure)
    assert (row.effect.test, row.sure) == ("Welch", False)
    assert row.verdict(1.0) == "no difference found (more than 100 seeds would be needed)"


@pytest.mark.parametrize(
    ("margin", "verdict"), [(0.05, "no difference found"), (0.2, "equal within 0.2 nats")]
)
def test_equal_is_what_lies_within_the_margin_that_the_experiment_states(
    tmp_path: Path, margin: float, verdict: str
) -> None:
    [row] = of_axis(tmp_path, "likelihood", *two_by_two(effect=-0.01))
    assert row.verdict(margin).startswith(verdict)


def test_one_seed_supports_nothing_and_says_so(tmp_path: Path) -> None:
    told = found(tmp_path, *two_by_two(), seeds=(0,))
    assert told["best"].data["order"].best is None
    assert told["axislikelihood"].data["first"].verdict(1.0) == "too few seeds: add at least 2"
    text = said(tmp_path)
    assert "Not told apart yet: `deep-bernoulli` has the best mean." in text
    assert "Not told: too few seeds." in text
    assert "±" not in text


def test_a_setting_that_lost_a_seed_is_left_out(tmp_path: Path) -> None:
    [row] = of_axis(tmp_path, "likelihood", *two_by_two(), status={("deep-gaussian", 3): "diverged"})
    assert (row.settings, row.left_out) == (1, 1)


def test_of_many_values_each_is_compared_with_the_best(tmp_path: Path) -> None:
    variants = {f"b{b:.3g}": settings(beta=b, axes={"beta": b}) for b in (1 / 784, 0.5, 1.0, 8.0)}
    told = found(tmp_path, variants)["levelsbeta"].data
    assert (told["order"].leader, told["worst"]) == ("1", "0.001276")
    rows = [row for row in effects.of_axis(load(tmp_path), "beta") if row.metric.name == "elbo_bernoulli"]
    assert [(row.a, row.b, row.sure) for row in rows] == [("1", b, True) for b in ("0.001276", "0.5", "8")]


def test_a_value_that_is_best_in_some_settings_only_has_no_average(tmp_path: Path) -> None:
    variants = {
        f"{a}-{z}": settings(latent=z, axes={"architecture": a, "latent": z}) for a in "xyz" for z in (2, 3)
    }

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        return {"elbo_bernoulli": -100 + {"x-2": 3, "y-3": 3}.get(name, 0) + NOISE[seed]}

    told = found(tmp_path, variants, measure)["levelsarchitecture"].data
    assert told["firsts"] == [("x", 1), ("y", 1)]
    assert "None is best in every setting." in said(tmp_path)


def crossed(turns: bool) -> tuple[dict[str, Settings], Any]:
    """BCE better by 5 at β = 1, and worse by 4, or by as much better, at β = 0.5; noise of each run's own."""
    variants = {
        f"{name}-{beta}": settings(likelihood=name, beta=beta, axes={"likelihood": name, "beta": beta})
        for name in ("bernoulli", "gaussian")
        for beta in (1, 0.5)
    }

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        gain = {"bernoulli-1": 5, "bernoulli-0.5": -4 if turns else 4}.get(name, 0)
        return {"elbo_bernoulli": -100 + gain + (1 + gain / 50) * NOISE[seed]}

    return variants, measure


def test_what_turns_with_another_axis_has_no_average(tmp_path: Path) -> None:
    whole, *apart = of_axis(tmp_path / "turns", "likelihood", *crossed(turns=True))
    assert (whole.turns, whole.sure) == (True, False)
    assert [(row.where, row.better, row.sure) for row in apart] == [
        ("β = 1", "bernoulli", True), ("β = 0.5", "gaussian", True)
    ]  # fmt: skip
    assert "It depends: `bernoulli` at β = 1, `gaussian` at β = 0.5." in said(tmp_path / "turns")
    [alone] = of_axis(tmp_path / "not", "likelihood", *crossed(turns=False))
    assert (alone.turns, alone.sure) == (False, True)
    assert not any(
        row.turns for row in of_axis(tmp_path / "few", "likelihood", *crossed(turns=True), seeds=(0, 1))
    )


def test_what_no_axis_explains_is_told_setting_by_setting(tmp_path: Path) -> None:
    """Better in three settings of four, worse in the fourth."""
    variants = {
        f"{a}-{b}-{z}": settings(
            likelihood=b, latent=z, axes={"architecture": a, "likelihood": b, "latent": z}
        )
        for a, b, z in itertools.product("xy", ("bernoulli", "gaussian"), (2, 3))
    }

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        gain = {"x-bernoulli-2": 5, "x-bernoulli-3": 5, "y-bernoulli-2": 5, "y-bernoulli-3": -4}.get(name, 0)
        return {"elbo_bernoulli": -100 + gain + NOISE[seed]}

    whole, *apart = of_axis(tmp_path, "likelihood", variants, measure)
    assert whole.turns
    assert {row.where: row.better for row in apart if row.sure} == {
        "x · 2": "bernoulli", "x · 3": "bernoulli", "y · 2": "bernoulli", "y · 3": "gaussian"
    }  # fmt: skip
    told = "`bernoulli` is ahead in 3 of 4 settings, 3 significantly; `gaussian` is ahead in 1 of 4 settings"
    assert told in said(tmp_path)


@pytest.mark.parametrize(
    ("frechet", "recall", "coverage", "verdict"),
    [
        (5, 0, 0, "worse"),
        (0, -0.2, 0, "worse"),
        (5, -0.2, -0.2, "worse"),
        (5, 0.2, 0, "mixed"),
        (-5, 0, 0, "better"),
        (0, 0, 0.2, "better"),
        (0, 0, 0, "undecided"),
    ],
)
def test_the_verdict_on_small_betas_looks_at_three_metrics_of_samples(
    tmp_path: Path, frechet: float, recall: float, coverage: float, verdict: str
) -> None:
    variants = {"one": settings(likelihood="gaussian"), "small": settings(likelihood="gaussian", beta=SMALL)}

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        small, noise = name == "small", NOISE[seed] * (1 if name == "small" else -1) / 50
        return {
            "aggregate_kl": 4 + 50 * small, "frechet_distance": 20 + frechet * small + noise,
            "recall": 0.5 + recall * small + noise, "coverage": 0.5 + coverage * small + noise,
        }  # fmt: skip

    [(kind, beta, rows, told)] = found(tmp_path, variants, measure)["small_beta"].data["rows"]
    assert (kind, beta, told) == ("Gaussian, grey target", "0.0408", verdict)
    assert [row.tested for row in rows] == [False, True, True, True]  # drift is described


def test_a_small_beta_whose_effect_turns_with_the_setting_is_mixed(tmp_path: Path) -> None:
    variants = {
        f"{a}-{b}": settings(beta=SMALL if b == "small" else 1.0, latent=z)
        for a, z in (("x", 5), ("y", 6), ("z", 7))
        for b in ("one", "small")
    }

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        worse = {"x": 9.0, "y": 9.0, "z": -3.0}[name[0]] * name.endswith("small")
        return {"frechet_distance": 20 + worse + NOISE[seed]}

    [(_, _, [row], told)] = found(tmp_path, variants, measure)["small_beta"].data["rows"]
    assert (told, row.turns, row.verdict(1.0)) == ("mixed", True, "turns with the setting")
    assert "| Turns with the setting: Fréchet distance at `β = 0.0408`. |" in said(tmp_path)


def test_small_betas_are_told_together_where_they_say_the_same(tmp_path: Path) -> None:
    variants = {f"beta-{b}": settings(beta=b) for b in (1.0, 0.5, 0.25, 0.125)}
    far = {"beta-1.0": 20.0, "beta-0.5": 20.0, "beta-0.25": 30.0, "beta-0.125": 40.0}
    found(tmp_path, variants, lambda name, _, seed: {"frechet_distance": far[name] + NOISE[seed]})
    assert "| Worse at β = `0.125` and `0.25`; undecided at β = `0.5`. |" in said(tmp_path)


def test_the_best_of_several_values_is_told_once_and_what_other_metrics_say_beside_it(tmp_path: Path) -> None:
    variants = {a: settings(axes={"architecture": a}) for a in ("x", "y", "z")}
    fit = {"x": -90.0, "y": -95.0, "z": -99.0}

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        same = dict.fromkeys(("log_px_bernoulli", "elbo_bernoulli"), fit[name] + NOISE[seed])
        return same | {"mse": {"x": 0.03, "y": 0.02, "z": 0.01}[name] + NOISE[seed] / 1e5}

    found(tmp_path, variants, measure)
    [row] = [line for line in said(tmp_path).splitlines() if "Which architecture?" in line]
    assert row.endswith("| `z` has the best mean by *MSE*. |")


def test_a_small_beta_of_normalised_pixels_is_another_one(tmp_path: Path) -> None:
    variants = {
        f"{target}-{beta}": settings(likelihood="gaussian", beta=beta) | {"target": {"name": target}}
        for target in ("grey", "normalised")
        for beta in (1.0, SMALL)
    }
    rows = found(tmp_path, variants, lambda *_: {"frechet_distance": 20.0})["small_beta"].data["rows"]
    assert [kind for kind, *_ in rows] == ["Gaussian, grey target", "Gaussian, grey target, normalised"]


def test_where_a_small_beta_shows_nothing_is_told_once_for_all(tmp_path: Path) -> None:
    variants = {f"b{beta}": settings(beta=beta) for beta in (0.25, 0.5, 1.0)}

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        noise = NOISE[seed] / 50
        recall = 0.5 + noise - 0.2 * (name == "b0.25")
        return {"frechet_distance": 20 + noise, "recall": recall, "coverage": 0.5 + noise}

    found(tmp_path, variants, measure)
    told = "No difference is shown: Fréchet distance and coverage at every β; recall at `β = 0.5`."
    assert f"| {told} |" in said(tmp_path)


def test_the_linear_encoder_is_charged_by_latent_size(tmp_path: Path) -> None:
    variants = {
        f"{e}-{z}": settings(latent=z) | {"encoder": {"name": e, "options": {"hidden": hidden}}}
        for e, hidden in (("linear", 400), ("mlp", [400]))
        for z in (2, 20)
    }

    def measure(name: str, s: Settings, seed: int) -> dict[str, float]:
        cost = 4 * (s["latent"] == 20) * (s["encoder"]["name"] == "linear")
        return {"elbo_bernoulli": -100 - cost + NOISE[seed] * (1 if "linear" in name else -1)}

    none, costs = found(tmp_path, variants, measure)["linear"].data["rows"]
    assert (none.where, none.verdict(1.0)) == ("latent = 2", "equal within 1 nat")
    assert (costs.where, costs.sure, costs.effect.value) == ("latent = 20", True, pytest.approx(-4))


def test_weights_and_losses_are_put_in_nats(tmp_path: Path) -> None:
    results = load(synthetic.write(tmp_path, synthetic.documents()))
    weights = answering.weights(results)
    assert weights
    assert [[cell.text for cell in row] for row in weights.rows] == [
        ["002-conv", "0.1", "mean", "mean", "4.9"]
    ]
    unlike = answering.unlike(results)  # z is drawn with another scale than the KL charges
    assert unlike
    [[name, loss, bound, difference]] = unlike.rows
    assert name.text == "000-recsys"
    assert difference.value == pytest.approx((loss.value or 0) - (bound.value or 0))


def test_squared_error_is_told_as_the_variance_that_it_stands_for(tmp_path: Path) -> None:
    def squared(beta: float, variance: float) -> Settings:
        return settings(beta=beta) | {"likelihood": {"name": "gaussian", "options": {"variance": variance}}}

    def told(folder: Path, variants: dict[str, Settings]) -> dict[str, str]:
        table = answering.variances(load(synthetic.write(folder, variants)))
        return {row[0].text: row[2].text for row in table.rows}

    variants = {"one": squared(1, 0.5), "a": squared(0.05, 0.5), "b": squared(0.5, 0.05), "bce": settings()}
    assert told(tmp_path / "grey", variants) == {"one": "0.5", "a": "0.025", "b": "0.025"}
    normalised = squared(1, 0.5) | {"target": {"name": "normalised", "options": {"mean": 0.1, "std": 0.2}}}
    assert told(tmp_path / "normalised", {"one": normalised}) == {"one": "0.02"}
    learned = settings() | {"likelihood": {"name": "gaussian-learned", "options": {}}}
    assert told(tmp_path / "learned", {"l": learned}) == {}


def test_who_diverged_and_who_collapsed_is_told_first(tmp_path: Path) -> None:
    variants, _ = two_by_two()

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        return {"kl": 0.01 if name == "flat-gaussian" else 9.0, "active_units": 2.0}

    status = {("deep-gaussian", 3): "diverged", ("deep-gaussian", 4): "diverged"}
    found(tmp_path, variants, measure, status=status)
    told = said(tmp_path)
    assert "No: `deep-gaussian` diverged. The latents of `flat-gaussian` collapsed." in told
    assert "`deep-gaussian`: 2 of 5 seeds, epoch 15, reconstruction first. `flat-gaussian`: 5 of 5" in told


def test_a_variant_that_a_baseline_of_no_more_latents_beats_is_told(tmp_path: Path) -> None:
    variants, measure = two_by_two()  # −93, −95, −98 and −100, each ± 0.1
    size = variants["deep-gaussian"]["latent"]
    rows = [
        {"name": "PCA", "latent": size, "elbo_bernoulli": -94.0},
        {"name": "PCA", "latent": size + 1, "elbo_bernoulli": -1.0},
        {"name": "pixel mean", "latent": 0, "elbo_bernoulli": -200.0},
    ]
    synthetic.save(tmp_path / "baselines.json", {"rows": rows})
    [(metric, title, beaten)] = found(tmp_path, variants, measure)["baselines"].data["beaten"]
    assert (metric.name, title) == ("elbo_bernoulli", f"PCA, {size} components")
    assert [v.name for v in beaten] == ["deep-gaussian", "flat-bernoulli", "flat-gaussian"]
    rows[0]["elbo_bernoulli"] = -100.05  # better than flat-gaussian's mean, within its interval
    synthetic.save(tmp_path / "baselines.json", {"rows": rows})
    assert found(tmp_path, variants, measure)["baselines"].data["beaten"] == []


def test_the_same_runs_under_two_names_are_counted_once(tmp_path: Path) -> None:
    variants = {"first": settings(), "second": settings(), "other": settings(beta=0.5)}
    synthetic.write(tmp_path, variants)
    spec = tmp_path / "experiment.json"
    plan = load(tmp_path).experiment
    runs = {p["seed"]: p["run"] for p in plan["planned"].values() if p["variant"] == "first"}
    for planned in plan["planned"].values():
        if planned["variant"] == "second":
            planned["run"] = runs[planned["seed"]]
    synthetic.save(spec, dict(plan))
    results = load(tmp_path)
    assert [v.same_as for v in results.variants] == ["", "first", ""]
    assert all(set(order.members) <= {"first", "other"} for order in results.rankings.values())
    assert "`second` and `first` are the same runs" in write_report(tmp_path, figures=False).read_text()


def test_nothing_finished_nothing_answered(tmp_path: Path) -> None:
    variants, measure = two_by_two()
    status = {(name, seed): "missing" for name in variants for seed in range(5)}
    assert found(tmp_path, variants, measure, status=status) == {}


def test_every_effect_is_a_row_of_one_table(tmp_path: Path) -> None:
    results = load(synthetic.write(tmp_path, synthetic.matrix()))
    write_report(tmp_path, figures=False)
    rows = [row for axis in ("architecture", "likelihood", "beta") for row in effects.of_axis(results, axis)]
    rows += effects.of_small_beta(results)
    sizes = [row.effect.size for row in rows]
    table = effects.frame(rows, results.margin)
    assert table[["axis", "a", "b", "sure", "low", "value", "high"]].to_numpy().tolist() == [
        [row.axis, row.a, row.b, row.sure, size.low, size.mean, size.high]
        for row, size in zip(rows, sizes, strict=True)
    ]
    assert len((tmp_path / "effects.csv").read_text().splitlines()) == 1 + len(rows)
    told = (tmp_path / "report.md").read_text().partition("### Effects")[2].partition("</details>")[0]
    assert len(re.findall(r"^\| \w+: ", told, re.MULTILINE)) == len(rows)
