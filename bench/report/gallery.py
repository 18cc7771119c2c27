"""Pictures of the runs, side by side: copied beside the report so that its folder stands alone."""

from __future__ import annotations

from collections.abc import Mapping

from bench.report import contact, copies
from bench.report.cells import image, table, text
from bench.report.copies import Picture
from bench.report.results import Results

PER_ROW = 3
MANY = 12  # variants, above which a page of all their pictures is one that nobody looks through
KINDS = {  # kind -> title and what it shows
    "samples": (
        "Samples from the prior",
        "Decoder means of 100 draws, the same z in every variant of a latent size.",
    ),
    "progress": ("Samples as training goes on", "The first thirty of them at epochs 1, 2, 5, 10 and so on."),
    "reconstructions": (
        "Reconstructions",
        "Odd rows: test images, a digit a column. Even rows: their reconstructions, at one sampled z.",
    ),
    "interpolations": (
        "Interpolations",
        "Left and right: test images of two digits. Between them: decoder means on the straight line from"
        " one's posterior mean to the other's.",
    ),
    "manifold": (
        "Latent manifold",
        "Decoder means over the plane of two latents, in steps of equal prior probability.",
    ),
    "latent": (
        "Latent space",
        "Posterior means of test images by digit: two latents as they are, one as histograms, more by their"
        " first two principal components. Markers tell apart what colours do not.",
    ),
    "tsne": (
        "Neighbours in the latent space",
        "t-SNE of posterior means by digit: who is near whom; its axes and gaps mean nothing.",
    ),
    "kl": (
        "KL per latent",
        "Above: mean KL of each latent, largest first. Below: the variance of its posterior mean over test"
        " images, which decides whether it is active (filled: above 0.01, the dashed line).",
    ),
}


def collect(results: Results) -> dict[str, Mapping[str, Picture]]:
    """Variant -> the last picture of each kind, of the finished run with the smallest seed.

    None of more than MANY variants: these the contact sheets show.
    """
    if len(results.variants) > MANY:
        return {}
    found: dict[str, Mapping[str, Picture]] = {}
    for variant in results.variants:
        if run := variant.first:
            there = copies.pictures(results.folder, run.id, run.record)
            found[variant.name] = {picture.kind: picture for picture in there if picture.source}
    return found


def markdown(results: Results, found: Mapping[str, Mapping[str, Picture]]) -> str:
    """The contact sheets, then one grid per kind: a cell per variant, its name, seed and epoch on top."""
    kinds = dict.fromkeys([*KINDS, *sorted({kind for of_run in found.values() for kind in of_run})])
    sheets = {f"figures/{file}": caption for file, caption in contact.captions(results).items()}
    parts = [
        f"{image(caption.partition(':')[0], path)}\n\n*{text(caption)}.*"
        for path, caption in sheets.items()
        if (results.folder / path).exists()
    ]
    if len(results.variants) > MANY:
        parts.append(
            f"The pictures of {len(results.variants)} variants are not shown one by one: they lie in the"
            " folder of each run and in MLflow."
        )
    for kind in kinds:
        cells = []
        for v in results.variants:
            picture = found.get(v.name, {}).get(kind)
            if picture is not None and v.first is not None:
                name = text(v.title)
                epoch = f", epoch {picture.epoch}" if picture.epoch is not None else ""
                cells.append(
                    (f"{name}<br>seed {v.first.seed}{epoch}", image(f"{kind} of {v.name}", picture.copy))
                )
        if cells:
            title, shows = KINDS.get(kind, (kind, ""))
            parts += [part for part in (f"### {text(title)}", text(shows), _grid(cells)) if part]
    return "\n\n".join(parts)


def _grid(cells: list[tuple[str, str]]) -> str:
    rows = []
    for start in range(0, len(cells), PER_ROW):
        row = cells[start : start + PER_ROW]
        row += [("", "")] * (PER_ROW - len(row))
        rows.append([f"{caption}<br>{shown}" if caption else "" for caption, shown in row])
    return table([" "] * PER_ROW, rows, left=PER_ROW)
