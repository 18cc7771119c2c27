"""Patience: training ends where validation images say so, and the model of their best epoch is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from factory import SHAPE, a_dataset, a_run, part, train_one
from test_checkpoint import CPU, check_same, every_epoch, trained
from test_groups import jobs_of, shared

from bench.engine.images import divide, untrained
from bench.engine.loop import Row, Training, train
from bench.errors import BenchError
from bench.parts.vae import VAE
from bench.runs.execute import SharedContext, execute
from bench.spec.experiment import Run
from bench.spec.resolve import load
from bench.verify.runs import laws

__all__ = ["every_epoch", "shared"]  # fixtures; the first gives each epoch its checkpoint
DATA = a_dataset()
# A few images, learned by heart: soon the loss on others grows
STOPS: dict[str, Any] = {
    "validation": 12_000, "epochs": 40, "patience": 2, "batch_size": 32, "optimizer": part("adam", lr=0.1),
}  # fmt: skip


def test_setting_it_takes_validation_images_and_leaves_all_other_runs_as_they_are(tmp_path: Path) -> None:
    def variant(said: str) -> Run:
        text = f"question: Why?\nvariants:\n  a: {{encoder: conv-bn, decoder: conv-bn, latent: 2{said}}}\n"
        (tmp_path / "a.yaml").write_text(text)
        return load(tmp_path / "a.yaml").variants["a"].run(0)

    assert "patience" not in variant(", validation: 5").model_dump()
    same = [variant(f", validation: 5{said}").key("digest") for said in ("", ", patience: 0")]
    assert same[0] == same[1] != variant(", validation: 5, patience: 7").key("digest")
    with pytest.raises(
        BenchError, match=r"a\.yaml:3:64: variant a: patience 7 without .* `validation: 5000`"
    ):
        variant(", patience: 7")


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous-bernoulli"], ids=["fast", "reference"])
def test_it_is_training_for_as_many_epochs_as_were_best(likelihood: str) -> None:
    run = a_run(**STOPS, likelihood=likelihood)
    ended, states = trained(run)
    best, last = ended.chosen, len(ended.curves)
    held_out = [row["validation_loss"] for row in ended.curves]
    assert held_out[best - 1] == min(held_out)
    assert last == best + 2 < 40
    for epochs, weights in ((best, ended.weights), (last, states[-1].model)):
        plain, _ = trained(run.model_copy(update={"patience": 0, "epochs": epochs}))
        check_same(Training("", curves=ended.curves[:epochs], weights=weights), plain)
    short, _ = trained(run.model_copy(update={"epochs": best + 1}))  # its epochs end before its patience
    assert (short.chosen, len(short.curves)) == (best, best + 1)


def test_it_goes_on_to_the_same_bits_from_every_epoch(tmp_path: Path) -> None:
    run = a_run(**STOPS)
    whole, states = trained(run, folder=tmp_path)
    assert states[-1].epoch == len(whole.curves) > whole.chosen
    for state in states:
        model = untrained(run, SHAPE)
        rest = train_one(run, model, divide(run, DATA, CPU)[0], start=state)
        check_same(rest, whole)
        assert rest.chosen == whole.chosen
        assert all(torch.equal(value, whole.weights[name]) for name, value in model.state_dict().items())


def test_each_of_a_group_ends_where_it_would_alone() -> None:
    runs = [a_run(**STOPS, seed=seed) for seed in (0, 1, 2)]
    images = [divide(run, DATA, CPU)[0] for run in runs]

    def together(**changes: Any) -> tuple[list[Training], list[VAE], list[int]]:
        models, told = [untrained(run, SHAPE) for run in runs], [0] * len(runs)

        def tell(r: int, row: Row, model: VAE) -> None:
            told[r] += 1

        group = [run.model_copy(update=changes) for run in runs]
        return train(group, models, images, tell, stacked=True), models, told

    ended, models, told = together()
    assert len(set(told)) > 1
    for r, (run, training) in enumerate(zip(runs, ended, strict=True)):
        alone, _ = trained(run)
        assert training.chosen == alone.chosen
        assert told[r] == len(training.curves) == len(alone.curves)
        plain = together(patience=0, epochs=training.chosen)[0][r]
        check_same(Training("", curves=training.curves[: training.chosen], weights=training.weights), plain)
        assert all(torch.equal(v, training.weights[k]) for k, v in models[r].state_dict().items())


def test_the_record_says_what_was_chosen_and_measures_it(tmp_path: Path, shared: SharedContext) -> None:
    [job] = jobs_of(tmp_path, [0], **STOPS)
    told: list[tuple[str, Any]] = []
    record = execute(job, shared, lambda *event: told.append(event))
    chosen = record["chosen"]["epoch"]
    assert record["status"] == "finished"
    assert record["chosen"] == {"epoch": chosen, "ended": "no lower validation loss in 2 epochs"}
    assert len(record["curves"]) == chosen + 2
    for place, value, _, due, tolerance in laws(record, job.run):  # own terms are those of the epoch chosen
        assert value == pytest.approx(due, rel=tolerance, abs=tolerance), place
    assert {("samples", chosen), ("reconstructions", chosen)} < {
        (data["key"], data["step"]) for kind, data in told if kind == "image"
    }


def test_a_run_that_diverges_keeps_its_best() -> None:
    steep = {"optimizer": part("sgd", lr=1e-4), "schedule": part("step", every=1, gamma=1e9)}
    run = a_run(**STOPS | steep, likelihood=part("gaussian", mean="linear"))
    lost, _ = trained(run)
    assert lost.diverged
    assert lost.chosen <= len(lost.curves) == lost.diverged.epoch - 1
    best, _ = trained(run.model_copy(update={"patience": 0, "epochs": lost.chosen}))
    check_same(Training("", curves=lost.curves[: lost.chosen], weights=lost.weights), best)
