"""Check the runs that a report rests on: what they are of, their files, and the laws within their records."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from bench.engine.loop import chosen_epoch
from bench.errors import BenchError
from bench.evaluation.footing import bits_per_dim, gaussian_score
from bench.parts.lookup import objective_of
from bench.parts.protocols import TwoTermObjective
from bench.spec.experiment import ENGINE, Judged, Run
from bench.store.experiments import JUDGED, ExperimentFolder
from bench.store.records import WEIGHTS, Record
from bench.verify.files import digest_of
from bench.verify.findings import Findings

# Relative, and to at least 1: what is computed in double precision from the record's own numbers; sums of
# single-precision terms that were added up in two ways; what the model gave when it was asked twice
EXACT, SINGLE, AGAIN = 1e-9, 1e-6, 1e-5
SHAPE = (28, 28)  # of the images, where a record does not say it
Law = tuple[str, float, str, float, float]  # place, value, what gives the one due, that value, tolerance


def check_runs(findings: Findings, home: ExperimentFolder) -> dict[str, Record]:
    """Check every run that an experiment plans; returns the records that can be read, by run id."""
    found: dict[str, Record | None] = {}
    for run_id in home.planned:
        try:
            found[run_id] = home.run(run_id).read()
        except BenchError as error:
            findings.check("records", False, str(error))
    known = {run_id: record for run_id, record in found.items() if record is not None}
    findings.counts["records"] += len(known)
    data = home.baselines().get("of", {}).get("data")
    bare = sum(check_run(findings, home, run_id, record, data) for run_id, record in known.items())
    if pending := len(found) - len(known):
        findings.unchecked.append(f"runs without a record, under way or to be done: {pending}")
    if bare:
        findings.unchecked.append(f"weights and pictures of {bare} run{'s' * (bare > 1)} are not here")
    return known


def check_run(
    findings: Findings, home: ExperimentFolder, run_id: str, record: Record, data: str | None
) -> bool:
    """Check one run: its files, its identity, its laws; returns whether it is as runs are published.

    `data` is the digest of the experiment's data, as far as that is known.
    """
    bare = _artifacts(findings, home, run_id, record)
    try:
        kind = Judged if record.get("origin") == JUDGED else Run
        run = kind.model_validate(record.get("run"))
    except ValidationError:
        findings.unchecked.append(f"{run_id}: its identity and laws, as it is of another version of bench")
        return bare
    _identity(findings, home, run_id, record, run, data)
    _laws(findings, run_id, record, run)
    return bare


def _artifacts(findings: Findings, home: ExperimentFolder, run_id: str, record: Record) -> bool:
    """Check that the files that a record lists are there, and no others; returns whether none is."""
    folder = home.run(run_id)
    listed, here, bare = record.get("artifacts") or {}, folder.kept(), folder.bare(record)
    for name in sorted({*listed, *here}):
        place = f"{run_id}/{name}"
        if name not in listed:
            findings.check("artifacts", False, f"{place}: the record does not list it")
        elif name in here:
            findings.compare("artifacts", f"{place}, sha256", digest_of(folder.path / name, 2), listed[name])
        elif not bare:
            findings.check("artifacts", False, f"{place}: missing")
    return bare


def _identity(
    findings: Findings,
    home: ExperimentFolder,
    run_id: str,
    record: Record,
    run: Run | Judged,
    data: str | None,
) -> None:
    """Check that a run's names are the hash of the run and its data, and that its variant says the same."""
    plan = home.planned[run_id]
    own = (record.get("data") or {}).get("digest", data)  # a run that failed names no data
    if own is None:
        findings.unchecked.append(f"{run_id}: its identity, as nothing says which data it is of")
        return
    findings.compare("identities", f"{run_id}, data", own, data or own, "baselines.json gives")
    engine = next((e for e in range(ENGINE, 0, -1) if run.key(own, e) == plan["run"]), ENGINE)
    findings.compare("identities", f"{run_id}, hash of its run and data", plan["run"], run.key(own, engine))
    findings.compare("identities", f"{run_id}, id", record["id"], run.identity(own, engine))
    if engine < ENGINE:
        findings.unchecked.append(
            f"{run_id}: of engine {engine}, bench now has {ENGINE}: it gives other numbers"
        )
    for place, said in ((run_id, record), (f"experiment.json, {run_id}", plan)):
        findings.compare("identities", f"{place}, seed", said.get("seed"), run.seed)
    if isinstance(run, Judged):
        weights = (record.get("artifacts") or {}).get(WEIGHTS)
        findings.compare("identities", f"{run_id}, weights", weights, run.weights)
    settings = home.spec["variants"].get(plan["variant"]) or {}
    resolved = run.model_dump(mode="json", exclude={"variant", "document", "seed"})
    for key in settings.keys() & resolved.keys():
        place = f"experiment.json, {plan['variant']}, {key}"
        findings.compare("settings", place, settings[key], resolved[key])


