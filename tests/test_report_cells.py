"""Numbers as the spread supports them, and foreign text that stays text."""

from __future__ import annotations

import math

import pytest
from markdown_it import MarkdownIt

from bench.report.cells import (
    CUT,
    block,
    code,
    exact,
    fixed,
    image,
    paragraph,
    plain,
    spread,
    table,
    text,
    words,
)
from bench.report.statistics import Estimate

HOSTILE = [
    "a|b", "<script>alert(1)</script>", "`code`", "two\nlines", "**bold** _it_ ~~no~~", "[x](http://e)",
    "![x](y)", "$x$", "&amp;", "\\", "a`|`b", "\r\n# head", "<!-- ", "# title", "- item", "1. one", "====",
    "> quote", "+ plus", "\u202eabc\x00", "</td>", "|",
]  # fmt: skip


def render(markdown: str) -> str:
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    return str(page).replace(CUT, "")


def shown(value: str) -> str:
    clean = "".join(c if c.isprintable() else " " for c in value)
    return " ".join(clean.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@pytest.mark.parametrize("value", HOSTILE)
def test_text_in_a_cell_is_shown_as_it_is(value: str):
    html = render(table(["a", "b"], [[text(value), "end"]]))
    assert f">{shown(value)}</td>" in html
    assert html.count("<td") == 2


@pytest.mark.parametrize("value", HOSTILE)
def test_text_at_the_start_of_a_line_opens_nothing(value: str):
    assert render(paragraph(value)).strip() == f"<p>{shown(value)}</p>"


@pytest.mark.parametrize("value", HOSTILE)
def test_code_in_a_cell_breaks_no_cell(value: str):
    html = render(table(["a", "b"], [[code(value), "end"]]))
    assert html.count("<td") == 2
    assert shown(value) in html


def test_a_block_holds_any_fence():
    html = render(block("bench run\n```\n````x"))
    assert html.count("<pre>") == 1
    assert "````x" in html


def test_an_image_path_is_quoted():
    assert image("a [b]", "figures/a b(1).png") == r"![a \[b\]](figures/a%20b%281%29.png)"


@pytest.mark.parametrize(
    ("value", "half_width", "expected"),
    [
        (-105.13289, 0.31234, "−105.13 ± 0.31"),
        (-105.13289, 12.4, "−105 ± 12"),
        (60123.4, 1234.0, "60,123 ± 1,234"),
        (0.0341234, 0.000036, "0.034123 ± 0.000036"),
        (0.996, 0.0999, "0.996 ± 0.100"),
        (18.0, 0.0, "18 ± 0"),
        (-105.13289, None, "−105.1"),
        (652824.0, None, "652,824"),
        (-0.00001, 0.3, "0.00 ± 0.30"),
    ],
)
def test_a_mean_has_the_digits_its_half_width_supports(value: float, half_width: float | None, expected: str):
    assert spread(Estimate(value, half_width, 5)).replace("\N{NO-BREAK SPACE}", " ") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.191699, "0.191699"), (5905.0, "5,905"), (32 / 784, "0.04081633"), (-0.1, "−0.1"), (0, "0")],
)
def test_a_given_number_is_shown_as_given(value: float, expected: str):
    assert exact(value) == expected


def test_lone_numbers_have_four_digits():
    shown = [plain(value) for value in (1.23456, 123.456, 0.000123456, 1e-9)]
    assert shown == ["1.235", "123.5", "0.0001235", "1.00e-09"]


def test_a_number_that_overflowed_is_shown_as_infinite():
    assert [plain(math.inf, 2), exact(-math.inf), fixed(math.inf, 3)] == ["∞", "−∞", "∞"]


def test_lists_of_words():
    assert [words(list("abc")[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
