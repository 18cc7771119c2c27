"""Pages of Markdown as people read them: statements, sentences, words and numbers.

A number is a numeral, with its sign and thousands; a fraction is one. No numbers are: what stands in code
(`001-mlp-512-512-20`), the names of documents (000 to 004) and of a weight on the KL (β = 32/784).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest

NUMBER = re.compile(r"(?<![\w.,/])[−+]?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?(?!\w)")
NAME = re.compile(r"(?<![\w.,])00\d\b|β = (?:dz/dx|\d+(?:[./]\d+)?)")
COMMENT = re.compile(r"<!--.*?-->", re.S)
FENCE = re.compile(r"^( *)```.*?^\1```$", re.S | re.M)
LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)\s]*\)")
CODE = re.compile(r"`[^`]*`")
END = re.compile(r"(?<=[.!?])[*)]*\s+(?=[*(`\[]*[A-ZÀ-ÞΑ-Ωβ\d`])")


def statements(text: str) -> Iterator[str]:
    """Give the paragraphs and items of a page, on one line each: no code blocks, tables or headings."""
    for block in re.split(r"\n\s*\n", FENCE.sub("\n\n", text)):
        for item in re.split(r"\n(?=\s*(?:[*-]|\d+\.) )", block.strip("\n")):
            lines = [line.strip() for line in item.splitlines()]
            kept = [line for line in lines if not line.startswith(("|", "#"))]
            if joined := re.sub(r"^(?:[*-]|\d+\.) ", "", " ".join(kept).strip()):
                yield joined


def plain(text: str) -> str:
    """Take off comments, pictures and links' targets; emphasis stays."""
    return LINK.sub(lambda link: "" if link[0][0] == "!" else link[1], COMMENT.sub("", text))


def sentences(text: str) -> Iterator[str]:
    """Split a page into sentences, each without its comments and links' targets."""
    for statement in statements(text):
        whole = re.sub(r"\s+", " ", plain(statement))
        spans = CODE.findall(whole)
        for sentence in END.split(CODE.sub("`", whole)):  # no sentence ends inside code
            here = [spans.pop(0) for _ in range(sentence.count("`"))]
            if sentence.strip():
                yield "".join(map("".join, zip_longest(sentence.strip().split("`"), here, fillvalue="")))


def words(sentence: str) -> list[str]:
    """Give a sentence's words; what has neither letter nor digit is none, code is one."""
    return [word for word in CODE.sub("code", sentence).split() if re.search(r"\w", word)]


def numbers(sentence: str) -> list[str]:
    """Give a sentence's numbers, names taken out."""
    return NUMBER.findall(NAME.sub("it", CODE.sub("code", sentence)))
