"""Runs of others beside an experiment's own: joined.json names them and what they are, nothing is copied in.

Own runs and own names come first. A run that is planned already is that run; one whose settings have a name
here is another seed of that variant; any other gets its own name, or where that is taken one with its origin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench.store.shapes import Source

JOINED = "joined.json"
ABOUT = ("name", "label", "axes", "document", "published", "note")  # of a variant, no part of what it does


def same(settings: Mapping[str, Any]) -> str:
    """Give text that two variants have in common if and only if they do the same."""
    return json.dumps({k: v for k, v in settings.items() if k not in ABOUT}, sort_keys=True)


def merged(spec: Mapping[str, Any], sources: Sequence[Source]) -> dict[str, Any]:
    """Add to an experiment the runs of others, under names that are clear here."""
    variants, planned = dict(spec["variants"]), dict(spec.get("planned") or {})
    own = [settings.get("axes") or {} for settings in variants.values()]
    titles = {str(title) for name, each in variants.items() for title in (name, each.get("label"))}
    names: dict[str, list[str]] = {}  # those of own variants that do the same
    for name, settings in variants.items():
        names.setdefault(same(settings), []).append(name)
    keys = {plan["run"] for plan in planned.values()}
    for source in sources:
        for plan in source["planned"].values():
            settings = source["variants"].get(plan["variant"])
            if settings is None or plan["run"] in keys:
                continue
            keys.add(plan["run"])
            if same(settings) not in names:
                name = _free(plan["variant"], source["name"], variants)
                label, axes = settings.get("label") or name, settings.get("axes") or {}
                # A place in the matrix only where it has the axes of this one, and nobody is there
                fits = axes not in own and any(axes.keys() == there.keys() for there in own)
                variants[name] = {
                    **settings,
                    "name": name,
                    "label": name if label in titles else label,
                    "axes": axes if fits else {},
                }
                own.append(axes)
                titles |= {name, variants[name]["label"]}
                names[same(settings)] = [name]
            for name in names[same(settings)]:
                run_id = f"{name}-s{plan['seed']}-{plan['run'][:8]}"
                planned[run_id] = {"variant": name, "seed": plan["seed"], "run": plan["run"]}
    seeds = [*(spec.get("seeds") or ()), *(plan["seed"] for plan in planned.values())]
    return {**spec, "variants": variants, "planned": planned, "seeds": list(dict.fromkeys(seeds))}


def _free(name: str, origin: str, taken: Mapping[str, Any]) -> str:
    """Find a name that no variant has here: its own, or one that says where it comes from."""
    mark = re.sub("[^a-z0-9]+", "-", origin.lower())[:30].strip("-") or "joined"
    candidates = [name, f"{name[: 79 - len(mark)]}-{mark}"]
    number = 2
    while candidates[-1] in taken:
        candidates.append(f"{candidates[1][:74]}-{number}")
        number += 1
    return next(each for each in candidates if each not in taken)
