"""The answers say what the statistics support, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import synthetic
from synthetic import SMALL, Settings, settings

from bench.report.answers import sentences
from bench.report.claims import claim_table, linear_table
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


def test_an_axis_is_answered_at_equal_settings(tmp_path: Path):
    said = answers(tmp_path, *two_by_two())
    assert (
        "**Which likelihood, BCE or squared error?** `bernoulli` is better on *ELBO, binarised* by 2.01"
        in said
    )
    assert "(n = 5 seeds, 2 settings of all else, equal on both sides; tested by Welch's t)" in said
    assert "**Which architecture?** `deep` is better" in said


def test_where_lower_is_better_the_winner_is_the_lower_and_the_effect_a_factor(tmp_path: Path):
    variants, _ = two_by_two()

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        return {"mse": (2 if "bernoulli" in name else 1) * (1 + NOISE[seed] / 10)}

    assert "`gaussian` is better on *MSE* by a factor of 2.000 [" in answers(tmp_path, variants, measure)


def test_near_twins_alone_are_paired(tmp_path: Path):
    """Two precisions share every draw; two likelihoods have the seed in common, and are not paired."""
    twins = {p: settings(axes={"precision": p}, precision=p) for p in ("fp32", "bf16")}

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        return {
            "elbo_bernoulli": -100 + seed + 0.01 * (name == "fp32") + NOISE[seed] / 1000 * (name == "fp32")
        }

    said = answers(tmp_path / "twins", twins, measure)
    assert "`fp32` is better on *ELBO, binarised* by 0.010" in said
    assert "tested by t of differences by seed, as they are near-twins" in said
    unlike = {p: settings(axes={"likelihood": p}, likelihood=p) for p in ("fp32", "bf16")}
    said = answers(tmp_path / "unlike", unlike, measure)
    assert "nats/image: no difference found (80 % power would need more than 100 seeds)" in said
    assert "tested by Welch's t" in said


@pytest.mark.parametrize(
    ("margin", "verdict"), [(0.05, "no difference found"), (0.2, "equal within 0.2000 nats")]
)
def test_equal_is_what_lies_within_the_margin_that_the_experiment_states(
    tmp_path: Path, margin: float, verdict: str
):
    said = answers(tmp_path, *two_by_two(effect=-0.01), equivalence_margin=margin)
    assert f"*ELBO, binarised* 0.000 ± 0.074 nats/image: {verdict}" in said


def test_one_seed_supports_nothing_and_says_so(tmp_path: Path):
    said = answers(tmp_path, *two_by_two(), seeds=(0,))
    assert "Not told apart yet (too few seeds: add at least 2)" in said
    assert "one seed gives no interval" in said
    assert "Too few seeds: add at least 2: `bernoulli` against `gaussian`" in said
    assert "is better" not in said
    assert "±" not in said


def test_a_setting_that_lost_a_seed_is_left_out(tmp_path: Path):
    said = answers(tmp_path, *two_by_two(), status={("deep-gaussian", 3): "diverged"})
    assert (
        "(n = 5 seeds, 1 setting of all else, equal on both sides; 1 setting left out, where a seed was lost;"
        in said
    )


def test_many_values_are_ranked_with_ties(tmp_path: Path):
    betas = (1 / 784, 0.5, 1.0, 8.0)
    variants = {f"b{b:.3g}": settings(beta=b, axes={"beta": b}) for b in betas}
    said = answers(tmp_path, variants)
    line = next(line for line in said.splitlines() if line.startswith("**Which β?**"))
    assert "*ELBO, binarised*: best `1` " in line
    assert "worst `0.001276` " in line


def test_document_004s_claim_is_supported_in_the_matrix(tmp_path: Path):
    said = answers(tmp_path, synthetic.matrix())
    assert "Supported for Bernoulli, grey target at β = 0.0408" in said
    assert claim_table(load(tmp_path)).count("| supported |") == 2


@pytest.mark.parametrize(
    ("frechet", "recall", "coverage", "verdict"),
    [
        (5, 0, 0, "supported"),
        (0, -0.2, 0, "supported"),
        (5, -0.2, -0.2, "supported"),
        (5, 0.2, 0, "mixed"),
        (-5, 0, 0, "contradicted"),
        (0, 0, 0.2, "contradicted"),
        (0, 0, 0, "undecided"),
    ],
)
def test_the_verdict_on_the_claim_looks_at_three_metrics_of_samples(
    tmp_path: Path, frechet: float, recall: float, coverage: float, verdict: str
):
    variants = {"one": settings(likelihood="gaussian"), "small": settings(likelihood="gaussian", beta=SMALL)}

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        small, noise = name == "small", NOISE[seed] * (1 if name == "small" else -1) / 50
        return {
            "aggregate_kl": 4 + 50 * small, "mutual_information": 9.21 if small else 5.0,
            "frechet_distance": 20 + frechet * small + noise,
            "recall": 0.5 + recall * small + noise, "coverage": 0.5 + coverage * small + noise,
        }  # fmt: skip

    said = answers(tmp_path, variants, measure)
    assert f"{verdict.capitalize()} for Gaussian, grey target at β = 0.0408" in said
    assert "≤: an upper bound" in claim_table(load(tmp_path))


def test_a_claim_that_turns_with_the_setting_is_mixed_and_no_average_is_shown(tmp_path: Path):
    variants = {
        f"{a}-{b}": settings(beta=SMALL if b == "small" else 1.0, latent=z)
        for a, z in (("x", 5), ("y", 6), ("z", 7))
        for b in ("one", "small")
    }

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        worse = {"x": 9.0, "y": 9.0, "z": -3.0}[name[0]] * name.endswith("small")
        return {"aggregate_kl": 4.0 + name.endswith("small") + NOISE[seed], "frechet_distance": 20 + worse}

    said = answers(tmp_path, variants, measure)
    assert (
        "Mixed for Bernoulli, grey target at β = 0.0408 (Fréchet distance worse in 2 of 3 settings," in said
    )


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
    assert "no difference is shown: 0.00 ± 0.12 nats/image at latent size 2" in said
    assert "| 2 | 0.00 ± 0.12 | 5 | equal within 1 nat |" in linear_table(load(tmp_path)).replace("\xa0", " ")
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
    variants, measure = two_by_two()  # −93, −95, −98 and −100, each ± 0.1
    size = variants["deep-gaussian"]["latent"]
    rows = [
        {"name": "PCA", "latent": size, "elbo_bernoulli": -94.0},
        {"name": "PCA", "latent": size + 1, "elbo_bernoulli": -1.0},
        {"name": "pixel mean", "latent": 0, "elbo_bernoulli": -200.0},
    ]
    synthetic.save(tmp_path / "baselines.json", {"rows": rows})
    said = next(line for line in answers(tmp_path, variants, measure).splitlines() if "baseline" in line)
    assert "On *ELBO, binarised* PCA, " in said
    assert "components (−94) beats `deep-gaussian`, `flat-bernoulli` and `flat-gaussian`." in said
    rows[0]["elbo_bernoulli"] = -100.05  # better than flat-gaussian's mean, within its interval
    synthetic.save(tmp_path / "baselines.json", {"rows": rows})
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


def test_what_turns_with_another_axis_has_no_average(tmp_path: Path):
    said = answers(tmp_path / "turns", *crossed(turns=True))
    line = next(line for line in said.splitlines() if "BCE" in line)
    assert re.search(
        r"It turns with `beta`: on \*ELBO, binarised\* `bernoulli` is better at `1` by 5\.0+ ± 0\.\d+"
        r" nats/image, `gaussian` is better at `0\.5` by 4\.0+ ± 0\.\d+ nats/image\. \(n = 5",
        line,
    )
    assert "turns" not in answers(tmp_path / "not", *crossed(turns=False))


def test_what_no_axis_explains_is_counted_by_setting(tmp_path: Path):
    """Better in three settings of four, worse in the fourth."""
    variants = {
        f"{a}-{b}-{z}": settings(
            likelihood=b, latent=z, axes={"architecture": a, "likelihood": b, "latent": z}
        )
        for a in "xy"
        for b in ("bernoulli", "gaussian")
        for z in (2, 3)
    }

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        gain = {"x-bernoulli-2": 5, "x-bernoulli-3": 5, "y-bernoulli-2": 5, "y-bernoulli-3": -4}.get(name, 0)
        return {"elbo_bernoulli": -100 + gain + NOISE[seed]}

    line = next(line for line in answers(tmp_path, variants, measure).splitlines() if "BCE" in line)
    assert (
        "It turns with the setting: on *ELBO, binarised*, of 4 settings, `bernoulli` is better in 3"
        " (3 significantly: `x · 2`, `x · 3` and `y · 2`) and `gaussian` is better in 1"
        " (1 significantly: `y · 3`)." in line
    )


def test_nothing_turns_below_three_seeds(tmp_path: Path):
    assert "turns" not in answers(tmp_path, *crossed(turns=True), seeds=(0, 1))


def test_a_value_that_is_best_in_some_settings_only_has_no_average(tmp_path: Path):
    variants = {
        f"{a}-{z}": settings(latent=z, axes={"architecture": a, "latent": z}) for a in "xyz" for z in (2, 3)
    }

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        return {"elbo_bernoulli": -100 + {"x-2": 3, "y-3": 3}.get(name, 0) + NOISE[seed]}

    assert "*ELBO, binarised*: none is best in all 2 settings, `x` in 1 and `y` in 1." in answers(
        tmp_path, variants, measure
    )
