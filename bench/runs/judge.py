"""A model that was trained elsewhere, measured as bench's own are: a row of a report, "not trained here".

An adapter, a class in a Python file of the user's, says what the weights are of. It runs with their rights.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from bench.data.dataset import Dataset
from bench.engine.device import initialised, one_thread, pick
from bench.engine.images import data_of, divide
from bench.errors import BenchError, printable
from bench.evaluation.measure import Measured
from bench.evaluation.metrics import YARDSTICK
from bench.evaluation.samples import Reference
from bench.parts.files import keep, part_class, raised
from bench.parts.laws import Fault
from bench.parts.likelihoods import Bernoulli
from bench.parts.model_laws import whole
from bench.parts.pixels import Grey
from bench.parts.vae import WholeModel
from bench.pictures.album import Album
from bench.report import write_report
from bench.runs.execute import SharedContext, divided_data, environment
from bench.runs.matrix import git_state
from bench.spec.experiment import SLUG, Judged, Part, names_folder
from bench.spec.registry import read_module
from bench.store.experiments import JUDGED, SPEC, ExperimentFolder
from bench.store.files import WEIGHTS, no_link, read_regular
from bench.store.lock import LOCK, claimed, held
from bench.store.records import DONE, Record, RunFolder, now, write_json_atomic
from bench.store.whole import replacing

DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8,
    torch.int16, torch.int32, torch.int64,
}  # fmt: skip
CLASS = "not trained here"  # in place of a likelihood class: own-terms numbers of these compare with no other


@dataclass(frozen=True)
class Adapter:
    """A class of the user's own that makes the untrained model, and the latent size that it states."""

    path: Path
    part: Part
    latent: int

    def model(self, weights: Mapping[str, Tensor], shape: tuple[int, ...]) -> WholeModel:
        """Make the model with its weights. Raises BenchError, in one line, for whatever the file does."""
        who = f"{self.path}: {self.part.name}"
        try:
            with initialised(0):
                make: Any = part_class({}, self.part)
                made = make(shape, self.latent, **self.part.options)
                made.load_state_dict(weights)
                whole(made.eval(), shape, self.latent)
        except Fault as fault:
            why = str(fault)
        except RuntimeError as error:
            if "state_dict" not in str(error):
                why = raised(error, self.path)
            else:
                why = f"the weights do not fit ({' '.join(printable(str(error)).split())[:300]})"
        except BenchError:
            raise
        except Exception as error:  # whatever a user's own code raises
            why = raised(error, self.path)
        else:  # of bench's parts beside it none is asked: nothing is measured in its own terms
            return WholeModel(made, Bernoulli(), Grey(), Grey(), self.latent).eval()
        raise BenchError(f"{who}: {why}; bench check {self.path} tries it without weights")


