"""Laws that hold within the record of one run, whatever its numbers: recomputed here from its own settings.

EXACT laws are arithmetic in double precision on numbers of the record. SINGLE laws tie sums of
single-precision terms that were added up in two ways; what two passes of the model came to agrees to AGAIN.
Monte-Carlo laws hold in expectation: ERRORS standard errors are allowed.

Symbols: D pixels, N test images, B batch size; R and K the loss's two terms as sums over one image, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.evaluation.metrics import METRICS

EXACT, SINGLE, AGAIN = 1e-9, 1e-6, 1e-5  # relative to the largest number that enters, and at least to 1
ERRORS = 4
NAMES = {metric.name for metric in METRICS}
PIXELS = 784
CELL = 1 / 255  # the width of a grey level
FULL = 60_000  # the training images that `validation` of a run refers to
NEIGHBOURHOOD = 5000  # images a side that sample metrics count among
PRIOR_SAMPLES = 1000  # at least as many are drawn
WHOLE = {"linear_probe_accuracy": 1, "knn_accuracy": 1, "recall": 2, "coverage": 2, "precision": 3}

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Law:
    """One law held against one record: whether it holds (None: that cannot be told), and where."""

    holds: bool | None
    told: str


def laws(record: Record) -> Iterator[Law]:
    """Every law that a record of its status can be held to."""
    yield from _finite(record, "")
    if record["status"] not in ("finished", "diverged"):
        return
    for group in (*CURVES, *(FINISHED if record["status"] == "finished" else ())):
        law = (group.__doc__ or "").partition("\n")[0].rstrip(".")
        try:
            yield from list(group(record))
        except KeyError as absent:
            # A metric without a finite value is left out of a record; nothing else is
            metric = absent.args[0] in NAMES and absent.args[0] not in (record.get("metrics") or {})
            yield Law(None if metric else False, f"{absent.args[0]} is absent: {law}")
        except (TypeError, ValueError, IndexError, ArithmeticError, AttributeError) as error:
            yield Law(False, f"not as bench writes it ({error}): {law}")


def _finite(value: object, place: str) -> Iterator[Law]:
    """Every number is finite (Python reads NaN and Infinity, though JSON has none)."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _finite(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _finite(item, f"{place}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield Law(False, f"{place} is {value}, not a finite number")


def _equal(place: str, found: float, law: str, due: float, tolerance: float, scale: float = 0) -> Law:
    allowed = tolerance * max(1, abs(due), scale)
    return Law(abs(found - due) <= allowed, f"{place}: found {found!r}, {law} gives {due!r}")


def _within(place: str, found: float, low: float, high: float, why: str) -> Law:
    return Law(low <= found <= high, f"{place}: found {found!r}, outside {low:.7g} to {high:.7g}: {why}")


def _weights(run: Record) -> tuple[float, float]:
    """The factors of the two terms once both are one image's sums, for the objective `elbo`."""
    options, batch = run["objective"]["options"], run["batch_size"]
    factor = {"sum": batch, "batchmean": 1}
    reconstruction = factor.get(options["reconstruction"], 1 / PIXELS)
    return reconstruction, options["beta"] * factor.get(options["kl"], 1 / run["latent"])


def _beta_eff(run: Record) -> float:
    reconstruction, kl = _weights(run)
    return kl / reconstruction


# Of the curves


def _epochs(record: Record) -> Iterator[Law]:
    """A row for each epoch: all of a finished run's, those before the one in which it diverged."""
    due = record["run"]["epochs"]
    if record["status"] == "diverged":
        due = record["diverged"]["epoch"] - 1
    epochs = [row["epoch"] for row in record["curves"]]
    yield Law(
        epochs == list(range(1, due + 1)), f"curves: found the epochs {_short(epochs)}, due are 1 to {due}"
    )


def _rows(record: Record) -> Iterator[Law]:
    """ELBO = −(reconstruction + KL); the loss as written is its value in nats times its reduction."""
    run = record["run"]
    reductions = run["objective"]["options"]
    both_summed = reductions["reconstruction"] == reductions["kl"] == "sum"
    factor = 1 if both_summed else _weights(run)[0]
    for row in record["curves"]:
        place = f"curves, epoch {row['epoch']}"
        parts = row["reconstruction"], row["kl"]
        scale = max(map(abs, parts))
        yield _equal(f"{place}, elbo", row["elbo"], "−(reconstruction + kl)", -sum(parts), EXACT, scale)
        for loss in ("train_loss", "test_loss", "validation_loss"):
            nats = row[f"{loss}_nats"]
            if nats is not None:
                yield _equal(f"{place}, {loss}", row[loss], f"{loss}_nats as written", nats * factor, EXACT)


