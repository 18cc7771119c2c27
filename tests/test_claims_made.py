"""Claims in advance: read with care, registered before the runs, judged by what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import synthetic
from scipy import stats
from synthetic import Settings, settings
from test_plan import SPEC, plan, record

from bench.errors import BenchError
from bench.report import write_report
from bench.report.claims import verdicts
from bench.report.results import load

NOISE = (0.0, 0.1, -0.1, 0.05, -0.05)
BETTER = "{name: larger batches, better: b, than: a, on: elbo_bernoulli, by: 0.5}"


def judged(folder: Path, gap: float, claim: dict[str, Any], **more: Any) -> Any:
    """The verdict on a claim about variants a and b, where a is `gap` nats above b."""

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        sign = 1 if name == "a" else -1
        return {"elbo_bernoulli": -100 + gap * (name == "a") + sign * NOISE[seed], "mse": 1.0 + (name == "b")}

    variants = {"a": settings(), "b": settings(likelihood="gaussian")}
    made = {"name": "it", "on": "elbo_bernoulli", "by": 0.0, "within": 1.0} | claim
    [found] = verdicts(load(synthetic.write(folder, variants, measure=measure, claims=[made], **more)))
    return found


@pytest.mark.parametrize(
    ("gap", "claim", "state"),
    [
        (2.0, {"better": "a", "than": "b", "by": 0.5}, "supported"),
        (0.5, {"better": "a", "than": "b", "by": 0.5}, "undecided"),
        (0.0, {"better": "a", "than": "b", "by": 0.5}, "contradicted"),
        (0.0, {"better": "a", "than": "b"}, "undecided"),
        (-2.0, {"better": "a", "than": "b"}, "contradicted"),
        (0.0, {"equal": "a", "to": "b", "within": 1.0}, "supported"),
        (1.0, {"equal": "a", "to": "b", "within": 1.0}, "undecided"),
        (-3.0, {"equal": "a", "to": "b", "within": 1.0}, "contradicted"),
        (0.0, {"better": "a", "than": "b", "on": "mse", "by": 1.5}, "supported"),  # by a factor of 2
        (0.0, {"better": "a", "than": "b", "on": "mse", "by": 3.0}, "contradicted"),
    ],
)
def test_a_verdict_follows_what_was_measured(
    tmp_path: Path, gap: float, claim: dict[str, Any], state: str
) -> None:
    assert judged(tmp_path, gap, claim).state == state


def test_a_claim_of_which_little_is_said_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    variants = {"a": settings(), "b": settings(likelihood="gaussian")}
    claims = [{"on": "mse", "better": "a"}, {"on": "mse", "registered": {"at": 3}}]
    write_report(synthetic.write(tmp_path, variants, claims=claims), figures=False)
    told = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "–: `a` better than `None`" in told
    assert "–: `None` equal to `None` on MSE within 0" in told


def test_the_test_is_one_sided_welch(tmp_path: Path) -> None:
    found = judged(tmp_path, 0.6, {"better": "a", "than": "b", "by": 0.5})
    a, b = [-99.4 + x for x in NOISE], [-100 - x for x in NOISE]
    due = stats.ttest_ind([x - 0.5 for x in a], b, equal_var=False, alternative="greater")
    assert found.tests[0] == pytest.approx(due.pvalue)


def test_what_cannot_be_judged_says_why(tmp_path: Path) -> None:
    claim = {"better": "a", "than": "b"}
    assert judged(tmp_path / "few", 2.0, claim, seeds=(0, 1)).why == "too few seeds: add at least 2"
    lost = judged(tmp_path / "lost", 2.0, claim, status={("b", 1): "diverged"})
    assert (lost.state, lost.why) == ("undecided", "b lost 1 of 5 seeds")
    assert judged(tmp_path / "gone", 2.0, {"better": "a", "than": "c"}).why == "c is not in this report"


def test_claims_of_four_kinds_stand_in_one_report(tmp_path: Path) -> None:
    level = {"a": -98.0, "b": -100.0, "c": -99.9}

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        return {"elbo_bernoulli": level[name] + (1 if name == "a" else -1) * NOISE[seed], "mse": 1.0}

    early = {"at": "2026-01-01T00:00:00+00:00", "finished": 0, "experiment": "0123456789abcdef"}
    claims = [
        {"name": name, "better": better, "than": than, "on": "elbo_bernoulli", "by": by, "registered": when}
        for name, better, than, by, when in (
            ("true", "a", "b", 0.5, early), ("false", "b", "a", 0.5, early), ("open", "c", "b", 0.1, early),
            ("late", "a", "c", 0.5, early | {"finished": 2}),
        )
    ]  # fmt: skip
    variants = {name: settings(batch_size=size) for name, size in (("a", 8), ("b", 16), ("c", 32))}
    synthetic.write(tmp_path, variants, measure=measure, claims=claims)
    report = write_report(tmp_path, figures=False).read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert report.index("## Claims") < report.index("## Answer")
    told = [row.split(" | ") for row in report.partition("## Claims")[2].split("\n| ")[3:7]]
    assert told[0][0] == "true: `a` better than `b` on ELBO, binarised by 0.5"
    assert told[0][3] == "in advance, 2026-01-01, as `01234567` |"
    assert [cells[1].partition("**:")[0].strip("*") for cells in told] == [
        "supported", "contradicted", "undecided", "supported",
    ]  # fmt: skip
    assert "seeds" in told[2][1]
    assert [cells[3].split(",")[0] for cells in told] == ["in advance"] * 3 + ["after the fact"]


def test_a_run_of_others_from_before_makes_a_claim_late(tmp_path: Path) -> None:
    registered = {"at": "2026-01-02T00:00:00+00:00", "finished": 0}
    claim = {"better": "a", "than": "b", "registered": registered}
    assert not judged(tmp_path / "own", 2.0, claim).after_the_fact
    (file, *_) = (tmp_path / "runs").glob("*/record.json")
    for when, late in (("2026-01-03T00:00:00+00:00", False), ("2026-01-01T00:00:00+00:00", True)):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"finished": when}))
        [found] = verdicts(load(tmp_path / "own"))
        assert found.after_the_fact == late


def test_a_claim_is_registered_when_it_is_made(tmp_path: Path) -> None:
    def registered() -> list[int]:
        spec = json.loads((tmp_path / "reports/small/experiment.json").read_text())
        return [claim["registered"]["finished"] for claim in spec["claims"]]

    made = plan(tmp_path, SPEC + f"claims: [{BETTER}]\n")
    assert registered() == [0]
    other = made.experiment.model_copy(update={"claims": ()})
    spec = json.loads((tmp_path / "reports/small/experiment.json").read_text())
    assert spec["claims"][0]["registered"]["experiment"] == made.experiment.digest() != other.digest()
    first = (tmp_path / "reports/small/experiment.json").read_bytes()
    record(made, made.runs[0].key, "interrupted", "Ctrl-C")
    plan(tmp_path, SPEC + f"claims: [{BETTER}]\n")
    assert (tmp_path / "reports/small/experiment.json").read_bytes() == first
    record(made, made.runs[0].key)
    later = BETTER.replace("0.5", "5").replace("larger", "much larger")
    plan(tmp_path, SPEC + f"claims: [{BETTER}, {later}]\n")
    assert registered() == [0, 1]  # made in advance, and after the fact
    plan(tmp_path, SPEC + f"claims: [{BETTER.replace('0.5', '0.1')}]\n")
    assert registered() == [1]  # a changed claim is another one


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ("nothing", "claims is 'nothing'; allowed: a list"),
        (
            "[{name: x, better: a, on: mse}]",
            "claim x needs two variants; allowed: better and than, or equal and to",
        ),
        ("[{name: x, better: a, than: b, equal: a, to: b, on: mse}]", "claim x needs two variants"),
        ("[{name: x, better: a, than: bb, on: mse}]", "unknown claim x: than 'bb'; did you mean 'b'"),
        ("[{better: a, than: b, on: mse}]", "a claim has no name"),
        ("[{name: x, better: a, than: b, on: mse, by: -1}]", "by"),
        (f"[{BETTER}, {BETTER}]", "claim larger batches again; allowed: different names; rename one"),
        ("[{name: x, better: a, than: b, on: msee}]", "claim x: 'msee' is no metric that has a better"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(tmp_path: Path, claims: str, told: str) -> None:
    with pytest.raises(BenchError) as error:
        plan(tmp_path, SPEC + f"claims: {claims}\n")
    assert told in str(error.value)
