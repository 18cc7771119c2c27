"""The answers say what the statistics support, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import synthetic
from synthetic import SMALL, Settings, settings

from bench.report.answers import sentences
from bench.report.claims import claim_table, linear_table
from bench.report.contrasts import contrast, levels
from bench.report.results import load

NOISE = (0.0, 0.1, -0.1, 0.05, -0.05)


def answers(folder: Path, variants: dict[str, Settings], measure=synthetic.measure, **more) -> str:
    found = sentences(load(synthetic.write(folder, variants, measure=measure, **more)))
    return "\n".join(found).replace("\N{NO-BREAK SPACE}", " ")


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


def test_an_axis_is_answered_by_paired_differences_at_equal_settings(tmp_path: Path):
    said = answers(tmp_path, *two_by_two())
    assert (
        "**Which likelihood, BCE or squared error?** `bernoulli` is better on *ELBO, binarised* by 2.01"
        in said
    )
    assert "(n = 5 seeds, 2 settings of all else, equal on both sides)" in said
    assert "**Which architecture?** `deep` is better" in said


def test_a_difference_is_averaged_inside_the_seed_first(tmp_path: Path):
    variants, measure = two_by_two()
    found = load(synthetic.write(tmp_path, variants, measure=measure))
    c = contrast(levels(found.variants, "likelihood"), "elbo_bernoulli")
    assert c is not None
    d = c.difference("bernoulli", "gaussian")
    assert (d.n, c.settings) == (5, 2)
    assert d.mean == pytest.approx(2 + 0.005 * 2)
    assert c.agreeing("bernoulli", "gaussian") == 2


def test_where_lower_is_better_the_winner_is_the_lower(tmp_path: Path):
    said = answers(tmp_path, *two_by_two("mse"))
    assert "`gaussian` is better on *MSE* by 2.01" in said


def test_no_effect_is_no_difference_shown(tmp_path: Path):
    said = answers(tmp_path, *two_by_two(effect=-0.01))
    likelihood = next(line for line in said.splitlines() if "BCE" in line)
    assert "No difference is shown (`bernoulli` less `gaussian`: *ELBO, binarised* " in likelihood
    assert "is better" not in likelihood


def test_one_seed_supports_nothing_and_says_so(tmp_path: Path):
    said = answers(tmp_path, *two_by_two(), seeds=(0,))
    assert "Not told apart yet (too few seeds: add at least 2)" in said
    assert "one seed gives no interval" in said
    assert "Too few seeds to tell apart, add at least 2" in said
    assert "is better" not in said
    assert "±" not in said


def test_a_setting_that_lost_a_seed_is_left_out(tmp_path: Path):
    said = answers(tmp_path, *two_by_two(), status={("deep-gaussian", 3): "diverged"})
    assert (
        "(n = 5 seeds, 1 setting of all else, equal on both sides; 1 setting left out, where a seed was lost)"
        in said
    )


def test_many_values_are_ranked_with_ties(tmp_path: Path):
    betas = (1 / 784, 0.5, 1.0, 8.0)
    variants = {f"b{b:.3g}": settings(beta=b, axes={"beta": b}) for b in betas}
    said = answers(tmp_path, variants)
    line = next(line for line in said.splitlines() if line.startswith("**Which β?**"))
    assert "*ELBO, binarised*: best `1` " in line
    assert "worst `0.001276` " in line


def test_document_004s_claim_is_supported_by_both_metrics(tmp_path: Path):
    said = answers(tmp_path, synthetic.matrix())
    assert "Supported for Bernoulli, grey target at β = 0.0408" in said
    assert claim_table(load(tmp_path)).count("| supported |") == 2


@pytest.mark.parametrize(
    ("drift", "frechet", "verdict"),
    [
        (3, 5, "supported"),
        (-3, 5, "contradicted"),
        (3, -5, "contradicted"),
        (3, 0, "undecided"),
        (0, 0, "undecided"),
    ],
)
def test_the_verdict_on_the_claim(tmp_path: Path, drift: float, frechet: float, verdict: str):
    variants = {"one": settings(likelihood="gaussian"), "small": settings(likelihood="gaussian", beta=SMALL)}

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        small = name == "small"
        noise = NOISE[seed] * (1 if small else -1)
        return {"aggregate_kl": 4 + drift * small + noise, "frechet_distance": 20 + frechet * small + noise}

    said = answers(tmp_path, variants, measure)
    assert f"{verdict.capitalize()} for Gaussian, grey target at β = 0.0408" in said
    assert "≤" not in said


@pytest.mark.parametrize(("frechet", "verdict"), [(5, "supported by the samples"), (0, "undecided")])
def test_a_drift_that_the_test_images_cannot_bound_does_not_decide(
    tmp_path: Path, frechet: float, verdict: str
):
    variants = {"one": settings(likelihood="gaussian"), "small": settings(likelihood="gaussian", beta=SMALL)}

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        small = name == "small"
        noise = NOISE[seed] * (1 if small else -1)
        return {"aggregate_kl": 4 + 50 * small + noise, "frechet_distance": 20 + frechet * small + noise,
                "mutual_information": 9.21 if small else 5.0}  # fmt: skip

    said = answers(tmp_path, variants, measure)
    assert f"{verdict.capitalize()} for Gaussian, grey target at β = 0.0408 (KL(q(z) ‖ p(z)) ≤ +50.0" in said
    assert "an upper bound" in claim_table(load(tmp_path))


def test_a_claim_that_holds_on_the_average_says_in_how_many_settings(tmp_path: Path):
    variants = {
        f"{a}-{b}": settings(beta=SMALL if b == "small" else 1.0, latent=z)
        for a, z in (("x", 5), ("y", 6), ("z", 7))
        for b in ("one", "small")
    }

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        worse = {"x": 9.0, "y": 9.0, "z": -3.0}[name[0]] * name.endswith("small")
        return {"aggregate_kl": 4.0 + name.endswith("small") + NOISE[seed], "frechet_distance": 20 + worse}

    assert "+5 ± 0 in only 2 of 3 settings" in answers(tmp_path, variants, measure)


def test_the_linear_encoder_is_charged_by_latent_size(tmp_path: Path):
    variants = {
        f"{e}-{z}": settings(latent=z, axes={"architecture": e, "latent": z})
        | {"encoder": {"name": e, "options": {"hidden": hidden}}}
        for e, hidden in (("linear", 400), ("mlp", [400]))
        for z in (2, 20)
    }

    def measure(name: str, s: Settings, seed: int) -> dict[str, float]:
        cost = 4 * (s["latent"] == 20) * (s["encoder"]["name"] == "linear")
        return {"elbo_bernoulli": -100 - cost + NOISE[seed] * (1 if "linear" in name else -1)}

    said = answers(tmp_path, variants, measure)
    assert "it costs: 4.00 ± " in said
    assert " nats/image at latent size 20" in said
    assert "no difference is shown: 0 ± 0.20 nats/image at latent size 2" in said.replace("0.00", "0")
    assert "| 20 | −4.00" in linear_table(load(tmp_path))


def test_weights_and_losses_are_put_in_nats(tmp_path: Path):
    said = answers(tmp_path, synthetic.documents())
    assert "`002-conv` writes 0.1 with reductions `mean` and `mean`, which is β_eff = 4.9." in said
    assert "`003-linear-20`'s published test loss 0.8558 at epoch 20 is 108.33" in said
    assert "`000-recsys`'s printed loss, 143.41 ± 0.31" in said
    assert "is not the negative ELBO" in said
    assert "`pytorch-example`'s printed loss" not in said


def test_published_losses_are_silent_on_another_dataset(tmp_path: Path):
    assert "published test loss" not in answers(
        tmp_path, synthetic.documents(), dataset="digits", fallback=True
    )


def test_nothing_finished_nothing_answered(tmp_path: Path):
    variants, measure = two_by_two()
    status = {(name, seed): "missing" for name in variants for seed in range(5)}
    assert answers(tmp_path, variants, measure, status=status).startswith("No run has finished yet")


def test_who_diverged_and_who_collapsed_is_told(tmp_path: Path):
    variants, _ = two_by_two()

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        return {"kl": 0.01 if name == "flat-gaussian" else 9.0, "active_units": 2.0}

    status = {("deep-gaussian", 3): "diverged", ("deep-gaussian", 4): "diverged"}
    said = answers(tmp_path, variants, measure, status=status)
    assert (
        "`deep-gaussian` in 2 of 5 seeds (epoch 15, reconstruction first); all seeds of 3 variants finished."
        in said
    )
    assert "`flat-gaussian` in 5 of 5 seeds." in said


def test_a_variant_that_a_baseline_of_no_more_latents_beats_is_told(tmp_path: Path):
    variants, measure = two_by_two("mse", effect=0.0)
    rows = [
        {"name": "PCA", "latent": variants["deep-gaussian"]["latent"], "mse": -97.0},
        {"name": "PCA", "latent": variants["deep-gaussian"]["latent"] + 1, "mse": -500.0},
        {"name": "pixel mean", "latent": 0, "mse": 3.0},
    ]
    synthetic.save(tmp_path / "baselines.json", {"rows": rows})
    said = next(line for line in answers(tmp_path, variants, measure).splitlines() if "baseline" in line)
    assert "no more latents beat?** On *MSE* PCA, " in said
    assert "components (−97) beats `deep-bernoulli` and `deep-gaussian`." in said
    synthetic.save(tmp_path / "baselines.json", {"rows": rows[1:]})
    assert "None, in any column." in answers(tmp_path, variants, measure)


def test_squared_error_is_told_as_the_variance_that_it_stands_for(tmp_path: Path):
    def squared(beta: float, variance: float) -> Settings:
        return settings(beta=beta) | {"likelihood": {"name": "gaussian", "options": {"variance": variance}}}

    variants = {"one": squared(1, 0.5), "a": squared(0.05, 0.5), "b": squared(0.5, 0.05), "bce": settings()}
    said = answers(tmp_path, variants)
    assert "for 0.5, `one` (errors: 0.010); for 0.025, `a` and `b` (errors: 0.010)." in said
    normalised = squared(1, 0.5) | {"target": {"name": "normalised", "options": {"mean": 0.1, "std": 0.2}}}
    assert "for 0.02, `one`" in answers(tmp_path / "normalised", {"one": normalised, "bce": settings()})
    learned = {"l": settings() | {"likelihood": {"name": "gaussian-learned", "options": {}}}}
    assert "Which variance" not in answers(tmp_path / "learned", learned | {"bce": settings()})


def crossed(turns: bool) -> tuple[dict[str, Settings], synthetic.Measure]:
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


def test_what_turns_with_another_axis_is_told_before_the_average(tmp_path: Path):
    said = answers(tmp_path / "turns", *crossed(turns=True))
    assert re.search(
        r"It depends on `beta`: on \*ELBO, binarised\* `bernoulli` is better at `1` by 5\.0+ ± 0\.\d+"
        r" nats/image, `gaussian` is better at `0\.5` by 4\.0+ ± 0\.\d+"
        r" nats/image\. On the average of all settings: ",
        said,
    )
    assert "It depends" not in answers(tmp_path / "not", *crossed(turns=False))


def test_nothing_turns_below_three_seeds(tmp_path: Path):
    assert "It depends" not in answers(tmp_path, *crossed(turns=True), seeds=(0, 1))