def _held_out(record: Record) -> Iterator[Law]:
    """There is a validation loss where images are held out."""
    rows = [
        row["epoch"] for row in record["curves"] if (row["validation_loss"] is None) is _holds_out(record)
    ]
    yield Law(
        not rows, f"curves: found {_short(rows)} with or without a validation loss against the settings"
    )


def _holds_out(record: Record) -> bool:
    return bool(record["run"]["validation"])


# Of a finished run


def _objective(record: Record) -> Iterator[Law]:
    """beta_eff follows from reductions, β, batch, pixels and latents."""
    yield _equal("beta_eff", record["beta_eff"], "the objective", _beta_eff(record["run"]), EXACT)


def _last_row(record: Record) -> Iterator[Law]:
    """The metrics in own terms are the last row of the curves, measured again."""
    row, metrics = record["curves"][-1], record["metrics"]
    for name in ("test_loss", "test_loss_nats", "elbo", "reconstruction", "kl"):
        if name in metrics:
            yield _equal(f"metrics.{name}", metrics[name], "the last row of the curves", row[name], AGAIN)


def _own_terms(record: Record) -> Iterator[Law]:
    """The loss in nats and the bound tell of the same two terms, by the density that the loss implies.

    A Gaussian "SSE/(2v) + β·KL" implies the variance β·v: R = β·(distortion − (D/2)·ln(2πβv) − D·ln(scale)).
    Other likelihoods charge their density itself. A posterior that is charged another KL has no such law.
    """
    run, metrics = record["run"], record["metrics"]
    if run["posterior"]["name"] != "gaussian":
        return
    beta, constant, factor = _beta_eff(run), _jacobian(run), 1.0
    if run["likelihood"]["name"] == "gaussian":
        factor = beta or 1.0
        constant += PIXELS / 2 * math.log(2 * math.pi * factor * run["likelihood"]["options"]["variance"])
    due = factor * (metrics["reconstruction"] - constant) + beta * metrics["kl"]
    scale = factor * max(abs(metrics["reconstruction"]), abs(constant))
    yield _equal(
        "metrics.test_loss_nats", metrics["test_loss_nats"], "the implied density", due, SINGLE, scale
    )


def _jacobian(run: Record) -> float:
    """D·ln of a target's scale in grey levels."""
    return PIXELS * math.log(run["target"]["options"].get("std", 1.0))


def _kl(record: Record) -> Iterator[Law]:
    """KL is the sum of its units, none negative; it is mutual information plus aggregate KL."""
    metrics, units, latent = record["metrics"], record["kl_per_unit"], record["run"]["latent"]
    yield Law(len(units) == latent, f"kl_per_unit: found {len(units)} units, the model has {latent}")
    yield _equal("metrics.kl", metrics["kl"], "the sum of kl_per_unit", math.fsum(units), SINGLE)
    both = metrics["mutual_information"] + metrics["aggregate_kl"]
    yield _equal("metrics.kl", metrics["kl"], "mutual_information + aggregate_kl", both, SINGLE)
    yield _within("kl_per_unit, the smallest", min(units), -SINGLE, math.inf, "a KL is not negative")
    most = math.log(record["data"]["test"]) + EXACT
    yield _within(
        "metrics.mutual_information", metrics["mutual_information"], -math.inf, most, "at most ln N"
    )
    active = metrics["active_units"]
    yield _within("metrics.active_units", active, 0, latent, "of so many latents")


def _gaussian_footing(record: Record) -> Iterator[Law]:
    """The Gaussian code length follows from MSE, calibrated variance and KL, in closed form."""
    metrics, variance = record["metrics"], record["calibration"]["variance"]
    yield _within(
        "calibration.variance", variance, CELL**2 / 12, 1.25, "a grey level's own variance and more"
    )
    spread = (metrics["mse"] + CELL**2 / 12) / (2 * variance) + 0.5 * math.log(2 * math.pi * variance)
    bits = (spread + metrics["kl"] / PIXELS) / math.log(2) - math.log2(CELL)
    yield _equal("metrics.elbo_gaussian", metrics["elbo_gaussian"], "MSE, variance and KL", bits, SINGLE)


