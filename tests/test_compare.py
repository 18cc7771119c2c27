"""Comparisons are corrected for what they show, and silent where nothing may be compared."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import synthetic
from scipy import stats
from synthetic import settings

from bench import cli
from bench.cli.printing import aligned, comparison_lines
from bench.errors import BenchError
from bench.report.compare import TESTS, Comparison, compare
from bench.report.effects import EffectRow


def write(folder: Path, levels: Mapping[str, Mapping[str, float]], variants=None, **more) -> Path:
    variants = variants or {name: settings() for name in levels}
    return synthetic.write(folder, variants, measure=synthetic.measured(levels), **more)


def pair(folder: Path, *arguments, **more) -> Comparison:
    """The comparison of the variants a and b of one report."""
    (only,) = compare("a", "b", write(folder, *arguments, **more))
    return only


def rows(comparison: Comparison) -> dict[str, EffectRow]:
    return {row.metric.name: row for row in comparison.rows}


def test_two_variants_are_compared_by_welch_and_near_twins_by_seed(tmp_path: Path) -> None:
    levels = {"a": {"elbo_bernoulli": -90.0}, "b": {"elbo_bernoulli": -91.0}}
    unlike = {"a": settings(), "b": settings(likelihood="gaussian")}
    twins = {"a": settings(), "b": settings(precision="bf16")}
    for name, variants, test in (("w", unlike, "Welch"), ("p", twins, "paired by seed")):
        found = pair(tmp_path / name, levels, variants)
        d = rows(found)["elbo_bernoulli"].effect
        a, b = (list(v.values("elbo_bernoulli").values()) for v in (found.a, found.b))
        due = stats.ttest_ind(a, b, equal_var=False) if test == "Welch" else stats.ttest_rel(a, b)
        assert (d.n, d.test) == (5, test)
        assert d.p == pytest.approx(due.pvalue)
        assert d.size.high == pytest.approx(due.confidence_interval(0.95).high)
        assert any(TESTS[test] in note for note in found.notes)


def test_holm_covers_every_metric_that_is_judged(tmp_path: Path) -> None:
    """A difference of p = 0.03 is one alone, and none beside another that is not."""
    error = stats.sem(synthetic.NOISE) * math.sqrt(1 + 1.1**2)
    df = (1 + 1.1**2) ** 2 / (1 + 1.1**4) * (len(synthetic.NOISE) - 1)
    shift = float(stats.t.ppf(1 - 0.03 / 2, df)) * error + 0.1 * float(stats.tmean(synthetic.NOISE))
    variants = {"a": settings(), "b": settings(likelihood="gaussian")}
    alone = {"a": {"elbo_bernoulli": shift}, "b": {"elbo_bernoulli": 0.0}}
    assert rows(pair(tmp_path / "1", alone, variants))["elbo_bernoulli"].verdict(1.0) == "A is better"
    beside = {name: level | {"iwae_bernoulli": 0.0} for name, level in alone.items()}
    verdict = rows(pair(tmp_path / "2", beside, variants))["elbo_bernoulli"].verdict(1.0)
    assert verdict == "equal within 1 nat"


def test_descriptions_have_a_difference_and_no_verdict(tmp_path: Path) -> None:
    found = rows(pair(tmp_path, {"a": {"kl": 20.0, "parameters": 9.0}, "b": {"kl": 10.0, "parameters": 5.0}}))
    for row in found.values():
        assert row.effect.n
        assert not row.tested
        assert row.verdict(1.0) == ""


def test_equal_values_are_called_equal(tmp_path: Path) -> None:
    report = write(tmp_path, {"a": {"mse": 1.0}})
    (found,) = compare(str(report), str(report), tmp_path)
    assert rows(found)["mse"].verdict(1.0) == "equal in every seed"
    assert found.changes == []


def test_own_terms_stay_inside_one_likelihood_class(tmp_path: Path) -> None:
    levels = {name: {"elbo": -90.0, "kl": 9.0, "mse": 1.0, "density": 0.5} for name in ("a", "b")}
    alike = pair(tmp_path / "1", levels)
    assert {"elbo", "kl"} <= rows(alike).keys()
    unlike = pair(tmp_path / "2", levels, {"a": settings(), "b": settings(likelihood="gaussian")})
    assert rows(unlike).keys() == {"mse", "density"}
    where, why, _ = unlike.notes
    assert where == "Measured on mnist."
    assert "Bernoulli, grey target and Gaussian, grey target" in why


def test_a_loss_as_written_needs_the_same_objective(tmp_path: Path) -> None:
    levels = {name: {"test_loss": 1.0, "test_loss_nats": 1.0} for name in ("a", "b")}
    assert "test_loss" in rows(pair(tmp_path / "1", levels))
    found = pair(tmp_path / "2", levels, {"a": settings(), "b": settings(beta=0.5)})
    assert rows(found).keys() == {"test_loss_nats"}
    assert found.changes == ["objective.beta: 1 → 0.5"]


def test_a_variant_that_lost_seeds_is_not_ranked(tmp_path: Path) -> None:
    levels = {"a": {"mse": 9.0}, "b": {"mse": 1.0}}
    found = pair(tmp_path, levels, status={("b", 4): "diverged"})
    row = rows(found)["mse"]
    assert row.verdict(1.0) == "not ranked: B lost 1 of 5 seeds"
    assert row.effect.n == 4
    assert any("finished seed 4" in note for note in found.notes)


def test_a_collapsed_variant_is_no_contest_for_latents(tmp_path: Path) -> None:
    common = {"linear_probe_accuracy": 0.9, "mse": 1.0}
    found = rows(pair(tmp_path, {"a": {**common, "kl": 20.0}, "b": {**common, "kl": -1.0}}))
    assert found["linear_probe_accuracy"].verdict(1.0) == "not ranked: B collapsed in 5"
    assert found["mse"].tested


def test_times_of_different_machines_are_left_out(tmp_path: Path) -> None:
    levels = {"a": {"train_seconds": 9.0, "parameters": 3.0}}
    here, there = write(tmp_path / "here", levels), write(tmp_path / "there", levels)
    for run in synthetic.runs_of(there).values():
        file = run / "record.json"
        file.write_text(file.read_text().replace("Example CPU", "Another CPU"))
    (found,) = compare(str(here), str(there), tmp_path)
    assert rows(found).keys() == {"parameters"}
    assert any("different machines" in note for note in found.notes)


def test_times_of_two_precisions_on_one_machine_are_compared(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a": {"train_seconds": 9.0}, "b": {"train_seconds": 20.0}})
    for run in synthetic.runs_of(folder, "b-*").values():
        file = run / "record.json"
        file.write_text(file.read_text().replace('"fp32"', '"bf16"').replace('"reference"', '"fast"'))
    (found,) = compare("a", "b", folder)
    assert "train_seconds" in rows(found)
    assert not any("machines" in note for note in found.notes)


def test_reports_are_compared_in_what_both_have(tmp_path: Path) -> None:
    level = {"mse": 1.0}
    here = write(tmp_path / "here", {"a": level, "b": level, "c": level})
    there = write(tmp_path / "there", {"c": {"mse": 2.0}, "a": level}, seeds=(0, 1, 2))
    found = compare(str(here), str(there), tmp_path)
    assert [(c.a.name, c.b.name) for c in found] == [("a", "a"), ("c", "c")]
    assert rows(found[1])["mse"].verdict(1.0) == "A is better"
    assert rows(found[1])["mse"].effect.n == 3


def test_without_a_shared_seed_nothing_is_paired(tmp_path: Path) -> None:
    here = write(tmp_path / "here", {"a": {"mse": 1.0}}, seeds=(0, 1))
    there = write(tmp_path / "there", {"a": {"mse": 1.0}}, seeds=(2, 3))
    (found,) = compare(str(here), str(there), tmp_path)
    assert rows(found)["mse"].effect.n == 0
    assert any("share no finished seed" in note for note in found.notes)
    assert any("–" in line for line in comparison_lines([found]))


def test_other_data_is_refused(tmp_path: Path) -> None:
    here, there = (write(tmp_path / name, {"a": {"mse": 1.0}}) for name in ("here", "there"))
    for run in synthetic.runs_of(there).values():
        file = run / "record.json"
        file.write_text(file.read_text().replace("0f1e2d3c", "ffffffff"))
    with pytest.raises(BenchError, match="different data"):
        compare(str(here), str(there), tmp_path)


def test_a_table_is_aligned() -> None:
    assert list(aligned([["", "A", "B", ""], ["head"], ["x", "1", "22", "why"]])) == [
        "   A   B", "head", "x  1  22  why",
    ]  # fmt: skip


# The command


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`bench compare` beside two reports: exit code, stdout and stderr."""
    lost = {("lost", seed): "failed" for seed in range(5)}
    write(tmp_path / "report", {"a": {"mse": 1.0}, "b": {"mse": 2.0}, "lost": {"mse": 3.0}}, status=lost)
    write(tmp_path / "other", {"z": {"mse": 1.0}})
    monkeypatch.chdir(tmp_path)

    def told(*words: str) -> tuple[int, str, str]:
        where = () if "--report" in words else ("--report", "report")
        monkeypatch.setattr(sys, "argv", ["bench", "compare", *words, *where])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return told


