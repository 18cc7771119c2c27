"""Numbers and foreign text as Markdown: rounded to what the spread supports, escaped so as to stay text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from bench.report.statistics import Estimate

NOTHING = "–"
PM = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"  # a number stays in one line with its interval


# Where GitHub's Markdown would make a link of a bare address; a comment is seen by no reader
ADDRESS = re.compile(r":/(?=/)|\bwww(?=\.)|@(?=\w)|\b(?:mailto|xmpp)(?=:)", re.IGNORECASE)
CUT = "<!-- -->"


def line(value: object) -> str:
    """Put foreign text on one line, without invisible characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def lines(value: object) -> str:
    """Keep the lines of foreign text, without invisible characters."""
    return "\n".join("".join(c if c.isprintable() else " " for c in one) for one in str(value).split("\n"))


def text(value: object) -> str:
    """Escape foreign text as one line of literal Markdown, safe in a table cell too."""
    shown = line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", shown)
    return ADDRESS.sub(rf"\g<0>{CUT}", shown)


def paragraph(value: object) -> str:
    """Escape foreign text that starts a line: it opens no heading, list or rule."""
    return re.sub(r"^([#+=-]|\d+(?=[.)]))", lambda m: f"&#{ord(m[0][0])};{m[0][1:]}", text(value))


def code(value: object) -> str:
    """Put foreign text in a code span that is legal in a table cell."""
    shown = line(value)
    if "`" in shown or "|" in shown or "\\" in shown:  # a span cannot carry these through every table parser
        return text(shown)
    return f"`{shown}`" if shown else ""


def block(value: object) -> str:
    """Put foreign text in a fenced block, its fence longer than any inside."""
    shown = lines(value)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{fence}\n{shown}\n{fence}"


def image(alt: str, path: str) -> str:
    """Link a picture by its relative path."""
    return f"![{text(alt)}]({quote(path)})"


def plain(value: float, digits: int = 4) -> str:
    """Format a number without a spread, to so many significant digits (all of an integer's)."""
    if abs(value) < 1e15 and value == int(value):
        return _signed(f"{int(value):,}")
    return fixed(value, max(0, digits - 1 - _exponent(value)))


def exact(value: float, digits: int = 7) -> str:
    """Format a number that was written down, not measured: no zeros at the end."""
    shown = f"{value:,.{max(0, digits - 1 - _exponent(value))}f}"
    return _signed(shown.rstrip("0").rstrip(".") if "." in shown else shown)


def fixed(value: float, decimals: int) -> str:
    """Format a number to so many decimals; one too small for them as a power of ten."""
    if decimals > 9:
        return _signed(f"{value:.2e}")
    rounded = f"{value:,.{decimals}f}"
    return _signed(rounded if float(rounded.replace(",", "")) else rounded.lstrip("-"))


def signed(value: float, decimals: int) -> str:
    """Format a difference to so many decimals, with its sign."""
    shown = fixed(value, decimals)
    return shown if shown.startswith("−") or not float(shown.replace(",", "")) else f"+{shown}"


def spread(value: Estimate) -> str:
    """Format a mean ± half-width, or [low, high] where that is not symmetric, to two leading digits."""
    if value.half_width is None or value.low is None or value.high is None:
        return plain(value.mean)
    if value.half_width == 0:
        return f"{exact(value.mean)}{PM}0"
    if value.scale == "linear":
        decimals = max(0, 1 - _exponent(value.half_width))
        return f"{fixed(value.mean, decimals)}{PM}{fixed(value.half_width, decimals)}"
    decimals = max(0, 1 - _exponent(min(value.bars)))
    ends = ", ".join(fixed(end, decimals).replace(",", "") for end in (value.low, value.high))
    return f"{fixed(value.mean, decimals)}\N{NO-BREAK SPACE}[{ends}]".replace(", ", ",\N{NO-BREAK SPACE}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Write a Markdown table: words and the first `left` columns left, numbers right; empty without rows."""
    body = [list(row) for row in rows]
    if not body:
        return ""
    columns = list(zip(*body, strict=True))
    worded = [i < left or any(cell.lstrip("*`")[:1].isalpha() for cell in c) for i, c in enumerate(columns)]
    rule = [":--" if is_text else "--:" for is_text in worded]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def words(items: Sequence[str], joint: str = "and") -> str:
    """Join words as `a, b and c`."""
    return f" {joint} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0


def _signed(digits: str) -> str:
    shown = digits.replace("inf", "∞")  # a ratio of a stranger's numbers may overflow
    return shown.replace("-", "−", 1) if shown.startswith("-") else shown
