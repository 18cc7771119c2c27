"""What a user is told when input cannot be used: one line, exit 2, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Bad input: says what was given, where, what is allowed and what to do."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The tail of an 'unknown name' message: the nearest known name, then the whole list."""
    names = sorted(known)
    if not names:
        return "; none is known here"
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} Known: {', '.join(names)}" if hint else f"; known: {', '.join(names)}"


def printable(text: str) -> str:
    """Text with everything that could break a line of output escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