def test_the_command_prints_a_table(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, error = command("a", "b")
    assert (code, error) == (0, "")
    assert "A  a, 5/5 finished" in out
    assert any(line.startswith("  MSE ↓ (per pixel)") and "A is better" in line for line in out.splitlines())
    assert "Holm's correction for the 1 that" in out


def test_an_experiment_is_found_by_its_name_and_by_its_file(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    write(
        tmp_path / "reports" / "mine",
        {"a": {"mse": 1.0}, "b": {"mse": 2.0}},
        {"a": settings(), "b": settings(latent=3)},
    )
    found = [command("a", "b", "--report", named, "--reports", "reports") for named in ("mine", "mine.yaml")]
    assert found[0] == found[1] == command("a", "b", "--report", "reports/mine")
    assert found[0][0] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("a bb", "did you mean 'b'"),
        ("a lost", "lost has no finished run"),
        ("report a", "not two reports' folders"),
        ("a report", "not two reports' folders"),
        ("a no/such/folder", "not two reports' folders"),
        ("report other", "share no variant"),
        ("a b --report nowhere", "nowhere holds no experiment.json"),
        ("a", "Missing argument 'b'; see bench compare --help"),
        ("a b --gate mse", "is not of the form 'METRIC >= NUMBER'"),
        ("a b --gate msee<=1", "--gate msee: no such row here"),
        ("a b --gate mse<=-1", "bounds a ratio; give a number above 0"),
    ],
)
def test_bad_input_is_one_line(words: str, told: str, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, error = command(*words.split())
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert told in error


@pytest.mark.parametrize(
    ("rule", "a", "code"),
    [
        ("elbo_bernoulli >= -0.5", -90.0, 0),
        ("elbo_bernoulli >= -0.5", -91.0, 1),
        ("elbo_bernoulli >= -0.5", -90.5, 3),  # at the margin, neither way
        ("elbo_bernoulli <= 0.5", -89.0, 1),
        ("elbo_bernoulli <= 0.5", -90.0, 0),
        ("mse <= 1.05", 1.0, 0),  # a ratio
        ("mse <= 0.95", 1.0, 1),
        ("mse <= 1.05", None, 3),
    ],
)
def test_a_gate_passes_fails_or_is_undecided(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]], rule: str, a: float | None, code: int
) -> None:
    """Decided at 5 % one-sided; without a value of its own A equals B, in two seeds."""
    metric = rule.split(maxsplit=1)[0]
    level = -90.0 if metric.startswith("elbo") else 1.0
    levels = {"a": {metric: level if a is None else a}, "b": {metric: level}}
    variants = {"a": settings(), "b": settings(likelihood="gaussian")}
    folder = write(tmp_path / "gated", levels, variants, seeds=(0, 1) if a is None else range(5))
    found, out, _ = command("a", "b", "--report", str(folder), "--gate", rule, "--json")
    told = json.loads(out)
    assert found == code
    assert told["gate"]["state"] == {0: "passed", 1: "failed", 3: "undecided"}[code]
    assert ("too few seeds" in told["gate"]["why"]) == (a is None)
    [row] = told["comparisons"][0]["rows"]
    assert row["low"] < row.get("difference", row.get("ratio")) < row["high"]
