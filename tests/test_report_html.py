"""report.html: the words of report.md in one file that loads nothing, and what its script adds."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import synthetic
from PIL import Image, ImageSequence
from synthetic import SMALL, settings
from test_hostile import Tags, rendered

import bench.report
from bench.cli.matrix import report as command
from bench.report import write_report
from bench.report.embed import embed
from bench.verify import verify

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "a|b<script>alert(1)<\N{RIGHT-TO-LEFT OVERRIDE}script>\"'><img src=x onerror=alert(2)>&amp;"
ARCHITECTURES = {"conv": 16, "mlp": 20}
VOID = {"meta", "img", "br", "input"}
MOST = 5_000_000  # bytes


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix of eight variants and two by name, one of them hostile; three seeds; a figure and pictures."""
    folder = tmp_path_factory.mktemp("reports") / "all"
    variants = {
        f"{kind}-{likelihood}-{beta:.2g}": settings(
            latent=latent, likelihood=likelihood, beta=beta,
            axes={"architecture": kind, "likelihood": likelihood, "beta": beta},
        )
        for kind, latent in ARCHITECTURES.items()
        for likelihood in ("bernoulli", "gaussian")
        for beta in (1.0, SMALL)
    }  # fmt: skip
    row = {"metric": "test_loss", "unit": "nats/image", "to_nats": 1.0, "value": 101.5, "epoch": 20}
    variants |= {HOSTILE: settings(latent=2, note=HOSTILE), "plain": settings(published=[row])}
    synthetic.write(folder, variants, (0, 1, 2), pictures=True, question=HOSTILE, name="<b>x</b>\n# y")
    synthetic.save(folder / "baselines.json", synthetic.baselines())
    figure = Image.linear_gradient("L").resize((1200, 600))
    (folder / "figures").mkdir()
    figure.save(folder / "figures/forest.png")
    write_report(folder, figures=False)
    return folder / "report.html"


class Tree(HTMLParser):
    """Tags as they nest; an end tag that fits none, and an element that is left open, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        self.open += [tag] if tag not in VOID else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_nests_and_every_link_has_its_place(report: Path):
    tree = Tree(report.read_text())
    ids = [attributes["id"] for _, attributes in tree.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"]) for tag, attributes in tree.tags if tag == "a"]
    assert links
    assert all(link[0] == "#" and link[1:] in ids for link in links)


def test_it_has_the_sections_and_tables_of_the_markdown(report: Path):
    markdown, page = (report.parent / "report.md").read_text(), report.read_text()
    for level in (2, 3):
        titles = re.findall(rf"^{'#' * level} (.*)$", markdown, re.MULTILINE)
        assert re.findall(rf"<h{level}>(.*?)</h{level}>", page) == titles
    rules = re.findall(r"^\|(?: (?::--|--:) \|)+\n(?!\|  ?!)", markdown, re.MULTILINE)
    pictures = page.count('<div class="grid">')
    assert page.count("<table") == len(rules) - pictures


def test_it_loads_nothing_and_runs_no_script_but_its_own(report: Path):
    page = report.read_text()
    assert re.search(r"(?:src|href)=\"(?!data:image/webp;base64,|#)", page) is None
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (source,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_hostile_names_stay_text(report: Path):
    tree = Tree(report.read_text())
    assert [tag for tag, _ in tree.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in tree.tags for name in attributes)
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in report.read_text()
    markdown = Tags(rendered(report.with_suffix(".md").read_text()))
    tags = [tag for tag, _ in markdown.found]
    assert not {"script", "b"} & {*tags}
    assert not any(name.startswith("on") for _, attributes in markdown.found for name in attributes)
    assert tags.count("h1") == 1
    assert "alert(1)" in markdown.text


def test_each_picture_is_there_once_and_the_file_is_small(report: Path):
    page = report.read_text()
    uris = re.findall(r"data:image/webp[^\"]*", page)
    assert len(uris) == page.count("<img") - 1 == 2 * 10 + 1  # two of each variant, and the figure
    assert report.stat().st_size < MOST


@pytest.mark.parametrize("doubled", [True, False])
@pytest.mark.parametrize("frames", [1, 3])
def test_no_pixel_is_lost(tmp_path: Path, doubled: bool, frames: int):
    noise = np.random.default_rng(0).integers(0, 256, (frames, 10, 14), np.uint8)
    pixels = noise.repeat(2, 1).repeat(2, 2) if doubled else noise
    first, *rest = map(Image.fromarray, pixels)
    path = tmp_path / ("a.gif" if rest else "a.png")
    first.save(path, save_all=bool(rest), append_images=rest, duration=200) if rest else first.save(path)
    made = embed(path)
    assert made is not None
    assert (made.width, made.height, made.pixels) == (*pixels.shape[:0:-1], doubled)
    with Image.open(io.BytesIO(base64.b64decode(made.uri.partition(",")[2]))) as again:
        shown = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(again)]
    assert (np.array(shown) == noise).all()


def test_a_damaged_picture_is_told(report: Path, tmp_path: Path):
    folder = tmp_path / "all"
    shutil.copytree(report.parent, folder)
    (folder / "figures/forest.png").write_bytes(b"no picture")
    write_report(folder, figures=False)
    assert "<em>figures/forest.png cannot be read</em>" in (folder / "report.html").read_text()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure is drawn, which takes seconds."""
    monkeypatch.setattr(bench.report, "_draw", lambda *_: None)