def _laws(findings: Findings, run_id: str, record: Record, run: Run | Judged) -> None:
    if record["status"] == "finished":
        lists = WEIGHTS in (record.get("artifacts") or {})
        findings.check("laws", lists, f"{run_id}: the record lists no {WEIGHTS}")
    try:
        for place, value, source, due, tolerance in laws(record, run):
            line = f"{run_id}: {place}: found {value!r}, {source} gives {due!r}"
            if math.isnan(value) or math.isnan(due):
                findings.unchecked.append(f"{run_id}: {place}, as the record lacks a metric")
            else:
                findings.check("laws", abs(value - due) <= tolerance * max(1, abs(due)), line)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        findings.check("laws", False, f"{run_id}: not as bench writes it ({type(error).__name__}: {error})")


def laws(record: Record, run: Run | Judged) -> Iterator[Law]:
    """Yield what holds within a record, whatever its numbers: recomputed by the definitions themselves."""
    metrics = defaultdict(lambda: math.nan, record.get("metrics") or {})
    pixels = math.prod((record.get("data") or {}).get("shape", SHAPE))
    if isinstance(run, Run):
        yield from _of_training(record, run, metrics, pixels)
    if record["status"] == "finished" and record["kl_per_unit"] is not None:  # else each KL is of own samples
        yield "metrics.kl", metrics["kl"], "the sum of kl_per_unit", math.fsum(record["kl_per_unit"]), SINGLE
        parts = metrics["mutual_information"] + metrics["aggregate_kl"]
        yield "metrics.kl", metrics["kl"], "mutual_information + aggregate_kl", parts, SINGLE
        # The Gaussian code length follows from MSE, calibrated variance and KL
        score = gaussian_score(metrics["mse"] * pixels, pixels, record["calibration"]["variance"])
        due, place = bits_per_dim(metrics["kl"] - score, pixels), "gaussian_bits_per_dim"
        yield f"metrics.{place}", metrics[place], "MSE, variance and KL", due, SINGLE


def _of_training(record: Record, run: Run, metrics: Mapping[str, float], pixels: int) -> Iterator[Law]:
    """Yield what holds between a record's curves, its objective and its metrics in own terms."""
    curves = record.get("curves") or []
    # Each epoch has a row: of a diverged run those before the one in which it diverged
    if record["status"] not in ("finished", "diverged"):
        return
    epochs = run.epochs if record["status"] == "finished" else record["diverged"]["epoch"] - 1
    chosen = chosen_epoch(run.patience, curves)
    if run.patience:  # of the lowest validation loss, and so many epochs before the end
        yield "chosen.epoch", record["chosen"]["epoch"], "the curves", chosen, 0
        epochs = min(epochs, chosen + run.patience)
    yield "curves, rows", len(curves), "the number of epochs", epochs, 0
    for i, row in enumerate(curves, 1):
        yield f"curves, row {i}, epoch", row["epoch"], "its place", i, 0
        if row["kl"] is None:  # of a q(z|x) without a density
            continue
        elbo = -(row["reconstruction"] + row["kl"])
        yield f"curves, epoch {i}, elbo", row["elbo"], "−(reconstruction + kl)", elbo, EXACT
    if record["status"] != "finished":
        return
    # The metrics in own terms are the row of the epoch measured again, and what they add up to
    for name in ("test_loss", "test_loss_nats", "elbo", "reconstruction", "kl"):
        if (due := curves[chosen - 1][name]) is not None:  # an objective may not say its loss in nats
            yield f"metrics.{name}", metrics[name], f"epoch {chosen} of the curves", due, AGAIN
    if "kl" not in record.get("undefined", ()):
        elbo = -(metrics["reconstruction"] + metrics["kl"])
        yield "metrics.elbo", metrics["elbo"], "−(reconstruction + kl)", elbo, EXACT
    own = run.objective.sha256 is not None  # a record names no code to run
    if not own and isinstance(objective := objective_of(run), TwoTermObjective):
        beta_eff = objective.beta_eff(run.batch_size, pixels, run.latent)
        yield "beta_eff", record["beta_eff"], "the objective", beta_eff, EXACT
    seconds = math.fsum(row["train_seconds"] for row in curves)
    yield "metrics.train_seconds", metrics["train_seconds"], "the sum over epochs", seconds, EXACT


def numbers_in(value: object, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a record or a table with its place: `metrics.mse`, `kl_per_unit[2]`."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from numbers_in(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from numbers_in(item, f"{place}[{i}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, value
