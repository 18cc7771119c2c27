"""How near each bound comes to ln p(b), and what it costs: a row for each trained run.

    python benchmarks/yardstick.py reports/runs/*-s0 --data-dir data

Takes folders of runs with weights. Prints Markdown: the ELBO, the encoder's bound with its effective
samples, the refitted posterior's bound, ln p(b) with its error, the gap of bidirectional Monte Carlo, what
annealing at four times as many temperatures adds on the same images, and seconds of processor time on a core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from bench.data.datasets import load
from bench.engine.device import one_thread, stream
from bench.engine.images import divide
from bench.engine.loop import Training
from bench.evaluation import bound
from bench.evaluation.annealing import annealed
from bench.evaluation.measure import Measured
from bench.evaluation.metrics import METRICS
from bench.evaluation.posteriors import part_of
from bench.evaluation.quadrature import MOST_LATENTS
from bench.evaluation.refit import log_weights, refit
from bench.evaluation.samples import Reference
from bench.parts.bounds import importance_weighted_bound
from bench.saved import model_of, read_saved

HEAD = (
    "run",
    "ELBO",
    "encoder, K = 200 (ESS)",
    "refitted, K = 20",
    "ln p(b)",
    "how",
    "BDMC gap",
    "4 × longer",
)
SECONDS = ("ln p(b)", "thresholded", "encoder", "BDMC", "samples", "all")


def row(folder: Path, data_dir: Path | None) -> list[str]:
    """Measure one run again; its cells."""
    saved = read_saved(folder)
    run, model = saved.run, model_of(saved)
    data = load(run.dataset, data_dir)
    images, labels = divide(run, data, torch.device("cpu"))
    reference = Reference.of_data(data)
    measured = Measured(run, model, Training("yardstick"), images, labels, reference)
    found = measured.binarised
    pixels = measured.calibration.binarised(model)
    # The refitted posterior's bound, on all images by the same correction
    index = bound.subset(images.test, bound.REFITTED)
    chosen, prior, generator = measured._binary[index], model.prior, stream(run.seed, "yardstick")
    q = refit(pixels, prior, part_of(measured.q, index), chosen, generator)
    weights = log_weights(pixels, prior, q, chosen, bound.SAMPLES, generator).double()
    refitted = importance_weighted_bound(weights)
    elbo = measured.elbos.binary
    everything = bound.Mean(float(elbo.mean()), 0.0)
    whole = bound.corrected(everything, elbo[index], refitted, torch.zeros_like(refitted), len(elbo))
    longer = "–"
    if run.latent > MOST_LATENTS:
        few = slice(0, bound.share(len(elbo), bound.ANNEALED))
        near, far = (
            importance_weighted_bound(
                annealed(pixels, prior, part_of(q, few), chosen[few], generator, t).double()
            )
            for t in (found.temperatures, 4 * found.temperatures)
        )
        longer = f"{float((far - near).mean()):+.3f}"
    gap = "integrated" if measured.bdmc_gap is None else f"{measured.bdmc_gap:.3f}"
    encoder = measured.encoder_bound
    shown = [
        run.variant,
        f"{float(elbo.mean()):.2f}",
        f"{encoder.bound.value:.2f} ({encoder.ess:.1f})",
        f"{whole.value:.2f}",
        f"{found.log_px.value:.2f} ± {found.log_px.error:.2f}",
        f"{found.temperatures} temperatures" if found.temperatures else "quadrature",
        gap,
        longer,
    ]
    for metric in METRICS:  # what else a run is charged for
        if metric.footing in ("common", "details", "latent", "samples"):
            getattr(measured, metric.value.partition(".")[0])
    seconds = measured.seconds
    timed = [seconds[key] for key in ("log_px", "log_px_threshold", "encoder_bound", "bdmc", "samples")]
    return shown + [f"{value:.1f}" for value in (*timed, sum(seconds.values()))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data-dir", type=Path)
    asked = parser.parse_args()
    one_thread(torch.device("cpu"))
    time.perf_counter = time.process_time  # processor time: what else the machine does is left out
    head = [*HEAD, *(f"s: {name}" for name in SECONDS)]
    print(f"| {' | '.join(head)} |\n|{'|'.join([':--', *['--:'] * (len(head) - 1)])}|", flush=True)
    for folder in asked.folders:
        print(f"| {' | '.join(row(folder, asked.data_dir))} |", flush=True)


if __name__ == "__main__":
    main()
