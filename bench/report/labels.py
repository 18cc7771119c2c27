"""Write names beside the points that they name: as near as there is room, and never on anything drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.marks import DPI, INK, SMALL, fit

PAD = 3  # screen pixels around a label
DARK = 200  # what is lighter than this, such as a grid, may lie under a label
STEP = 4  # screen pixels between places that are tried
TRIED, SPARSE = 600, 20  # so many of the nearest places are tried, and of the others every so many
CROSSING = (
    60  # screen pixels that a label goes farther so that its line back crosses nothing; twice for words
)
NEAR = 10  # screen pixels of that line which may lie on the point itself


@dataclass(frozen=True)
class Label:
    """Words for a point, in the coordinates of its axes' data."""

    axes: Any
    words: str
    at: tuple[float, float]
    colour: str = INK
    within: float = math.inf  # screen pixels from the point: beyond them it is left out
    path: Sequence[tuple[float, float]] = ()  # where its middle may lie instead, the best first
    transform: Any = None  # of the point, where not that of the data


def place(figure: Figure, labels: Sequence[Label], width: float = 290) -> list[Label]:
    """Write labels, the first with the first choice; a thin line leads back from one that lies farther off.

    Give those that found no room within their axes. Names are cut at `width` screen pixels.
    """
    left_out = []
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    ink = np.asarray(canvas.buffer_rgba())[::-1, :, :3].min(2) < DARK
    words = np.zeros_like(ink)
    for label in labels:
        text = figure.text(0, 0, fit(label.words, width), fontsize=SMALL, color=label.colour, va="bottom",
                           bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3})  # fmt: skip
        extent = text.get_window_extent(canvas.get_renderer())
        size = math.ceil(extent.width) + 2 * PAD, math.ceil(extent.height) + 2 * PAD
        point = (label.transform or label.axes.transData).transform(label.at)
        if len(label.path):
            spot = _on_path(ink, label, size)
        else:  # of a point that lies outside the figure there is nothing to write
            seen = 0 <= point[0] < ink.shape[1] and 0 <= point[1] < ink.shape[0]
            spot = _nearest(ink, words, label, point, size) if seen else None
        if spot is None:
            text.remove()
            left_out.append(label)
            continue
        x, y = spot
        back = figure.transFigure.inverted().transform
        text.set_position(tuple(back((x + PAD, y + PAD))))
        box = np.s_[y : y + size[1], x : x + size[0]]
        ink[box] = words[box] = True
        end = np.clip(point, (x, y), (x + size[0], y + size[1]))
        if not len(label.path) and math.dist(end, point) > 14:
            ends = np.transpose(back([point, end]))
            figure.add_artist(Line2D(*ends, color=label.colour, lw=0.5, zorder=1))
            at = _line(point, end)
            ink[at[:, 1], at[:, 0]] = True
    return left_out


def _nearest(
    ink: np.ndarray, words: np.ndarray, label: Label, point: np.ndarray, size: tuple[int, int]
) -> tuple[int, int] | None:
    """The free box nearest to a point from which a line leads back, best across nothing."""
    left, bottom, right, top = (int(side) for side in label.axes.bbox.extents)
    ys, xs = np.nonzero(_free(ink[bottom:top, left:right], size)[::STEP, ::STEP])
    xs, ys = xs * STEP + left, ys * STEP + bottom
    aside = np.maximum(np.maximum(xs - point[0], point[0] - xs - size[0]), 0)
    above = np.maximum(np.maximum(ys - point[1], point[1] - ys - size[1]), 0)
    far = np.hypot(aside, above)
    order = np.argsort(far + 2 * (xs + size[0] / 2 < point[0]), kind="stable")
    best, cost = None, math.inf
    for k in np.concatenate([order[:TRIED], order[TRIED::SPARSE]]):
        if far[k] > min(label.within, cost):
            break
        back = _line(point, np.clip(point, (xs[k], ys[k]), (xs[k] + size[0], ys[k] + size[1])))
        over = (mask[back[NEAR:, 1], back[NEAR:, 0]].any() for mask in (ink, words))
        worse = far[k] + sum(CROSSING * each for each in over)
        if worse < cost:
            best, cost = (int(xs[k]), int(ys[k])), worse
    return best


def _on_path(ink: np.ndarray, label: Label, size: tuple[int, int]) -> tuple[int, int] | None:
    """The first free box along a path."""
    left, bottom, right, top = label.axes.bbox.extents
    corners = label.axes.transData.transform(label.path) - np.array(size) / 2
    for x, y in corners.astype(int):
        inside = left < x and x + size[0] < right and bottom < y and y + size[1] < top
        if inside and not ink[y : y + size[1], x : x + size[0]].any():
            return int(x), int(y)
    return None


def _free(ink: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whether a box with its lower left corner here lies on no ink."""
    width, height = size
    if ink.shape[0] < height or ink.shape[1] < width:
        return np.zeros((0, 0), bool)
    total = np.pad(ink.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = total[height:, width:] - total[:-height, width:] - total[height:, :-width]
    return np.asarray(inside + total[:-height, :-width] == 0)


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Screen pixels from one point to another."""
    return np.linspace(start, end, 2 + int(math.dist(start, end))).astype(int)