@pytest.mark.usefixtures("undrawn")
def test_a_changed_word_is_found_and_redrawn_pictures_are_not(report: Path, tmp_path: Path):
    shutil.copytree(report.parents[1], tmp_path / "reports")
    copy = tmp_path / "reports/all/report.html"
    (copy.parent / "figures/forest.png").unlink()  # nothing draws it
    write_report(copy.parent, figures=False)
    text = copy.read_text()
    for old, new in ((";base64,", ";base64,AAAA"), ("Covers 30 of 30", "Covers 31 of 30")):
        text = text.replace(old, new)
    copy.write_text(text)
    line = text[: text.index("Covers 31")].count("\n") + 1
    told = [each for each in verify(copy.parent).differences if "report.html" in each]
    assert told == [f'report.html:{line}: found "31", the records give "30"']
    copy.unlink()
    assert not any("report.html" in each for each in verify(copy.parent).differences)


@pytest.mark.usefixtures("undrawn")
def test_open_shows_it_in_a_browser(
    report: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    opened: list[str] = []
    for there in (True, False):
        monkeypatch.setattr("webbrowser.open", lambda uri, there=there: opened.append(uri) or there)
        command(report.parent, open_browser=True)
        out, err = capsys.readouterr()
        assert out.split("\n") == [str(report.with_suffix(".md")), str(report), ""]
        assert err.startswith("no browser") != there
    assert opened == [report.as_uri()] * 2


# What the script adds, in a browser


@pytest.fixture
def page(browser: Browser, report: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The report, open; whatever it asks for or complains of fails the test."""
    given: dict[str, Any] = {"viewport": {"width": 1000, "height": 800}} | getattr(request, "param", {})
    opened = browser.new_page(**given)
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: wrong.append(dialog.message))
    opened.on(
        "request", lambda asked: wrong.append(asked.url) if asked.url[:5] not in ("file:", "data:") else None
    )
    opened.set_default_timeout(10_000)
    opened.goto(report.as_uri())
    yield opened
    opened.close()
    assert wrong == []


METRICS = 4  # of the matrix: ELBO, ln p(x), MSE, Fréchet distance
FOOTING = "#one-footing table"


def names(page: Page) -> list[str]:
    """The names of the rows of one footing that can be seen."""
    return page.locator(f"{FOOTING} tbody tr:visible > th").all_inner_texts()


@pytest.mark.browser
@pytest.mark.around
@pytest.mark.xdist_group("html")
class TestInTheBrowser:
    """What a reader does."""

    def test_a_click_sorts_a_second_turns_and_a_third_undoes(self, page: Page):
        values = f"[...document.querySelectorAll('{FOOTING} tbody tr')].map(r => r.cells[1].dataset.value)"
        before = page.evaluate(values)
        head = page.locator(f"{FOOTING} thead button").nth(1)
        for sign in (1, -1):
            head.click()
            known = [sign * float(value) for value in page.evaluate(values) if value is not None]
            assert known == sorted(known)
            assert page.evaluate(values)[len(known) :] == [None] * (len(before) - len(known))
        head.click()
        assert page.evaluate(values) == before

    def test_the_keyboard_sorts_by_name(self, page: Page):
        page.locator(f"{FOOTING} thead button").first.focus()
        page.keyboard.press("Enter")
        assert page.locator(f"{FOOTING} thead th").first.get_attribute("aria-sort") == "ascending"
        hostile = HOSTILE.replace("\N{RIGHT-TO-LEFT OVERRIDE}", " ")
        assert names(page)[:3] == [hostile, "conv-bernoulli-0.041", "conv-bernoulli-1"]

    def test_words_filter_the_rows(self, page: Page):
        before = names(page)
        page.get_by_label("Filter").fill("gaussian conv")
        assert names(page) == ["conv-gaussian-1", "conv-gaussian-0.041"]
        assert page.locator("figure[data-name]:not([hidden])").count() == 2 * 2
        assert re.fullmatch(r"\d+ of \d+ rows and pictures", page.locator("output").inner_text())
        page.get_by_label("Filter").fill("")
        assert names(page) == before
        assert page.locator("output").inner_text() == ""

    def test_one_metric_of_the_matrix_is_shown_at_a_time(self, page: Page):
        titles = page.locator(".panel").evaluate_all("all => all.map(one => one.dataset.title)")
        assert len(titles) == METRICS
        for title in titles[1:3]:
            page.locator(".choice label", has_text=title).click()
            shown = page.locator(".panel:visible")
            assert shown.evaluate_all("all => all.map(one => one.dataset.title)") == [title]
        page.keyboard.press("ArrowLeft")
        assert page.locator(".panel:visible").get_attribute("data-title") == titles[1]

    def test_the_seeds_are_behind_a_cell(self, page: Page):
        cell = page.locator(f"{FOOTING} .seeds").first
        assert not cell.locator("div").first.is_visible()
        cell.locator("summary").click()
        shown = [line.partition(":")[0] for line in cell.locator("div").all_inner_texts()]
        assert shown == ["seed 0", "seed 1", "seed 2"]

    def test_a_picture_enlarges(self, page: Page):
        page.get_by_role("button", name=re.compile("Enlarge: Means")).click()
        large = page.locator("dialog img")
        assert large.evaluate("one => [one.naturalWidth, one.width]") == [1200, 1200]
        page.keyboard.press("Escape")
        assert not page.locator("dialog").is_visible()

    def test_a_link_opens_what_it_leads_into(self, page: Page):
        place = page.locator("#protocol")
        assert place.get_attribute("open") is None
        page.locator("#answer a[href='#protocol']").last.click()
        assert place.get_attribute("open") is not None
        assert page.locator("#protocol td").first.is_visible()

    @pytest.mark.parametrize("page", [{"color_scheme": s} for s in ("light", "dark")], indirect=True, ids=str)
    def test_text_stands_out(self, page: Page):
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        poor = page.evaluate(CONTRAST)
        assert poor == []

    @pytest.mark.parametrize("page", [{"viewport": {"width": 400, "height": 800}}], indirect=True, ids=str)
    def test_a_narrow_page_does_not_scroll_sideways(self, page: Page):
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        assert page.locator(FOOTING).evaluate("one => one.parentElement.scrollWidth > 400")

    @pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True, ids=str)
    def test_all_is_there_without_script(self, page: Page):
        assert page.locator(".panel:visible").count() == METRICS
        assert not page.locator("#tools").is_visible()
        page.locator("#protocol summary").click()
        assert page.locator("#protocol td").first.is_visible()

    def test_paper_shows_every_metric_and_no_tools(self, page: Page):
        page.emulate_media(media="print")
        assert page.locator(".panel:visible").count() == METRICS
        assert not page.locator("#tools").is_visible()


CONTRAST = """() => {
  const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = rgba(getComputedStyle(one).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !one.checkVisibility()) continue;
    const [x, y] = [light(rgba(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
    const ratio = (x + 0.05) / (y + 0.05);
    if (ratio < 4.5) poor.add(`${one.tagName} ${one.className} ${ratio.toFixed(2)}`);
  }
  return [...poor];
}"""
