"""Targets drawn black or white: in expectation the grey, as often as asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from factory import a_dataset, a_run, bytes_of, normal, part, train_one

from bench.engine.device import stream
from bench.engine.drawn import Draws, as_shown, draw, fixed_draw
from bench.engine.images import Images, untrained
from bench.engine.loop import make_step
from bench.engine.own import own_noise, own_terms
from bench.engine.stacked import stack
from bench.parts.lookup import objective_of
from bench.spec.experiment import Run

DATA = a_dataset(train=60, test=40)
IMAGES = Images(DATA.train_images.flatten(1), DATA.test_images.flatten(1))
SHAPE = (28, 28)


def drawn_run(resample: str = "batch", **changes: Any) -> Run:
    """A run whose target is drawn, and its input with it unless said."""
    return a_run(**{"input": "target", "target": part("bernoulli", resample=resample)} | changes)


def test_a_draw_is_black_or_white_and_its_expectation_the_grey() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    found = draw(grey.repeat(5_000, 1), stream(0, "test"))
    assert {*found.unique().tolist()} == {0, 255}
    torch.testing.assert_close(found.float().mean(0), grey.float(), atol=10.0, rtol=0)
    assert not found[:, 0].any(), "black stays black"
    assert found[:, 255].all(), "and white white"


def test_never_repeats_and_an_epoch_changes_with_its_number() -> None:
    images, index = bytes_of(30), torch.arange(30)

    def epochs(resample: str, seed: int = 0) -> list[torch.Tensor]:
        draws, found = Draws(resample, seed, images), []
        for epoch in (1, 2):
            draws.begin(epoch)
            found.append(draws.of(index))
        return found

    first, second = epochs("never")
    assert torch.equal(first, second)
    assert not torch.equal(first, epochs("never", seed=1)[0])
    for resample in ("epoch", "batch"):
        first, second = epochs(resample)
        assert not torch.equal(first, second)
        again = Draws(resample, 0, images)
        again.begin(2)
        assert torch.equal(again.of(index), second), "whatever epochs came before"
    # Within an epoch an image has one draw, or one each time that it is shown
    for resample, same in (("epoch", True), ("batch", False)):
        draws = Draws(resample, 0, images)
        draws.begin(1)
        assert torch.equal(draws.of(index), draws.of(index)) == same


@pytest.mark.parametrize("tied", [True, False])
def test_the_encoder_is_shown_the_draw_of_the_target_or_the_grey(tied: bool) -> None:
    model = untrained(drawn_run(input="target" if tied else "grey"), SHAPE)
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[operator]
    grey = bytes_of(5).float() / 255
    drawn = draw(bytes_of(5), stream(0, "test")).float() / 255
    terms = model(grey, normal(1, 5, 3), drawn)
    assert torch.equal(terms.target, drawn)
    assert torch.equal(seen[0], drawn if tied else grey)
    assert torch.equal(as_shown(model, bytes_of(5)), fixed_draw(model, bytes_of(5)) if tied else bytes_of(5))


def test_faster_engines_refuse_a_drawn_target() -> None:
    run = drawn_run()
    model = untrained(run, SHAPE)
    assert make_step(run, model).note == "reference: input Drawn has no written-out gradient"
    with pytest.raises(TypeError, match="Drawn has no stacked form"):
        stack([model], objective_of(run))


def test_every_epoch_and_seed_is_judged_on_one_draw() -> None:
    run = drawn_run(optimizer=part("sgd", lr=1e-30))
    training = train_one(run, model := untrained(run, SHAPE), IMAGES)
    first, second = (row["test_loss"] for row in training.curves)
    assert first == second
    assert training.curves[0]["train_loss"] != training.curves[1]["train_loss"], "other draws"
    drawn = draw(IMAGES.test, stream(0, "binarisation"))
    noise = own_noise(run, objective_of(run), len(drawn), drawn.device)
    by_hand = own_terms(model, objective_of(run), drawn, noise, run.batch_size)
    assert by_hand.test_loss == pytest.approx(first, rel=1e-6), "an image that is drawn already stays"


def test_the_input_may_be_any_target() -> None:
    """`input: target` of a target that is not drawn is that transformation, by the fast step, too."""
    runs = [a_run(input=shown, target="normalised", likelihood=part("gaussian", mean="linear"))
            for shown in ("target", "normalised")]  # fmt: skip
    steps = [make_step(run, untrained(run, SHAPE)) for run in runs]
    grey, noise = bytes_of(8).float() / 255, normal(1, 8, 3)
    a, b = (step(grey, noise) for step in steps)
    assert torch.equal(a, b)
    assert {step.engine for step in steps} == {"fast"}
