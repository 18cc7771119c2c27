"""Every number in README.md and docs/findings.md is what its comment says, in the committed reports' data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from claims import TABLE, Report, faults

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports" / "mnist"
PAGES = ("README.md", "docs/findings.md")
# What no comment is held to: code, comments, and tables of what stands in no report
HIDDEN = r"```.*?```|<!-- told: [^>]*-->\n\n(?: *\|[^\n]*\n)+|`[^`]*`|<!--.*?-->"


@pytest.mark.parametrize("page", PAGES)
def test_every_number_is_what_its_comment_says(page: str) -> None:
    assert not [*faults((ROOT / page).read_text(encoding="utf-8"), REPORTS)]


@pytest.mark.parametrize("page", PAGES)
def test_another_digit_is_told(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = re.sub(HIDDEN, lambda hidden: "^" * len(hidden[0]), text, flags=re.S)
    places = [*re.finditer(r"(?<![\w.,/-])\d+\.\d+(?!\w|\.\d)", shown)]
    assert len(places) > 20
    for place in places:
        changed = f"{text[: place.end() - 1]}{(int(place[0][-1]) + 5) % 10}{text[place.end() :]}"
        assert [*faults(changed, REPORTS)], text[place.start() - 40 : place.end()]


@pytest.mark.parametrize("page", PAGES)
def test_another_metric_or_variant_is_told(page: str) -> None:
    """Whatever a comment names, exchanged for another of its report: the page no longer stands."""
    text = (ROOT / page).read_text(encoding="utf-8")
    tables = {table.start() for table in TABLE.finditer(text)}
    entries = [
        found
        for found in ENTRY.finditer(text)
        if found[1] != "told" and text.rfind("<!--", 0, found.start()) not in tables
    ]
    assert len(entries) > 5
    for found in entries:
        for name, metric in others(found[1], " ".join(found[2].split()), found[3]):
            changed = f"{text[: found.start()]}{found[1]}: {name} {metric}{text[found.end() :]}"
            assert [*faults(changed, REPORTS)], (found[0], name, metric)


@pytest.mark.parametrize("page", PAGES)
def test_columns_and_rows_exchanged_are_told(page: str) -> None:
    """Two columns of a table under each other's comment, or two rows under each other's name."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for table in TABLE.finditer(text):
        columns = table[2].split()
        kept = [column for column in columns if column != "-"]
        for one, other in pairwise(kept if table[1] != "told" else []):
            mark = " ".join({one: other, other: one}.get(column, column) for column in columns)
            changed = f"{text[: table.start(2)]}{mark}{text[table.end(2) :]}"
            assert [*faults(changed, REPORTS)], (one, other)
        names = re.findall(r"^\| .*?`(.+?)`.* \|$", table[3], re.M)
        for one, other in pairwise(names):
            places = {one: other, other: one}
            rows = re.sub(
                r"(?<=`)[^`\n]+(?=` \|)", lambda found, to=places: to.get(found[0], found[0]), table[3]
            )
            changed = f"{text[: table.start(3)]}{rows}{text[table.end(3) :]}"
            assert rows != table[3]
            assert [*faults(changed, REPORTS)], (one, other)


ENTRY = re.compile(r"(?:(?<=<!-- )|(?<=;\s))([\w-]+):\s+([^;>|]+?)\s([\w.@]+)(?=;| -->)")


def others(name: str, variant: str, metric: str) -> Iterator[tuple[str, str]]:
    """What a comment might name in place of a variant and a metric of a report."""
    sides = re.split(" [−/] ", variant)
    if len(sides) == 2:
        yield variant.replace(sides[0], "?").replace(sides[1], sides[0]).replace("?", sides[1]), metric
    known = Report(REPORTS / name).summary
    yield from ((variant, other) for other in ("elbo_bernoulli", "mse", "kl") if other != metric)
    if "*" not in variant and metric not in ("epochs", "batch_size"):  # which others share
        yield from (
            (variant.replace(sides[-1], other), metric) for other in [*known][:4] if other not in sides
        )


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
