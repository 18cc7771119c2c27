"""Plots of the latent space: each shows what it says, in equal bytes for equal numbers."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from factory import normal
from PIL import Image
from torch import Tensor

from bench.evaluation.latent import active_units
from bench.parts.posteriors import Q
from bench.pictures import plots

LABELS = torch.arange(60) % 10


def posterior(mean: Tensor) -> Q:
    return Q(mean, torch.ones_like(mean), torch.zeros_like(mean))


def png(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("latent", [1, 2, 32])
def test_the_latent_space_is_drawn_whatever_its_size(latent: int) -> None:
    first, again, other = (plots.latent(normal(60, latent, seed=seed), LABELS) for seed in (0, 0, 1))
    assert min(first.size) >= 500
    assert png(first) == png(again) != png(other)


@pytest.mark.parametrize("classes", [1, 23])
def test_any_number_of_classes_is_drawn(classes: int) -> None:
    for latent in (1, 3):
        assert min(plots.latent(normal(60, latent), torch.arange(60) % classes).size) >= 500


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_without_labels_all_points_are_one_colour_and_no_class_is_named(latent: int) -> None:
    mean = normal(60, latent)
    plain = plots.latent(mean, None)
    shown = np.asarray(plain.convert("RGB")).astype(int)
    coloured = np.ptp(shown, axis=-1) > 60
    assert coloured.sum() > 100
    assert (shown[coloured].argmax(-1) == 2).all()  # blue
    assert png(plain) != png(plots.latent(mean, torch.zeros(60)))  # which has a legend, or a tick
    assert (plots.tsne(mean, None) is None) == (latent < 3)


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_a_collapsed_latent_space_is_drawn_without_a_warning(latent: int) -> None:
    assert plots.latent(torch.zeros(60, latent), LABELS).size
    assert plots.tsne(torch.zeros(60, latent), LABELS) is None
    assert plots.kl(torch.zeros(60, latent), torch.zeros(60, latent)).size


def test_every_digit_has_its_own_look_and_every_colour_survives() -> None:
    assert len(set(zip(plots.COLOURS, plots.MARKERS, strict=True))) == 10
    assert len(set(plots.MARKERS)) == 10
    shown = np.asarray(plots.latent(normal(600, 1), torch.arange(600) % 10).convert("RGB")).astype(int)
    for colour in set(plots.COLOURS):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(shown - wanted).max(-1) <= 16).sum() > 100


def test_no_more_points_than_are_legible_evenly_chosen() -> None:
    mean, labels = torch.arange(10_000.0).view(-1, 1), torch.arange(10_000) % 10
    points, digits = plots._chosen(mean, labels)
    assert len(points) == len(digits) == plots.POINTS
    assert (points[0], points[-1]) == (0, 9999)
    assert set(np.diff(points[:, 0])) <= {4.0, 5.0, 6.0}


def test_tsne_is_repeatable_and_needs_more_than_two_latents() -> None:
    mean = 30 * torch.nn.functional.one_hot(LABELS, 10).float() + normal(60, 10)
    first, again = plots.tsne(mean, LABELS), plots.tsne(mean, LABELS)
    assert first is not None
    assert again is not None
    assert png(first) == png(again)
    assert plots.tsne(normal(60, 2), LABELS) is None


def test_kl_counts_what_the_metric_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    q = posterior(normal(500, 8) * torch.tensor([2.0, 1, 0.5, 0.2, 0.05, 0.01, 0.001, 0]))
    titles: list[str] = []
    render = plots._rendered

    def seen(figure):  # type: ignore[no-untyped-def]
        above, below = figure.axes
        titles.append(above.get_title(loc="left"))
        heights = [bar.get_height() for bar in above.patches]
        assert heights == sorted(heights, reverse=True)
        assert sum(heights) == pytest.approx(float(q.kl().sum(-1).mean()), rel=1e-5)
        assert below.get_yscale() == "log"
        return render(figure)

    monkeypatch.setattr(plots, "_rendered", seen)
    plots.kl(q.kl(), q.mean)
    assert titles[0].endswith(f"{active_units(q)} of 8 latents active")
