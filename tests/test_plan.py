"""Which runs are to be done, and why: what is finished stays, what changed is told."""

from __future__ import annotations

from typing import Any

import pytest
from factory import a_run, part

from bench.runs.plan import _state
from bench.store.records import Record

ID = "small-s0-00000000"


def kept(status: str, run_id: str = ID, reason: str | None = None, **changes: Any) -> dict[str, Record]:
    """A record of the run, or of what it was before it changed."""
    run = a_run(**changes)
    return {
        run_id: {"id": run_id, "variant": run.variant, "seed": run.seed, "status": status, "reason": reason,
                 "run": run.model_dump(mode="json")}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "todo", "why"),
    [
        (kept("finished"), False, "finished"),
        (kept("diverged", reason="kl became infinite"), False, "diverged: kl became infinite"),
        (kept("failed", reason="out of memory"), True, "failed before: out of memory"),
        (kept("interrupted", reason="Ctrl-C"), True, "interrupted before: Ctrl-C"),
        ({}, True, "never run"),
        (kept("finished", "old", batch_size=9), True, "changed: batch_size 9 → 8"),
        (
            kept("finished", "old", optimizer=part("adam", lr=0.5)),
            True,
            "changed: optimizer.options.lr 0.5 → None",
        ),
        (kept("finished", "old"), True, "another version of the data or of bench ran before"),
        (kept("finished", "old", seed=1), True, "never run"),
    ],
)
def test_a_run_is_done_where_its_identity_is_not_and_says_why(
    found: dict[str, Record], todo: bool, why: str
) -> None:
    assert _state(a_run(), ID, found, fresh=False) == (todo, why)


def test_what_is_finished_is_done_again_where_that_is_asked_for() -> None:
    assert _state(a_run(), ID, kept("finished"), fresh=True) == (True, "asked for by --fresh")
