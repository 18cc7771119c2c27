"""The parts of a user's own that the documentation shows train through the reference step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_groups import shared

from bench.runs.execute import Job, SharedContext, execute, execute_group
from bench.spec.resolve import load

__all__ = ["shared"]  # a fixture
ROOT = Path(__file__).parents[1]
PAGES = ("docs/yaml.md", "docs/engine.md", "README.md")
SPEC = """
question: Does a part of one's own train?
dataset: digits
seeds: [0, 1]
evaluation: {importance_samples: 5}
defaults: {decoder: {name: mlp, hidden: [9]}, latent: 3, epochs: 2, batch_size: 16}
variants:
  encoder: {encoder: {file: parts.py, name: Narrow, width: 7}}
  network: {encoder: {file: parts.py, name: Dropped, width: 7}}
  objective: {encoder: {name: mlp, hidden: [9]}, objective: {file: parts.py, name: WarmUp, images: 100}}
"""


@pytest.fixture
def runs(tmp_path: Path) -> Any:
    """The runs of SPEC, beside a file with the classes of all pages."""
    shown = [re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[0] for page in PAGES]
    (tmp_path / "parts.py").write_text("\n\n".join(shown))
    (tmp_path / "own.yaml").write_text(SPEC)
    return load(tmp_path / "own.yaml").variants


@pytest.mark.parametrize(
    ("variant", "told"), [("encoder", "Narrow"), ("network", "Dropped"), ("objective", "WarmUp")]
)
def test_a_part_from_a_file_trains(
    variant: str, told: str, runs: Any, tmp_path: Path, shared: SharedContext
) -> None:
    kind = "objective" if variant == "objective" else "encoder"
    jobs = [Job(f"s{seed}", runs[variant].run(seed), tmp_path / f"s{seed}", {}) for seed in (0, 1)]
    record = execute(jobs[0], shared, lambda *_: None)
    assert record["status"] == "finished", record.get("traceback")
    assert record["environment"]["engine"] == "reference"
    note = f"reference: {kind} {told} has no written-out gradient"
    assert record["environment"]["engine_note"] == note
    first, last = record["curves"]
    assert last["elbo"] > first["elbo"]
    # What an objective does not say of itself is absent
    says = kind == "encoder"
    assert (record["beta_eff"] is not None) == (last["train_loss_nats"] is not None) == says
    assert ("test_loss_nats" in record["metrics"]) == says
    assert record["metrics"]["test_loss"] == pytest.approx(last["test_loss"])
    # Nor is it stacked: the seeds are trained one by one
    for grouped in execute_group(jobs, shared, lambda *_: None) if kind == "objective" else ():
        assert grouped["status"] == "finished"
        assert grouped["environment"]["engine_note"].startswith(
            f"not stacked: TypeError: {kind} {told} has no"
        )
