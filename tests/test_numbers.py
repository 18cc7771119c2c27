"""Every number in README.md and docs/findings.md is what its comment says, in the committed reports' data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from claims import faults, report

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports/mnist"
PAGES = ("README.md", "docs/findings.md")
# What no comment is held to: code, comments, and tables of what stands in no report
HIDDEN = r"```.*?```|<!-- told: [^>]*-->\n\n(?: *\|[^\n]*\n)+|`[^`]*`|<!--.*?-->"


@pytest.mark.parametrize("page", PAGES)
def test_every_number_is_what_its_comment_says(page: str) -> None:
    assert not [*faults((ROOT / page).read_text(encoding="utf-8"), REPORTS)]


@pytest.mark.parametrize("page", PAGES)
def test_another_digit_is_told(page: str) -> None:
    """Each number in its section: what a comment is about stands beside it."""
    changes = []
    for text in re.split(r"(?m)^(?=## )", (ROOT / page).read_text(encoding="utf-8")):
        shown = re.sub(HIDDEN, lambda hidden: "^" * len(hidden[0]), text, flags=re.S)
        for place in re.finditer(r"(?<![\w.,/-])\d+\.\d+(?!\w|\.\d)", shown):
            digit = (int(place[0][-1]) + 5) % 10
            changes.append(f"{text[: place.end() - 1]}{digit}{text[place.end() :]}")
    assert len(changes) > 20
    assert not [changed for changed in changes if not [*faults(changed, REPORTS)]]


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """One report, `all`: variants a and b, and one on each side of two settings."""
    folder = tmp_path / "all"
    folder.mkdir()
    names = {
        "a": (-100.26, 0.05),
        "b": (-98.1, 0.04),
        "u-x": (-7, 1),
        "u-y": (-5, 2),
        "v-x": (-9, 1),
        "v-y": (-3, 2),
    }
    head = "variant,latent,elbo_mean,elbo_low,elbo_high,mse_mean,mse_low,mse_high\n"
    rows = [f"{name},20,{e},{e - 0.5},{e + 0.5},{m},{m * 0.9},{m * 1.1}" for name, (e, m) in names.items()]
    (folder / "summary.csv").write_text(head + "\n".join(rows))
    runs = [
        f"{name},{seed},finished,{e + seed - 1},{m}" for name, (e, m) in names.items() for seed in range(3)
    ]
    (folder / "results.csv").write_text("variant,seed,status,elbo,mse\n" + "\n".join(runs))
    (folder / "baselines.json").write_text(json.dumps({"rows": [{"name": "PCA, 2 latents", "mse": 0.5}]}))
    published = (
        "variant,epoch,published,nats,measured_mean,measured_half_width\na,1,7,70,71,2\na,20,5,50,51,1\n"
    )
    (folder / "published.csv").write_text(published)
    effects = "a,b,where,metric,value,low,high\nx,y,KL = 9 nats,elbo,0.9,0.7,1.1\n"
    (folder / "effects.csv").write_text(effects)
    (folder / "experiment.json").write_text(json.dumps({"variants": {"a": {"epochs": 20}, "b": {}}}))
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "No numbers, `a` of 001 at β = 1/784.",
        "`a` has −100.3 in its own terms. <!-- all: a elbo -->",
        "`a` has −100.26 ± 0.50 in its own terms. <!-- all: a elbo -->",
        "The MSE of `a` is 0.05 [0.045, 0.055]. <!-- all: a mse -->",
        "In their own terms `a` has −100 and `b` −98. <!-- all: a elbo; all: b elbo -->",
        "In own terms `b` is 2.2 better than `a`. <!-- all: b − a elbo -->",
        "On average 4.0 better in its own terms. <!-- all: *-y − *-x elbo -->",
        "In own terms x is ahead by 0.90 ± 0.20. <!-- all: x − y at KL = 9 nats elbo -->",
        "The MSE of `a` is 1.25 times that of `b`. <!-- all: a / b mse -->",
        "Seed 0 has −101.3 in its own terms. <!-- told: a name; all: a s0 elbo -->",
        "PCA leaves an MSE of 0.5. <!-- all: PCA, 2 latents mse -->",
        "It prints 5, after 1 epoch 7. <!-- all: a published; told: a name; all: a published@1 -->",
        "Trained it comes to 51 ± 1 in 20 epochs. <!-- all: a measured; all: a epochs -->",
        "It multiplies by 50,176. <!-- = 64*784 -->",
        "It takes 7 GB. <!-- told: measured by hand -->",
        "<!-- all: elbo mse -->\n\n| | own terms | MSE |\n|-|-|-|\n| `a` | −100.3 | 0.05 |\n| b | – | – |\n",
        "In own terms:\n\n<!-- all: *-x/elbo *-y/elbo -->\n\n| | x | y |\n|--|--|--|\n| v | −9 | −3 |\n",
    ],
)  # fmt: skip
def test_a_right_number_passes(text: str, reports: Path) -> None:
    assert not [*faults(text, reports)]


@pytest.mark.parametrize(
    "text",
    [
        "It has 3.",
        "It has 3. Then more. <!-- all: a elbo; all: a mse -->",
        "`a` has −100.4 in its own terms. <!-- all: a elbo -->",
        "`a` has 100.3 in its own terms. <!-- all: a elbo -->",
        "`a` has −100.26 ± 0.40 in its own terms. <!-- all: a elbo -->",
        "The MSE of `a` is 0.05 [0.044, 0.055]. <!-- all: a mse -->",
        "The MSE of `a` is −100.3. <!-- all: a elbo -->",
        "`b` has −100.3 in its own terms. <!-- all: a elbo -->",
        "`a` has −100.3 in its own terms. <!-- all: b elbo -->",
        "In their own terms `b` has −100 and `a` −98. <!-- all: a elbo; all: b elbo -->",
        "In their own terms one has −100 and one −98. <!-- all: a elbo; all: b elbo -->",
        "In own terms `b` is 2.2 better than `a`. <!-- all: a − b elbo -->",
        "On average 4.0 better in its own terms. <!-- all: *-x − *-y elbo -->",
        "In own terms x is ahead by 0.90 ± 0.30. <!-- all: x − y at KL = 9 nats elbo -->",
        "In own terms x is ahead by 0.90. <!-- all: x − y at KL = 8 nats elbo -->",
        "In own terms x is ahead by 0.90. <!-- all: y − x at KL = 9 nats elbo -->",
        "In own terms x is ahead by 0.90. <!-- all: x / y at KL = 9 nats elbo -->",
        "The MSE of `a` is 0.01 more than that of `b`. <!-- all: a − b mse -->",
        "PCA leaves an MSE of 0.5. <!-- all: PCA, 3 latents mse -->",
        "It prints 5. <!-- all: b published -->",
        "It multiplies by 50,176. <!-- = 64*783 -->",
        "`a` has −100.3 in its own terms. <!-- none: a elbo -->",
        "`a` has −100.3 in its own terms. <!-- all: a -->",
        "`a` has −100.3 in its own terms.\n<!-- all: a elbo -->",
        "| v | own terms |\n|--|--|\n| `a` | −100.3 |\n",
        "<!-- all: elbo mse -->\n\n| v | own terms |\n|--|--|\n| `a` | −100.3 |\n",
        "<!-- all: mse elbo -->\n\n| v | own terms | MSE |\n|--|--|--|\n| `a` | −100.3 | 0.05 |\n",
        "<!-- all: elbo mse -->\n\n| v | MSE | own terms |\n|--|--|--|\n| `a` | −100.3 | 0.05 |\n",
        "<!-- all: elbo -->\n\n| v | own terms |\n|--|--|\n| `b` | −100.3 |\n",
        "In own terms:\n\n<!-- all: *-y/elbo -->\n\n| v | x |\n|--|--|\n| u | −7 |\n",
        "MSE:\n\n<!-- all: *-x/elbo -->\n\n| v | x |\n|--|--|\n| u | −7 |\n",
    ],
)  # fmt: skip
def test_a_wrong_number_is_told(text: str, reports: Path) -> None:
    assert [*faults(text, reports)]


def test_a_report_that_lacks_runs_is_not_quoted(reports: Path) -> None:
    text = "`a` has −100.3 in its own terms. <!-- all: a elbo -->"
    assert not [*faults(text, reports)]
    with (reports / "all/results.csv").open("a") as rows:
        rows.write("\nb,3,missing,,")
    report.cache_clear()
    assert [*faults(text, reports)]