def read_adapter(path: Path, name: str | None) -> Adapter:
    """Read a class from a Python file: the one with `encode` and `decode`, or `name`. Nothing of it is run.

    Raises BenchError where there is none or several, and for one without a literal `latent`.
    """
    module = read_module(path)
    methods = {
        each: {getattr(statement, "name", "") for statement in node.body}
        for each, node in module.defined.items()
    }
    found = [name] if name else [each for each, has in methods.items() if {"encode", "decode"} <= has]
    if len(found) != 1 or found[0] not in module.defined:
        what = f"no {printable(name)}" if name else f"{len(found)} classes with encode and decode"
        hint = f"say by --name which of {', '.join(module.defined) or 'none'}"
        raise BenchError(f"{path} defines {what}; allowed: one; {hint}")
    latent = module.said(found[0]).get("latent")
    if type(latent) is not int or not 1 <= latent <= 4096:
        what = f"{path}: {found[0]} states no latent size"
        raise BenchError(f"{what}; allowed: a number from 1 to 4096; write `latent = 20` in the class")
    try:
        options = module.entry("model", found[0], found[0]).model.model_validate({}).model_dump()
    except ValidationError as error:
        missing = error.errors(include_url=False)[0]["loc"][0]
        raise BenchError(f"{path}: option {missing} of {found[0]} has no default; give it one") from None
    part = Part(name=found[0], options=options, sha256=module.sha256)
    return Adapter(path, part.located(module.path), latent)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state_dict from safetensors, or from a file of torch by `weights_only=True`.

    In a file of torch it may be the one mapping of tensors in another. Raises BenchError for anything else.
    """
    try:
        content = read_regular(path.resolve(), WEIGHTS)
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}; give a file of weights") from None
    allowed = "allowed: safetensors, or a state_dict that torch loads by weights_only=True"
    try:
        return _checked(path, safetensors.torch.load(content))
    except SafetensorError:
        pass
    try:
        if is_zipfile(io.BytesIO(content)):
            with ZipFile(io.BytesIO(content)) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > WEIGHTS:
                    raise ValueError(f"unpacks to more than {WEIGHTS:,} bytes")
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whatever a stranger's bytes make torch.load raise; nothing of them is run
        what = f"{path} is no file of weights, or a pickle of more than tensors, which could run code"
        raise BenchError(f"{what}; {allowed}; write torch.save(model.state_dict(), FILE)") from None
    candidates = [found, *(found.values() if isinstance(found, Mapping) else ())]
    states = [each for each in candidates if isinstance(each, Mapping) and each and _all_tensors(each)]
    if len(states) != 1:
        what = f"{path} holds {len(states)} mappings of names to tensors"
        raise BenchError(f"{what}; allowed: one; write torch.save(model.state_dict(), FILE)")
    return _checked(path, dict(states[0]))


def _checked(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Refuse tensors that hold something other than numbers in memory, and those that would take too much."""
    allowed = "allowed: tensors of numbers on the CPU, written by state_dict()"
    for name, value in state.items():
        own = value.device.type == "cpu" and value.layout is torch.strided and not value.is_nested
        if not (own and value.dtype in DTYPES and name.isprintable()):
            raise BenchError(f"{path}: {printable(name[:100])!r} is {value.layout} {value.dtype}; {allowed}")
    if (size := sum(value.numel() * value.element_size() for value in state.values())) > WEIGHTS:
        raise BenchError(f"{path}: its tensors have {size:,} bytes; allowed: at most {WEIGHTS:,}")
    return state


def as_safetensors(state: Mapping[str, Tensor]) -> bytes:
    """Write a state_dict as it is stored: equal tensors give equal bytes, whatever they came as."""
    written: bytes = safetensors.torch.save(
        {name: v.detach().clone().contiguous() for name, v in state.items()}
    )
    return written


def _all_tensors(state: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())


def judge(
    adapter: Adapter, weights: Sequence[Path], name: str, report: Path, data_dir: Path | None, device: str
) -> int:
    """Measure each state_dict, of seeds 0, 1, …, and enter them in a report as one variant; writes that.

    What is stored already is not measured again. Returns how many were measured. Raises BenchError for a name
    that is taken, for data other than the report's, and as Adapter.model does; nothing is entered then.
    """
    if not names_folder(name, SLUG):
        allowed = "allowed: a-z, 0-9, dot and hyphen, at most 80"
        raise BenchError(f"--as {printable(name)!r}; {allowed}; give such a name")
    states = [as_safetensors(read_weights(path)) for path in weights]
    home = ExperimentFolder(report)
    own = next(filter(None, (said.get("own_data") for said in home.spec["variants"].values())), None)
    data = data_of(str(home.spec.get("dataset")), own and Part.model_validate(own), data_dir)
    if (of := home.baselines().get("of", {}).get("data", data.digest)) != data.digest:
        what = f"{report} is of other data than this {data.name} ({of[:12]}, not {data.digest[:12]})"
        raise BenchError(f"{what}; give its own by --data-dir")
    runs = _runs(home, adapter, states, name, data.name)
    keys = [run.key(data.digest) for run in runs]
    with held(report / LOCK, str(report), "give another --report"), claimed(home.runs, keys):
        home = ExperimentFolder(report)
        entered = {plan["run"] for plan in home.planned.values() if plan["variant"] == name}
        if name in home.spec["variants"] and entered != {*keys}:
            what = f"--as {name}: {report} has another variant of that name"
            raise BenchError(f"{what}; give a name that is free")
        todo = [
            (run, adapter.model(safetensors.torch.load(state), data.shape), RunFolder(home.runs / key), state)
            for run, state, key in zip(runs, states, keys, strict=True)
            if (RunFolder(home.runs / key).read() or {}).get("status") not in DONE
        ]
        if todo:
            shared = _shared(data, device)
            files = [word for path in weights for word in ("--weights", path.name)]
            words = ["bench", "judge", adapter.path.name, *files, "--as", name, "--report", report.name]
            about = {"experiment": home.spec.get("name"), "git": git_state(), "command": shlex.join(words)}
            for each in todo:
                _measure(*each, shared, about)
        if not entered:
            _enter(home, runs, keys)
        if todo or not entered:
            write_report(report)
    return len(todo)