def _bounds(record: Record) -> Iterator[Law]:
    """An importance-weighted bound is no worse than the ELBO, but for sampling; scores of pixels are ≤ 0."""
    metrics, errors, epsilon = (
        record["metrics"],
        record["monte_carlo_error"],
        record["calibration"]["epsilon"],
    )
    yield _within("calibration.epsilon", epsilon, 1e-5, 0.5, "the bounds of its fit")
    for kind, sign in (("bernoulli", 1), ("gaussian", -1)):
        error = math.hypot(errors.get(f"elbo_{kind}", 0), errors.get(f"log_px_{kind}", 0))
        if kind == "bernoulli":  # the ELBO averages over binarisations, the other bound scores a single one
            sd = math.log((1 - epsilon) / epsilon) * math.sqrt(PIXELS) / 2
            error = math.hypot(error, sd / math.sqrt(record["data"]["test"]))
        least = sign * metrics[f"elbo_{kind}"] - ERRORS * error
        found = sign * metrics[f"log_px_{kind}"]
        place = f"metrics.log_px_{kind}" + (", negated" if sign < 0 else "")
        yield _within(place, found, least, math.inf, f"elbo_{kind} less {ERRORS} standard errors")
    yield _within(
        "metrics.log_px_bernoulli", metrics["log_px_bernoulli"], -math.inf, 0, "a probability's log"
    )
    most = -metrics["kl"] + SINGLE * max(1, abs(metrics["kl"]))
    yield _within("metrics.elbo_bernoulli", metrics["elbo_bernoulli"], -math.inf, most, "at most −KL")


def _shares(record: Record) -> Iterator[Law]:
    """A share of images is a whole number of them over all of them."""
    test = record["data"]["test"]
    of = {1: test, 2: min(test, NEIGHBOURHOOD), 3: min(max(PRIOR_SAMPLES, test), NEIGHBOURHOOD)}
    for name, kind in WHOLE.items():
        share, count = record["metrics"][name], of[kind]
        yield _within(f"metrics.{name}", share, 0, 1, "a share")
        yield _equal(
            f"metrics.{name}", share, f"a whole number of {count} images", round(share * count) / count, EXACT
        )


def _cost(record: Record) -> Iterator[Law]:
    """Seconds and images are those of the curves; every epoch saw every training image."""
    run, metrics, rows, train = record["run"], record["metrics"], record["curves"], record["data"]["train"]
    seconds = math.fsum(row["train_seconds"] for row in rows)
    yield _equal("metrics.train_seconds", metrics["train_seconds"], "the sum over epochs", seconds, EXACT)
    seen = train - train % run["batch_size"] if run["drop_last"] else train
    for row in rows:
        images = row["images_per_second"] * row["train_seconds"]
        place = f"curves, epoch {row['epoch']}, images_per_second × train_seconds"
        yield _equal(place, images, "the training set", seen, EXACT)
    speed = seen * len(rows) / seconds
    yield _equal(
        "metrics.images_per_second", metrics["images_per_second"], "images over seconds", speed, EXACT
    )


def _data(record: Record) -> Iterator[Law]:
    """As many images are held out as the settings say, of the dataset that they say."""
    data, run = record["data"], record["run"]
    count = data["train"] + data["validation"]
    held = run["validation"] if count >= FULL else round(run["validation"] * count / FULL)
    yield _equal("data.validation", data["validation"], "the split", held, EXACT)
    yield Law(data["name"] == run["dataset"], f"data: found {data['name']}, the run says {run['dataset']}")
    yield Law(
        record["environment"]["precision"] == run["precision"],
        f"environment.precision: found {record['environment']['precision']}, the run says {run['precision']}",
    )


def _short(values: list[Any]) -> str:
    return ", ".join(map(str, values[:6])) + (f" … ({len(values)})" if len(values) > 6 else "") or "none"


CURVES: tuple[Callable[[Record], Iterator[Law]], ...] = (_epochs, _rows, _held_out)
FINISHED = (_objective, _last_row, _own_terms, _kl, _gaussian_footing, _bounds, _shares, _cost, _data)
