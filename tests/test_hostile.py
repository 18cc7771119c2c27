"""Names and texts from elsewhere: in the report, in tables, in MLflow and on disk they stay what they are."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path

import pytest
import synthetic
from markdown_it import MarkdownIt

from bench import tracking
from bench.errors import BenchError
from bench.report import write_report
from bench.runs.request import Request
from bench.spec.resolve import load
from bench.tracking import entries
from bench.tracking.store import artifact_location

HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "![x](http://evil.example/p.png)",
    "# heading", "[x](javascript:alert(1))", "a | b | c", "`code` ``` fence", "\\| \\` \\<",
    "&lt;script&gt;", "$\\href{x}{y}$", "<!-- comment", "</td></table>",
    "=HYPERLINK(\"http://evil.example\")", "+1+1", "@SUM(A1)", "-2+3", "- item", "1. item", "> quote",
    "***", "~~~", "http:// evil", "[ref]: http://evil.example",
]  # fmt: skip
NAMES = [
    "../../x", "a/../../../away", "/etc/x", "..", ".hidden", "-rf", "a/b", "a\\b", "con", "nul.txt", "a.",
    "x" * 200, "A", "é", "a b", "a\x1b[31m", "<b>", "", " ", "a:b", "~root", "a*", "$(id)",
]  # fmt: skip


def spec(folder: Path, word: str, name: str = "hostile.yaml") -> Path:
    """An experiment in which every text that may be free is hostile."""
    folder.mkdir(parents=True, exist_ok=True)
    said = json.dumps(word, ensure_ascii=False)
    row = f"{{value: 1, metric: test_loss, epoch: 1, source: {said}, unit: {said}, not_comparable: {said}}}"
    networks = "encoder: {name: mlp, hidden: [4]}, decoder: {name: mlp, hidden: [4]}, latent: 2"
    (folder / name).write_text(
        f"question: {said}\ndataset: mnist\nseeds: 2\nvariants:\n"
        f"  a: {{{networks}, document: {said}, note: {said}, published: [{row}]}}\n  b: {{{networks}}}\n",
        encoding="utf-8",
    )
    return folder / name


def written(folder: Path, word: str, *, fallback: bool = False) -> Path:
    """The report of that experiment, its records hostile too, as bench writes it."""
    content = load(spec(folder, word)).model_dump(mode="json")
    planned = {f"{name}-s{seed}-00000000": (name, seed) for name in "ab" for seed in (0, 1)}
    content |= {
        "planned": {
            run: {"variant": name, "seed": seed, "run": synthetic.key(folder, run, seed)}
            for run, (name, seed) in planned.items()
        },
        "command": word, "declared_dataset": word, "fallback": fallback, "skipped": [word],
    }  # fmt: skip
    reports = folder / "reports" / "hostile"
    synthetic.save(reports / "experiment.json", content)
    for i, (run, (name, seed)) in enumerate(planned.items()):
        settings = synthetic.settings(latent=2)
        record = synthetic.record(run, name, settings, seed, synthetic.measure(name, settings, seed))
        record |= {"environment": {"device": word, word: word, "torch": word}, "likelihood_class": word}
        record |= {"data": {"name": word, "digest": word}, "git": {"commit": word}}
        record["metrics"][word] = 1.0
        if i == 3:
            record = synthetic.lost(record, "failed") | {"reason": word}
        synthetic.save(reports.parent / "runs" / content["planned"][run]["run"] / "record.json", record)
        synthetic.picture(synthetic.runs_of(reports)[run] / "pictures" / "samples-epoch-001.png", 1)
    return write_report(reports, figures=False)


def rendered(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


PAGE = {
    "h1", "h2", "h3", "p", "strong", "em", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "code",
    "pre", "img", "br", "blockquote", "a", "details", "summary",
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Tags]:
    """The report of a harmless word, on the data that were asked for and on a stand-in."""
    made = {f: written(tmp_path_factory.mktemp("plain"), "harmless", fallback=f) for f in (False, True)}
    return {f: Tags(rendered(report.read_text(encoding="utf-8"))) for f, report in made.items()}


@pytest.mark.parametrize("fallback", [False, True], ids=["asked for", "stand-in"])
@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_text_stays_text_in_the_report(
    tmp_path: Path, plain: dict[bool, Tags], word: str, fallback: bool
) -> None:
    report = written(tmp_path / "a" / "b" / "c", word, fallback=fallback)
    page, other = Tags(rendered(report.read_text(encoding="utf-8"))), plain[fallback]
    assert {tag for tag, _ in page.found} <= PAGE
    for tag, attributes in page.found:
        assert attributes.keys() <= {"src", "alt", "style", "href"}, (tag, attributes)
        assert str(attributes.get("href", "#")).startswith("#")
        assert str(attributes.get("style", "text-align:left")).startswith("text-align:")
        assert str(attributes.get("src", "figures/x")).startswith("figures/")
    assert sum(tag == "h1" for tag, _ in page.found) == 1
    shapes = [[tag for tag, _ in each.found if tag != "code"] for each in (page, other)]
    assert shapes[0] == shapes[1], "of the shape of a harmless page"
    assert page.text.lower().count(word.lower()) == other.text.lower().count("harmless"), "nothing is lost"
    assert [path.name for each in ("", "a", "a/b") for path in (tmp_path / each).iterdir()] == ["a", "b", "c"]
    tables = list(report.parent.glob("*.csv"))
    assert len(tables) == (2 if fallback else 3), "published numbers are of the data asked for"
    rows = (csv.reader(file.read_text(encoding="utf-8").split("\n")) for file in tables)
    for cell in chain.from_iterable(chain.from_iterable(rows)):
        assert cell[:1] not in ("=", "+", "@", "\t", "\r"), f"a formula: {cell}"
        assert not cell.startswith("-") or float(cell) <= 0, cell


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_text_stays_text_in_mlflow(word: str) -> None:
    shown = entries.description(f"bench run x.yaml\n```\n\x1b[31m{word}", Path(f"reports/`{word}`"))
    assert "\x1b" not in shown
    page = Tags(rendered(shown))
    assert [tag for tag, _ in page.found] == ["p", "pre", "code", "p", "code"]


def test_a_record_sets_no_tag_of_mlflow_or_of_bench(tmp_path: Path) -> None:
    """MLflow makes a link of some; others say how a run ended."""
    theirs = ("mlflow.source.git.repoURL", "mlflow.parentRunId", "bench.pid", "outcome", "reason", "A b")
    made = entries.tags({"environment": {**dict.fromkeys(theirs, "x"), "device": "cpu"}}, "e", tmp_path)
    assert not made.keys() & {*theirs}
    assert made["device"] == "cpu"


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_a_folder(tmp_path: Path, name: str) -> None:
    networks = "encoder: {name: mlp, hidden: [4]}, decoder: {name: mlp, hidden: [4]}, latent: 2"
    said = json.dumps(name)
    for text in (f"variants: {{{said}: {{{networks}}}}}", f"architectures: {{{said}: {{{networks}}}}}"):
        (tmp_path / "f.yaml").write_text(f"question: Why?\n{text}\n")
        with pytest.raises(BenchError, match=r"f\.yaml:2:\d+: ") as caught:
            load(tmp_path / "f.yaml")
        assert str(caught.value).isprintable()
    for content in ({"planned": {name: {"variant": "a", "seed": 0}}}, {"planned": {"x": {"variant": "a"}}}):
        synthetic.save(tmp_path / "r/experiment.json", {"variants": {"a": {}}} | content)
        if re.fullmatch(r"\w[\w.-]*", name) and name in content["planned"]:
            continue  # fit for a folder, if not for a variant
        with pytest.raises(BenchError, match="is not a resolved experiment"):
            write_report(tmp_path / "r")


def test_artifacts_lie_beside_the_store_whatever_the_experiment_is_called() -> None:
    for name in (*NAMES, *HOSTILE):
        place = artifact_location("sqlite:////there/mlflow.db", name)
        assert place
        assert re.fullmatch(r"file:///there/mlartifacts/[\w%][\w.%-]*", place), place


# Secrets

SECRET = "hunter2"  # noqa: S105
URIS = [f"http://me:{SECRET}@host:5000", f"postgresql://me:{SECRET}/x@host/db", f"http://host/?token={SECRET}",
        f"mysql+pymysql://{SECRET}@host:1/db"]  # fmt: skip


@pytest.mark.parametrize("uri", URIS)
def test_no_secret_is_recorded(uri: str, tmp_path: Path) -> None:
    request = Request(load(spec(tmp_path, "Why?")), tracking_uri=uri, device=f"cpu {uri}")
    made = {"command": request.command(), "environment": {"x": uri}, "reason": uri, "status": "failed"}
    kept = [made["command"], entries.tags(made, "x", tmp_path), entries.outcome_tags(made)]
    kept.append(entries.description(f"bench run --tracking-uri {uri}", tmp_path))
    assert SECRET not in str(kept)
    assert SECRET not in " ".join(tracking.ui_command(f"postgresql{uri[uri.index(':') :]}", 5000))
    with pytest.raises(BenchError) as caught:
        tracking.resolve_uri(f"file:{uri}")
    assert SECRET not in str(caught.value)
