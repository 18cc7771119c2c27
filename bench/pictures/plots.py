"""Plots of a run's latent space: where test images lie in it, and how much each latent tells.

Equal numbers give equal bytes. Classes are told apart by colour and marker; without labels all is blue.

Shapes: N images, Z latents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image
from scipy.special import ndtr
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from bench.evaluation.latent import ACTIVE
from bench.pictures.shown import POINTS

Array = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int64]
ROUNDS = 8  # a class's points are drawn in so many turns, so that none covers all the others
BARS = 48  # of a histogram
# Okabe & Ito 2008; a colour that comes twice comes with markers that differ in every way
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D00", "#0072B2",
           "#D55E00")  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "+", "x")
GREY, BLUE, RED = "#555555", "#0072B2", "#D55E00"
STYLE = {
    "font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 8, "axes.titlelocation": "left", "axes.titleweight": "bold",
}  # fmt: skip


def latent(mean: Tensor, labels: Tensor | None, *, standard: bool = True) -> Image.Image:
    """Plot where the posterior means [N, Z] of test images lie, by label [N] if there are labels.

    Two latents as they are, with the circle that holds 95 % of the prior; one as a histogram a class; more by
    their first two principal components. Of another prior than the `standard` one none is drawn.
    """
    points, classes = _chosen(mean, labels)
    with style.context(STYLE, after_reset=True):
        if points.shape[1] == 1:
            return _histograms(points[:, 0], classes, labels is not None, standard=standard)
        title = f"Posterior means of {len(points):,} test images"
        if points.shape[1] == 2:
            figure, axes = _scatter(points, classes, title, labels is not None)
            if standard:
                axes.add_patch(Circle((0, 0), 2.4477, fill=False, ls="--", lw=0.9, color=GREY))
                axes.plot([], [], ls="--", lw=0.9, color=GREY, label="95 % of\nthe prior")
            axes.set_xlabel("$z_1$")
            axes.set_ylabel("$z_2$")
        else:
            pca = PCA(2, svd_solver="full")
            same = not points.std(0).any()  # collapsed: no direction is a principal one
            flat = points[:, :2] if same else pca.fit_transform(points)
            share = (0.0, 0.0) if same else 100 * pca.explained_variance_ratio_
            title = f"{title}: PCA of {points.shape[1]} latents"
            figure, axes = _scatter(flat, classes, title, labels is not None)
            axes.set_xlabel(f"first principal component ({share[0]:.0f} % of the variance)")
            axes.set_ylabel(f"second ({share[1]:.0f} %)")
        _legend(axes)
        return _rendered(figure)


def tsne(mean: Tensor, labels: Tensor | None) -> Image.Image | None:
    """Plot neighbours among posterior means [N, Z], by label [N] if any (van der Maaten & Hinton 2008).

    Gives None where there are no neighbours to show: two latents or fewer, or means that are all the same.
    """
    points, classes = _chosen(mean, labels)
    if points.shape[1] < 3 or len(points) < 4 or not points.std(0).max() > 1e-6:
        return None
    perplexity = min(30.0, (len(points) - 1) / 3)
    flat = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
    with style.context(STYLE, after_reset=True):
        title = f"t-SNE of posterior means, {len(points):,} test images"
        figure, axes = _scatter(flat, classes, title, labels is not None)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("neighbours mean something; axes and gaps between clusters do not", fontsize=7)
        _legend(axes)
        return _rendered(figure)


def kl(of_images: Tensor, mean: Tensor) -> Image.Image:
    """Plot the KL of each latent, largest first, over what makes it active: Var_x μ > 0.01.

    Of the KL and the posterior means of N images, [N, Z] each (Burda et al. 2016, section 5.2).
    """
    nats = of_images.double().mean(0).cpu().numpy()
    variance = mean.double().var(0).cpu().numpy() if len(mean) > 1 else np.zeros_like(nats)
    order = np.argsort(-nats, kind="stable")
    place = np.arange(1, len(nats) + 1)
    active = variance[order] > ACTIVE
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(4, 3.6), dpi=150)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        figure.subplots_adjust(left=0.17, right=0.98, top=0.92, bottom=0.12, hspace=0.12)
        look: dict[str, Any] = {"width": 0.8, "edgecolor": BLUE, "lw": 0.8}
        above.bar(place[active], nats[order][active], color=BLUE, **look)
        above.bar(place[~active], nats[order][~active], color="white", hatch="////", **look)
        above.set_ylabel("KL (nats/image)")
        above.set_title(f"{nats.sum():.1f} nats; {active.sum()} of {len(nats)} latents active")
        above.tick_params(bottom=False)
        seen = np.maximum(variance[order], 1e-6)
        below.plot(place[active], seen[active], "o", ms=4, color=BLUE)
        below.plot(place[~active], seen[~active], "o", ms=4, color=BLUE, mfc="white")
        below.axhline(ACTIVE, ls="--", lw=0.9, color=RED)
        below.set_yscale("log")
        below.set_ylim(min(1e-3, seen.min() / 2), max(2.0, seen.max() * 2))
        below.set_ylabel("variance of μ")
        below.set_xlabel(f"latents by KL; filled: active, variance of μ above {ACTIVE}")
        below.set_xlim(0.2, max(len(nats), 8) + 0.8)
        below.set_xticks(place if len(nats) <= 12 else [1, *range(5, len(nats) + 1, 5)])
        return _rendered(figure)


def _histograms(values: Array, classes: Classes, labelled: bool, *, standard: bool) -> Image.Image:
    """Plot one latent: a histogram a class, all on the same scale, over the prior's."""
    edge = max(3.0, float(np.abs(values).max()))
    bins = np.linspace(-edge, edge, BARS + 1)
    known = np.unique(classes)[::-1]
    shares = [np.histogram(values[classes == label], bins)[0] / (classes == label).sum() for label in known]
    tallest = max(share.max() for share in shares)
    figure = Figure(figsize=(4, 4), dpi=150)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.09, right=0.98, top=0.93, bottom=0.11)
    prior = np.minimum(0.92 * (ndtr(bins[1:]) - ndtr(bins[:-1])) / tallest, 0.92)
    for row, (label, share) in enumerate(zip(known, shares, strict=True)):
        colour = COLOURS[label % len(COLOURS)]
        axes.stairs(row + 0.92 * share / tallest, bins, baseline=row, fill=True, color=colour)
        if standard:
            axes.stairs(row + prior, bins, baseline=None, color=GREY, lw=0.6)
    axes.set_yticks(np.arange(len(known)) + 0.3, [str(label) if labelled else "" for label in known])
    axes.tick_params(left=False)
    axes.set_xlim(-edge, edge)
    axes.set_ylim(-0.05, len(known))
    axes.set_xlabel("$z$; the thin line is the prior" if standard else "$z$")
    axes.set_title(f"Posterior means of {len(values):,} test images{', by class' if labelled else ''}")
    return _rendered(figure)


