"""The settings in which two stored runs or variants differ, for people."""

from __future__ import annotations

from collections.abc import Mapping


def changes(a: Mapping[str, object], b: Mapping[str, object], prefix: str = "") -> list[str]:
    """List the settings that differ, as `objective.beta: 1 → 0.1`, options named after their part."""
    found = []
    for key in sorted({*a, *b}):
        old, new = a.get(key), b.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            here = prefix if key == "options" else f"{prefix}{key}."
            found += changes(old, new, here)
        elif old != new:
            found.append(f"{prefix}{key}: {_shown(old)} → {_shown(new)}".replace(".name:", ":"))
    return found


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)
