"""What commands print of a plan: every run with its state, and when all of them should be done."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from bench.errors import printable

if TYPE_CHECKING:
    from bench.runs.order import Prediction
    from bench.runs.plan import Plan

FASTER, SLOWER = 0.8, 1.2  # of fp32's time: what bf16 is offered for, and warned of


def print_plan(plan: Plan, foreseen: Prediction, *, every_run: bool) -> None:
    """Print the plan: on stdout with every run where it is the result, else a summary on stderr."""
    from bench.runs.executor import worker_count
    from bench.store.times import duration

    stream = sys.stdout if every_run else sys.stderr
    for warning in plan.warnings:
        print(f"\n*** {printable(warning)} ***\n", file=sys.stderr)
    experiment = plan.experiment
    lines = [
        experiment.question,
        f"matrix   {len(experiment.variants)} variants × {len(experiment.seeds)} seeds, "
        f"{len(plan.todo)} runs to do",
        f"device   {plan.device}, {worker_count(plan)} at a time",
        f"data     {plan.data.name} ({plan.data.source}), {len(plan.data.train_images)} train, "
        f"{len(plan.data.test_images)} test images, digest {plan.data.digest[:12]}",
        f"report   {plan.folder / 'report.md'}",
        *times(plan, foreseen),
        *precision(plan),
    ]
    print("\n".join(lines), file=stream)
    if every_run:
        for planned in plan.runs:
            known = planned.id in foreseen.seconds
            time = f"{duration(foreseen.seconds[planned.id]):>7}" if known else "      –"
            print(f"{'run ' if planned.todo else 'skip'} {time}  {planned.id}  {printable(planned.why)}")


def times(plan: Plan, foreseen: Prediction) -> Iterator[str]:
    """Say how long it should take, and where there are several rounds of seeds, when the first will stand."""
    from bench.store.times import duration

    if not plan.todo:
        yield "time     none: everything is done"
        return
    about = "at most" if any(planned.run.patience for planned in plan.todo) else "about"
    line = f"time     {about} {duration(foreseen.total)}, start and report included"
    if len(foreseen.rounds) > 1:
        seed, end = next(iter(foreseen.rounds.items()))
        line += f"; every variant has seed {seed} after {duration(end)}"
    yield line
    if hours := plan.request.hours:
        seconds = 3600 * hours - foreseen.report
        within = [seed for seed, end in foreseen.rounds.items() if end <= seconds]
        fit = f"seeds {', '.join(map(str, within))} fit" if within else "not one round of seeds fits"
        fit = "everything fits" if len(within) == len(foreseen.rounds) else fit
        yield f"budget   {hours:g} h: {fit}" + (
            "" if within else "; the first is begun, and can be gone on with"
        )


def precision(plan: Plan) -> Iterator[str]:
    """Offer bf16 to a matrix in fp32 that it trains faster here, and warn of it where it is slower."""
    from bench.runs.forecast import bf16_shares

    runs = [planned.run for planned in plan.todo]
    shares = bf16_shares(runs, plan.data, plan.device)
    half = {run.variant for run in runs if run.precision == "bf16"}
    gain = {variant: share for variant, share in shares.items() if share < FASTER}
    loss = {variant: share for variant, share in shares.items() if share > SLOWER and variant in half}
    if gain and not half:
        yield (
            f"bf16     --precision bf16 would cut a step to {min(gain.values()):.0%} of its time "
            f"({_some(gain)}); docs/performance.md says how much it changes"
        )
    if loss:
        yield (
            f"bf16     slower than fp32 here, a step takes {max(loss.values()):.1f} times as long "
            f"({_some(loss)}): this processor has no fast instructions for it; --precision fp32 goes without"
        )


def _some(names: Collection[str]) -> str:
    """Name three variants at most, and count the others."""
    first, more = ", ".join(list(names)[:3]), len(names) - 3
    return f"{first} and {more} others" if more > 1 else ", ".join(names)
