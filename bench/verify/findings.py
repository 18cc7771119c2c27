"""Collect what a verification finds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bench.errors import printable

KINDS = ("numbers", "pictures", "records", "identities", "laws", "artifacts", "measurements")
SHOWN = 80  # characters of a text that a line quotes


@dataclass
class Findings:
    """Count checks by kind; keep a line for each that failed and for what could not be checked."""

    counts: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def check(self, kind: str, agrees: bool, line: str) -> bool:
        """Count one check, and keep its line if it fails; returns whether it agrees."""
        self.counts[kind] += 1
        if not agrees:
            self.differences.append(printable(line))
        return agrees

    def compare(
        self, kind: str, place: str, found: object, due: object, source: str = "the records give"
    ) -> None:
        """Check that what stands at a place equals what a source gives."""
        self.check(kind, found == due, f"{place}: found {quoted(found)}, {source} {quoted(due)}")

    def present(self, kind: str, place: str, *, found: bool, due: bool) -> bool:
        """Check that something is there if and only if it is due; returns whether it is both."""
        self.check(kind, found == due, f"{place}: " + ("missing" if due else "the records give none"))
        return found and due

    def lines(self) -> list[str]:
        """List the differences, then what was not checked, then how much was."""
        counts = {kind: self.counts[kind] for kind in KINDS if self.counts[kind]}
        told = ", ".join(f"{n:,} {kind if n > 1 else kind[:-1]}" for kind, n in counts.items())
        many = len(self.differences)
        end = f"{many:,} difference{'s' * (many > 1)}" if many else "all agree"
        unchecked = (f"not checked: {line}" for line in self.unchecked)
        return [*self.differences, *unchecked, f"checked {told}: {end}"]


def quoted(value: object) -> str:
    """Show a value within a line: text in quotes and cut short, `nothing` for none, else as it is."""
    if value is None or value == "":
        return "nothing"
    if not isinstance(value, str):
        return repr(value)
    line = "".join(c if c.isprintable() else " " for c in value)
    return f'"{line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"}"'
