"""What a verification has found so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bench.errors import printable

KINDS = ("numbers", "pictures", "records", "identities", "laws", "artifacts", "measurements")
SHOWN = 80  # characters of a text that a line quotes


@dataclass
class Findings:
    """What was checked, counted by kind; what differs and what could not be checked, a line each."""

    counts: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    source: str = "the records give"

    def check(self, kind: str, agrees: bool, line: str) -> bool:
        """Count one check, and keep its line if it fails; whether it agrees."""
        self.counts[kind] += 1
        if not agrees:
            self.differences.append(printable(line))
        return agrees

    def compare(self, kind: str, agrees: bool, place: str, found: object, due: object) -> bool:
        """`check` of something that stands at a place against what is due there."""
        line = f"{place}: found {quoted(found)}, {self.source} {quoted(due)}"
        return self.check(kind, agrees, line)

    def present(self, kind: str, place: str, *, found: bool, due: bool) -> bool:
        """`check` that something is there if and only if it is due; whether it is both."""
        self.check(kind, found == due, f"{place}: " + ("missing" if due else f"{self.source} none"))
        return found and due

    def lines(self) -> list[str]:
        """The differences, what was not checked, and how much was."""
        counts = {kind: self.counts[kind] for kind in KINDS if self.counts[kind]}
        told = ", ".join(f"{n:,} {kind if n > 1 else kind[:-1]}" for kind, n in counts.items())
        many = len(self.differences)
        end = f"{many:,} difference{'s' * (many > 1)}" if many else "all agree"
        return [
            *self.differences,
            *(f"not checked: {line}" for line in self.unchecked),
            f"checked {told}: {end}",
        ]


def quoted(value: object) -> str:
    """A value within a line: numbers as they are, text in quotes and cut short, `nothing` for none."""
    if value is None or value == "":
        return "nothing"
    if not isinstance(value, str):
        return repr(value)
    line = " ".join("".join(c if c.isprintable() else " " for c in value).split(" "))
    return f'"{line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"}"'