def _scatter(points: Array, classes: Classes, title: str, labelled: bool) -> tuple[Figure, Any]:
    """Plot points [N, 2] by class, both axes on one scale, the classes taking turns."""
    figure = Figure(figsize=(4.6, 4), dpi=150)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.14, right=0.82, top=0.93, bottom=0.11)
    for turn in range(ROUNDS):
        for label in np.unique(classes):
            x, y = points[classes == label][turn::ROUNDS].T
            look: dict[str, Any] = {"marker": MARKERS[label % len(MARKERS)], "mew": 0.6}
            look |= {"color": COLOURS[label % len(COLOURS)], "ms": 2.8 if len(points) > 500 else 3.6}
            look |= {"mfc": "none"} if label % 2 else {}
            axes.plot(x, y, ls="", alpha=0.8, label="" if turn or not labelled else str(label), **look)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(title)
    return figure, axes


def _legend(axes: Any) -> None:
    if not axes.get_legend_handles_labels()[1]:  # no classes
        return
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, handletextpad=0.1, markerscale=1.6,
                handlelength=1.4)  # fmt: skip


def _chosen(mean: Tensor, labels: Tensor | None) -> tuple[Array, Classes]:
    """Choose at most POINTS of them, evenly spaced: the halves of MNIST's test set have different writers.

    Without labels all are of one class.
    """
    index = np.linspace(0, len(mean) - 1, min(len(mean), POINTS)).round().astype(int)
    classes = np.zeros(len(mean)) if labels is None else labels.cpu().numpy()
    return mean.detach().cpu().double().numpy()[index], classes[index].astype(np.int64)


def _rendered(figure: Figure) -> Image.Image:
    """Give the figure's pixels in 128 colours, chosen so that rare ones keep theirs."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return pixels.quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
