"""Where the better of two settings turns with the setting of all else: told in place of an average."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from bench.report.cells import code, text, words
from bench.report.contrasts import Contrast, winner
from bench.report.statistics import rejected
from bench.report.wording import by

FEW = 3  # settings that are named one by one


def turns(found: Sequence[Contrast], a: str, b: str) -> str:
    """In words, for metrics on which the better of two settings turns.

    It turns with another axis where all settings of one value agree, and those of another value on the
    opposite; otherwise the settings are counted. Holm over the settings, or the values, of each metric.
    """
    with_axis: dict[str, list[str]] = {}
    counted = []
    for c in found:
        axis, told = next(((axis, told) for axis in _axes(c) if (told := _with(c, axis, a, b))), ("", ""))
        if axis:
            with_axis.setdefault(axis, []).append(told)
        else:
            counted.append(_count(c, a, b))
    parts = [f"It turns with {code(axis)}: {'; '.join(told)}." for axis, told in with_axis.items()]
    return " ".join([*parts, *([f"It turns with the setting: {'; '.join(counted)}."] if counted else [])])


def _axes(c: Contrast) -> list[str]:
    return list(dict.fromkeys(axis for setting in c.settings for axis, _ in _pairs(setting)))


def _pairs(setting: Hashable) -> tuple[tuple[str, str], ...]:
    """The axes and values of a setting; nothing for one that is not made of axes."""
    return setting if isinstance(setting, tuple) else ()


def _with(c: Contrast, axis: str, a: str, b: str) -> str:
    """At which values of another axis either side is better, by how much; empty where that turns nothing."""
    values = list(dict.fromkeys(dict(_pairs(setting))[axis] for setting in c.settings))
    at = {value: c.at(axis, value) for value in values}
    effects = {value: part.effect(a, b) for value, part in at.items()}
    sure = rejected([effect.p if effect else None for effect in effects.values()])
    ahead: dict[str, list[str]] = {a: [], b: []}
    for (value, effect), certain in zip(effects.items(), sure, strict=True):
        if effect is None or len({e.value > 0 for e in at[value].effects(a, b)}) > 1:
            return ""
        if certain:
            ahead[winner(effect, c.metric, a, b)].append(f"at {code(value)} by {by(effect, c.metric)}")
    if not all(ahead.values()):
        return ""
    sides = [f"{code(level)} is better {words(places)}" for level, places in ahead.items()]
    return f"on *{text(c.metric.title)}* {', '.join(sides)}"


def _count(c: Contrast, a: str, b: str) -> str:
    """In how many settings either is better, significantly in how many, and in which where they are few."""
    effects = c.effects(a, b)
    sure = rejected([effect.p for effect in effects])
    told = []
    for level in (a, b):
        places = [i for i, effect in enumerate(effects) if winner(effect, c.metric, a, b) == level]
        names = [code(" · ".join(value for _, value in _pairs(c.settings[i]))) for i in places]
        where = f": {words(names)}" if all(names) and 0 < len(names) <= FEW else ""
        told.append(
            f"{code(level)} is better in {len(places)} ({sum(sure[i] for i in places)} significantly{where})"
        )
    return f"on *{text(c.metric.title)}*, of {len(effects)} settings, {' and '.join(told)}"
