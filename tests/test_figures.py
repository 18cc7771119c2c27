"""Every figure is legible at page width: by the boxes of its words as they are drawn."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import synthetic
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from synthetic import settings

from bench.report import curves, figures, labels
from bench.report.results import Results, load

PUBLISHED = Path(__file__).parents[1] / "reports"
# Between them every kind of figure
EXPERIMENTS = ("mnist/all", "mnist/documents", "mnist/likelihood", "mnist/stability", "mnist/rate")
PAGE = 1000  # screen pixels


def hostile(folder: Path) -> Results:
    """Long names, $ and line breaks in them, more architectures than colours, far outliers, seeds lost."""
    long = "$" + "architecture " * 9
    axes = [
        {"architecture": f"{long}{k}_^\n{'W' * 60}", "likelihood": f"{kind} {'x' * 70}", "beta": beta}
        for k, kind, beta in itertools.product(range(8), ("bernoulli", "gaussian"), (1.0, 1e-6))
    ]
    made = {
        f"v{k}": settings(axes=place, beta=place["beta"], likelihood=place["likelihood"].split()[0],
                          label="name " * 30 + str(k))
        for k, place in enumerate(axes)
    }  # fmt: skip
    made |= {f"document-{'y' * 80}-{k}": settings(document=f"{'z' * 90}{k}", epochs=150) for k in range(4)}
    status = {("v3", seed): "diverged" for seed in (0, 1)} | {("v5", 1): "failed"}
    return load(synthetic.write(folder / "hostile", made, (0, 1), status=status))


@pytest.fixture(scope="module", params=[*EXPERIMENTS, "hostile", "synthetic"])
def drawn(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Figure, list[tuple[Text, Bbox]], list[labels.Label]]]:
    """The figures of an experiment, with their words as drawn at page width, and what found no room."""
    folder = tmp_path_factory.mktemp("figures")
    if request.param == "hostile":
        results = hostile(folder)
    elif request.param == "synthetic":
        variants = {**synthetic.documents(), **synthetic.matrix()}
        results = load(synthetic.write(folder / "synthetic", variants, (0, 1, 2)))
    else:
        results = load(PUBLISHED / request.param)
    written: list[tuple[Text, Bbox]] = []
    left_out: list[labels.Label] = []
    draw, place = Text.draw, labels.place

    def told(text: Text, renderer: object, *args: object, **more: object) -> None:
        if text.get_visible() and text.get_text().strip():
            written.append((text, text.get_window_extent(renderer)))  # type: ignore[arg-type]
        draw(text, renderer, *args, **more)

    def placed(*args: object, **more: object) -> list[labels.Label]:
        left_out.extend(place(*args, **more))  # type: ignore[arg-type]
        return []

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for module in ("figures", "curves", "rate_figure"):
            patch.setattr(f"bench.report.{module}.place", placed)
        for file, figure in figures.made(results):
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(Text, "draw", told)
                written.clear()
                figure.set_dpi(PAGE / figure.get_figwidth())
                FigureCanvasAgg(figure).draw()
            found[file] = (figure, [*written], [a for a in left_out if a.within > PAGE and not a.path])
            left_out.clear()
    assert found
    return found if request.param != "hostile" else {f: (g, w, []) for f, (g, w, _) in found.items()}


def test_no_words_are_small(drawn) -> None:
    for file, (figure, written, _) in drawn.items():
        for text, _ in written:
            assert text.get_fontsize() * figure.dpi / 72 >= 9, (file, text.get_text())


def test_no_words_lie_on_others_or_leave_the_page(drawn) -> None:
    for file, (figure, written, _) in drawn.items():
        canvas = figure.bbox
        for text, box in written:
            inside = (
                canvas.x0 <= box.x0 and box.x1 <= canvas.x1 and canvas.y0 <= box.y0 and box.y1 <= canvas.y1
            )
            assert inside, (file, text.get_text(), box)
        for (a, first), (b, second) in itertools.combinations(written, 2):
            assert not first.overlaps(second), (file, a.get_text(), b.get_text())


def test_every_name_has_found_room(drawn) -> None:
    for file, (_, _, left_out) in drawn.items():
        assert not left_out, (file, [label.words for label in left_out])


def test_an_axis_of_the_forest_has_three_ticks_at_least(drawn) -> None:
    for axes in drawn["forest.png"][0].axes:
        low, high = axes.get_xlim()
        assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 3, axes.get_title(loc="left")


def test_no_more_than_seven_colours(drawn) -> None:
    for file, (figure, written, _) in drawn.items():
        used = [line.get_color() for line in figure.findobj(Line2D)] + [
            text.get_color() for text, _ in written
        ]
        hues = {to_hex(c) for c in used if max(to_rgb(c)) - min(to_rgb(c)) > 0.05}
        assert len(hues) <= 6, file  # and black


def test_a_seed_that_diverged_ends_and_a_cross_is_in_the_epoch_of_its_record(tmp_path: Path) -> None:
    status = {("gone", seed): "diverged" for seed in (0, 1, 2)} | {("half", 1): "diverged"}
    names = {name: settings(epochs=20) for name in ("gone", "half", "whole")}
    synthetic.write(tmp_path, names, (0, 1, 2), status=status)
    figure = curves.learning(load(tmp_path))
    assert figure is not None
    (axes,) = (axes for axes in figure.axes if axes.lines)
    crosses = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"]
    assert crosses == [15] * 4
    lengths = sorted(len(line.get_xdata()) for line in axes.lines if line.get_marker() != "x")
    assert lengths == [14] * 4 + [20] * 2


def test_losses_of_another_beta_or_likelihood_have_panels_of_their_own(tmp_path: Path) -> None:
    figure = curves.learning(load(synthetic.write(tmp_path, synthetic.matrix(), (0, 1))))
    assert figure is not None
    panels = [axes for axes in figure.axes if axes.lines]
    assert len(panels) == len(synthetic.matrix())
    assert all(len(axes.lines) == 1 for axes in panels)


def test_drift_stands_at_the_true_beta_hollow_where_it_is_a_bound(tmp_path: Path) -> None:
    made = {str(b): settings(beta=b, axes={"architecture": "mlp", "beta": b}) for b in (0.1, 1.0, 4.0)}

    def measure(name: str, variant: dict, seed: int) -> dict[str, float]:
        return {"aggregate_kl": 1.0 + seed, "mutual_information": 9.2 if name == "0.1" else 3.0}

    results = load(synthetic.write(tmp_path, made, (0, 1), measure=measure))
    (figure,) = (figure for file, figure in figures.made(results) if file == "beta-aggregate-kl.png")
    marks = {
        line.get_xdata()[0]: line.get_markerfacecolor()
        for line in figure.axes[0].lines
        if line.get_marker() == "o"
    }
    assert marks.keys() == {0.1, 1.0, 4.0}
    assert [x for x, face in marks.items() if face == "white"] == [0.1]


def test_an_outlier_is_written_at_the_edge_and_hides_no_interval(tmp_path: Path) -> None:
    made = {f"v{k}": settings() for k in range(8)}

    def measure(name: str, variant: dict, seed: int) -> dict[str, float]:
        return {"elbo_bernoulli": -5000.0 if name == "v7" else -100.0 - int(name[1]) - seed}

    results = load(synthetic.write(tmp_path, made, (0, 1), measure=measure))
    figure = next(figure for file, figure in figures.made(results) if file == "forest.png")
    (axes,) = figure.axes
    assert axes.get_xlim()[0] > -120
    assert [text.get_text() for text in axes.texts] == [" ← −5000"]


def test_an_interval_that_goes_on_beyond_the_edge_ends_in_an_arrow_there(tmp_path: Path) -> None:
    spread = {"v0": 0.1, "v1": 0.1, "v2": 20.0, "v3": 0.1}  # nats between seeds

    def measure(name: str, variant: dict, seed: int) -> dict[str, float]:
        return {"elbo_bernoulli": -100.0 - int(name[1]) + spread[name] * (seed - 1)}

    made = {name: settings() for name in spread}
    results = load(synthetic.write(tmp_path, made, (0, 1, 2), measure=measure))
    figure = next(figure for file, figure in figures.made(results) if file == "forest.png")
    (axes,) = figure.axes
    arrows = {line.get_marker(): line for line in axes.lines if line.get_marker() in ("<", ">")}
    assert {mark: line.get_xdata()[0] for mark, line in arrows.items()} == dict(
        zip("<>", axes.get_xlim(), strict=True)
    )
    assert {line.get_ydata()[0] for line in arrows.values()} == {2}


def test_values_that_are_all_equal_are_drawn_too(tmp_path: Path) -> None:
    places = ((1, "a"), (2, "a"), (1, "b"))
    axes = [{"architecture": "mlp", "beta": beta, "likelihood": kind} for beta, kind in places]
    variants = {str(k): settings(beta=place["beta"], axes=place) for k, place in enumerate(axes)}

    def measure(name: str, variant: dict, seed: int) -> dict[str, float]:
        return {"elbo_bernoulli": -100.0, "kl": 5.0, "frechet_distance": 100.0}

    made = dict(figures.made(load(synthetic.write(tmp_path, variants, (0, 1, 2, 3), measure=measure))))
    assert {"forest.png", "matrix.png", "rate-distortion.png"} <= made.keys()
    test_an_axis_of_the_forest_has_three_ticks_at_least({"forest.png": (made["forest.png"],)})


def test_a_beta_that_no_axis_shows_stops_no_figure(tmp_path: Path) -> None:
    """A stranger's record may say that β is −3; the axis is logarithmic."""
    made = {str(k): settings(beta=k) for k in (1, 2, -3)}

    def measure(name: str, variant: dict, seed: int) -> dict[str, float]:
        return {"aggregate_kl": 0.5 + seed, "kl": 5.0}

    results = load(synthetic.write(tmp_path, made, (0, 1), measure=measure))
    assert "beta-aggregate-kl.png" in figures.draw(results)


def test_a_matrix_is_general_over_its_axes(tmp_path: Path) -> None:
    places = [{"net": n, "latent": z, "likelihood": k} for n in "pq" for z in (2, 8, 32) for k in ("a", "b")]
    made = {f"v{k}": settings(axes=place, latent=place["latent"]) for k, place in enumerate(places)}
    results = load(synthetic.write(tmp_path, made, (0, 1)))
    (figure,) = (figure for file, figure in figures.made(results) if file == "matrix.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["p", "q", "", "", "", ""]
    assert [axes.get_ylabel().partition("\n")[0] for axes in figure.axes[::2]] == [
        "ELBO, binarised ↑", "ln p(x), binarised ↑", "Fréchet distance ↓"
    ]  # fmt: skip
    assert [tick.get_text() for tick in figure.axes[4].get_xticklabels()] == ["2", "8", "32"]
    assert {text.get_text() for text in figure.texts} == {"a", "b", "latent"}


def test_the_picture_of_the_readme_is_the_sheet_of_the_documents() -> None:
    sheet = PUBLISHED / "mnist/documents/figures/contact-systems.png"
    assert (PUBLISHED.parent / "docs/images/samples.png").read_bytes() == sheet.read_bytes()
