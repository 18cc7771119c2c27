"""What a user is told when input cannot be used: one line, exit 2, never a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

WORD = 100  # characters of a name that are compared and shown
LISTED = 40  # names that an error lists

# user:password@ of a URI, the password with whatever it holds; what follows the colon is no port;
# a path has lost one of the slashes
_LOGIN = re.compile(r"(?<=:/)(/?)(?:[^/\s@:]*:(?!\d+(?:[/?#\s]|$))\S*|[^/\s]*)@")
_TOKEN = re.compile(r"(?i)([?&][^=&\s]*(?:password|pwd|token|secret|key)[^=&\s]*=)[^&\s'\"]+")


class BenchError(Exception):
    """Bad input: says what was given, where, what is allowed and what to do."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """End an 'unknown name' message: with the nearest known name, then the known ones."""
    names = sorted(known)
    if not names:
        return "; none is known here"
    # Comparing costs the product of the lengths, and nobody misspells more than a word
    words = [name for name in names if len(name) <= WORD] if len(given) <= WORD else []
    near = difflib.get_close_matches(given, words, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(printable(name[:WORD]) for name in names[:LISTED])
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{hint} Known: {shown}{more}" if hint else f"; known: {shown}{more}"


def printable(text: str) -> str:
    """Text with everything that could break a line of output escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def redacted(text: str) -> str:
    """`text` with the user, password and tokens of every URI in it replaced by ***."""
    text = _LOGIN.sub(r"\1***@", text)
    return _TOKEN.sub(r"\1***", text)
