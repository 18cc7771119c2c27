"""An experiment's folder: what it plans, and where its runs lie.

Runs are stored once, beside all experiments, under the hash of what determines them:

    reports/runs/<16 hex digits>-s<seed>/   record.json, weights.safetensors, pictures/
    reports/<experiment>/experiment.json    the resolved experiment; `planned` names its runs by their folder

So a run that was done for one experiment is done for all, under the name that each gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Required

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from bench.errors import BenchError
from bench.store import records
from bench.store.records import Record, RunFolder

RUNS = "runs"  # the folder of all runs, in the folder of reports
SPEC = "experiment.json"
BASELINES = "baselines.json"
OLD_RUNS = "records"  # where the first edition kept the runs of an experiment, in its folder
KEY = r"^[0-9a-f]{16}-s\d{1,10}$"

_LOOSE = ConfigDict(extra="allow", strict=True)


class Planned(TypedDict):
    """One run of an experiment: its variant there, its seed, and its folder in the store."""

    variant: str
    seed: int
    run: Annotated[str, Field(pattern=KEY)]


class _Settings(TypedDict, total=False):
    __pydantic_config__ = _LOOSE  # type: ignore[misc]

    latent: int | None
    epochs: int | None
    axes: dict[str, Any] | None
    published: list[dict[str, Any]] | None


class _Spec(TypedDict, total=False):
    """The types that readers of experiment.json rely on."""

    __pydantic_config__ = _LOOSE  # type: ignore[misc]

    variants: Required[dict[str, _Settings]]
    planned: dict[str, Planned] | None
    seeds: list[int] | None


@cache
def _shape() -> TypeAdapter[_Spec]:
    return TypeAdapter(_Spec)


@dataclass(frozen=True)
class ExperimentFolder:
    """`reports/<experiment>/`, read: nothing of it is kept open, and nothing written."""

    path: Path

    @property
    def runs(self) -> Path:
        """The store of runs beside it: `reports/runs`."""
        return (self.path if self.path.name not in ("", "..") else self.path.resolve()).parent / RUNS

    @property
    def exists(self) -> bool:
        """Whether `bench run` has begun to write it."""
        return (self.path / SPEC).is_file()

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        """Read the resolved experiment. Raises BenchError where there is none, or one that cannot be used."""
        file = self.path / SPEC
        why = "does not exist"
        try:
            found = records.read_json(file)
            _shape().validate_python(found)
            return dict(found)
        except FileNotFoundError:
            pass
        except ValidationError as error:
            if (self.path / OLD_RUNS).is_dir():
                what = f"{self.path} is of the first edition"
                raise BenchError(f"{what}; bench migrate {self.runs.parent} brings it up to date") from None
            why = f"is not a resolved experiment ({records.fault(error)})"
        except (OSError, ValueError) as error:
            why = f"is not a resolved experiment ({error})"
        raise BenchError(f"{file} {why}: give the folder of an experiment that `bench run` has started")

    @cached_property
    def planned(self) -> Mapping[str, Planned]:
        """Its runs by id, `<variant>-s<seed>-<8 hex digits>`. Raises BenchError as `spec` does."""
        return self.spec.get("planned") or {}

    def baselines(self) -> dict[str, Any]:
        """Read baselines.json, metrics under their names of today; empty where it cannot be read."""
        try:
            table = records.read_json(self.path / BASELINES)
        except (OSError, ValueError):
            return {}
        if not isinstance(table, dict):
            return {}
        if isinstance(rows := table.get("rows"), list):
            table["rows"] = [records.renamed(row) for row in rows if isinstance(row, dict)]
        return table

    def run(self, run_id: str) -> RunFolder:
        """Find the folder of a planned run."""
        return RunFolder(self.runs / self.planned[run_id]["run"])

    def record(self, run_id: str) -> Record | None:
        """Read a planned run's record under the names it has here; None where there is none yet.

        A run that was made under another id keeps that as `trained_as`. Raises BenchError for a record that
        cannot be trusted.
        """
        record = self.run(run_id).read()
        if record is None or record["id"] == run_id:
            return record
        variant = self.planned[run_id]["variant"]
        document = self.spec["variants"].get(variant, {}).get("document")
        run = {**(record.get("run") or {}), "variant": variant, "document": document}
        return {"trained_as": record["id"], **record, "id": run_id, "variant": variant, "run": run}

    def records(self) -> dict[str, Record]:
        """Read the planned runs' records by id, in the plan's order; raises BenchError for a damaged one."""
        found = ((run_id, self.record(run_id)) for run_id in self.planned)
        return {run_id: record for run_id, record in found if record is not None}


def experiments(reports: Path) -> list[ExperimentFolder]:
    """List the experiments in a folder of reports, by name."""
    return [ExperimentFolder(file.parent) for file in sorted(reports.glob(f"*/{SPEC}"))]
