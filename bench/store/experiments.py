"""An experiment's folder: what it plans, and where its runs lie.

Runs are stored once, beside all experiments, under the hash of what determines them:

    reports/runs/<16 hex digits>-s<seed>/   record.json, weights.safetensors, pictures/
    reports/<experiment>/experiment.json    the resolved experiment; `planned` names its runs by their folder

So a run that was done for one experiment is done for all, under the name that each gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.errors import BenchError, printable
from bench.store import records
from bench.store.joined import JOINED, merged
from bench.store.records import Record, RunFolder
from bench.store.shapes import Baselines, Joined, Planned, Source, Spec

RUNS = "runs"  # the folder of all runs, in the folder of reports
SPEC = "experiment.json"
BASELINES = "baselines.json"
JUDGED = "judged"  # the `origin` of a variant, and of its records, that was trained elsewhere


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
        """Read the resolved experiment, with the runs of others that were joined to it.

        Raises BenchError where there is none, or one that cannot be used.
        """
        sources = self.joined()
        return merged(self.own, sources) if sources else self.own

    @cached_property
    def own(self) -> Mapping[str, Any]:
        """Read the resolved experiment without the runs of others; raises BenchError as `spec` does."""
        file = self.path / SPEC
        why = "does not exist"
        try:
            return dict(records.read_json(file, Spec))
        except FileNotFoundError:
            pass
        except ValidationError as error:
            why = f"is not a resolved experiment ({records.fault(error)})"
        except (OSError, ValueError) as error:
            why = f"is not a resolved experiment ({error})"
        raise BenchError(f"{file} {why}: give the folder of an experiment that `bench run` has started")

    @cached_property
    def planned(self) -> Mapping[str, Planned]:
        """Its runs by id, `<variant>-s<seed>-<8 hex digits>`. Raises BenchError as `spec` does."""
        return self.spec.get("planned") or {}

    def judged(self) -> tuple[dict[str, Any], dict[str, Planned]]:
        """Find the variants that were trained elsewhere, and their runs: `bench judge` has entered them."""
        if not self.exists:
            return {}, {}
        variants = {k: v for k, v in self.own["variants"].items() if v.get("origin") == JUDGED}
        planned: dict[str, Planned] = self.own.get("planned") or {}
        return variants, {k: plan for k, plan in planned.items() if plan["variant"] in variants}

    def baselines(self) -> dict[str, Any]:
        """Read baselines.json; empty where it is absent. Raises BenchError for one that is damaged."""
        return self._beside(BASELINES, Baselines, "bench run makes it anew")

    def joined(self) -> list[Source]:
        """Read which runs of others were joined to it. Raises BenchError where that cannot be used."""
        sources: list[Source] = self._beside(JOINED, Joined, "and join those runs again").get("sources", [])
        return sources

    def _beside(self, name: str, kind: Any, remedy: str) -> dict[str, Any]:
        """Read a file that may stand beside experiment.json; empty where it is absent."""
        try:
            table: dict[str, Any] = records.read_json(self.path / name, kind)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            why = records.fault(error) if isinstance(error, ValidationError) else printable(str(error))
            raise BenchError(f"{self.path / name} cannot be used ({why}); remove it, {remedy}") from None
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


def named(given: Path, reports: Path) -> Path:
    """Find an experiment's folder as given, under `reports` by its YAML file, or there by its name.

    Raises BenchError where there is none.
    """
    by_file, by_name = given.suffix in (".yaml", ".yml"), len(given.parts) == 1
    places = [reports / given.stem] if by_file else [given, *([reports / given] if by_name else [])]
    for folder in places:
        if (folder / SPEC).is_file():
            return folder
    what = f"{places[0]} holds no {SPEC}"
    raise BenchError(f"{what}; give a folder that bench run has written: reports/all")


def experiments(reports: Path) -> list[ExperimentFolder]:
    """List the experiments in a folder of reports, by name."""
    return [ExperimentFolder(file.parent) for file in sorted(reports.glob(f"*/{SPEC}"))]