def _runs(
    home: ExperimentFolder, adapter: Adapter, states: Sequence[bytes], name: str, dataset: str
) -> list[Judged]:
    """Say what is measured: of seeds 0, 1, …, with the K that the report has."""
    said = (settings.get("importance_samples") for settings in home.spec["variants"].values())
    common = next(filter(None, said), 200)
    return [
        Judged(
            variant=name,
            seed=seed,
            dataset=dataset,
            latent=adapter.latent,
            model=adapter.part,
            weights=hashlib.sha256(state).hexdigest(),
            importance_samples=common,
        )
        for seed, state in enumerate(states)
    ]


def _shared(data: Dataset, device: str) -> SharedContext:
    place, reference = pick(device), Reference.of_data(data)
    one_thread(place)
    return SharedContext(data, place, reference)


def _measure(
    run: Judged, model: WholeModel, folder: RunFolder, state: bytes, shared: SharedContext, about: Record
) -> None:
    """Measure a model and write its folder, the record last."""
    started, data = now(), shared.data
    no_link(folder.path, folder.pictures, folder.parts)
    shutil.rmtree(folder.path, ignore_errors=True)  # of an attempt that was interrupted
    keep([run.model], folder.parts)
    with replacing(folder.weights) as part:
        part.write_bytes(state)
    images, labels = divide(run, data, shared.device)
    measured = Measured(run, model.to(shared.device), None, images, labels, shared.reference)
    metrics, kl = measured.metrics(), measured.kl_per_unit()
    if not measured.finite:
        shutil.rmtree(folder.path)
        what = f"{run.variant}, seed {run.seed}: on {data.name} the model's KL or calibration is not finite"
        raise BenchError(f"{what}; give weights of a model that did not diverge")
    test, classes = images.test.unflatten(1, data.shape), labels.test if labels else None
    album = Album(run, test, classes, folder, lambda *_: None, full=run.seed == 0)
    album.close(measured.model, measured.q, run.epochs)
    folder.write_record(
        {
            "id": run.identity(data.digest),
            "variant": run.variant,
            "seed": run.seed,
            "yardstick": YARDSTICK,
            "origin": JUDGED,
            "run": run.model_dump(mode="json"),
            **about,
            "status": "finished",
            "reason": None,
            "likelihood_class": CLASS,
            "metrics": metrics,
            **measured.undefined(metrics),
            "monte_carlo_error": measured.monte_carlo_error(),
            "kl_per_unit": kl,
            "calibration": vars(measured.calibration),
            "evaluation_seconds": measured.seconds | {"pictures": album.seconds},
            "environment": environment(shared),
            "data": divided_data(data, images, labels),
            "started": started,
            "finished": now(),
            "artifacts": folder.artifacts(),
        }
    )


def _enter(home: ExperimentFolder, runs: Sequence[Judged], keys: Sequence[str]) -> None:
    """Add a variant to experiment.json."""
    first = runs[0]
    settings = first.model_dump(mode="json", exclude={"variant", "seed", "document", "weights"})
    about = {"name": first.variant, "label": first.variant, "origin": JUDGED}
    planned = {
        run.name_of(key): {"variant": run.variant, "seed": run.seed, "run": key}
        for run, key in zip(runs, keys, strict=True)
    }
    variants = {**home.own["variants"], first.variant: about | settings}
    before = home.own.get("planned") or {}
    content = {**home.own, "variants": variants, "planned": {**before, **planned}}
    write_json_atomic(home.path / SPEC, content)
