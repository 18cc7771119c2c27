"""Texts are plain: no sentence with more than two numbers or 30 words, but for tables, code and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prose import numbers, sentences, words

ROOT = Path(__file__).parents[1]
MOST_NUMBERS, MOST_WORDS = 2, 30
PAGES = ("README.md", "docs/README.md", "docs/findings.md")  # a page is held to it once it is listed
TEMPLATES = sorted((ROOT / "bench" / "report" / "templates").glob("*.j2"))
REPORTS = sorted((ROOT / "reports").glob("mnist/*/report.md"))


def hard(text: str) -> Iterator[str]:
    """The sentences of a text that ask too much of their reader."""
    for sentence in sentences(text):
        if len(numbers(sentence)) > MOST_NUMBERS or len(words(sentence)) > MOST_WORDS:
            yield f"{len(numbers(sentence))} numbers, {len(words(sentence))} words: {sentence}"


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page: str) -> None:
    assert not [*hard((ROOT / page).read_text(encoding="utf-8"))]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_sentences_of_a_template_are_short(template: Path) -> None:
    """What a template fills in counts as one word."""
    text = re.sub(r"{#.*?#}|{%.*?%}|<[^<>]*>", "\n\n", template.read_text(encoding="utf-8"), flags=re.S)
    assert not [*hard(re.sub(r"{{.*?}}", "`filled in`", text, flags=re.S))]


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.parent.name)
def test_sentences_of_an_answer_are_short(report: Path) -> None:
    answer = report.read_text(encoding="utf-8").partition("\n## Answer\n")[2].partition("\n## ")[0]
    assert answer
    assert not [*hard(answer)]


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("It has 3, 4 and −5.1 of 1,000.", ["3", "4", "−5.1", "1,000"]),
        ("A mean of 57 [43, 76].", ["57", "43", "76"]),
        ("By 10.66 ± 0.87 nats, 4.9-fold, 30 %.", ["10.66", "0.87", "4.9", "30"]),
        ("`001-mlp-512-512-20` of 001 at β = 32/784 with bf16, conv2d and β = 1.", []),
        ("A variance of 1/2.", ["1/2"]),
    ],
)
def test_what_a_number_is(sentence: str, found: list[str]) -> None:
    assert numbers(sentence) == found


def test_what_a_sentence_is() -> None:
    text = """# A heading of 1, 2 and 3

First of 1, ln p(x) and [a link](there-4-5.md). Second of `a. B`, e.g. this.
* **An item.** It has 2.5. <!-- a: b 1 2 3 -->
  Then ![7 8 9](x.png) more.

| 1 | 2 | 3 |

```
1 2 3. Four
```
"""
    assert [*sentences(text)] == [
        "First of 1, ln p(x) and a link.",
        "Second of `a. B`, e.g. this.",
        "**An item.",  # the marks that close go with the break
        "It has 2.5.",
        "Then more.",
    ]
    assert len(words("It has `a b c` – 2.5 of *them*.")) == 6


def test_a_hard_sentence_is_told() -> None:
    assert not [*hard("It has 1 and 2. It has 3 and 4.\n\nOf 5 and 6:\n* 7, 8\n")]
    assert len([*hard("It has 1, 2 and 3.")]) == 1
    assert not [*hard("word " * 30 + ".")]
    assert len([*hard("word " * 31 + ".")]) == 1
