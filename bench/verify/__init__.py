"""Check that a report says what its records give, and that these are what their runs left."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from bench.errors import BenchError
from bench.report import write_report
from bench.store.experiments import ExperimentFolder
from bench.store.files import read_regular
from bench.store.records import MOST
from bench.verify.files import INPUTS, OPTIONAL, bring_pictures, check_files
from bench.verify.findings import Findings
from bench.verify.runs import check_runs

__all__ = ["Findings", "verify"]


def verify(folder: Path, *, deep: bool = False, data_dir: Path | None = None) -> Findings:
    """Check a report's folder, its runs and the files that these list. Nothing is written there.

    The report is made again from the records with the present code, elsewhere, and compared. Runs that were
    published without weights and pictures are not asked for these. `deep` measures finished runs again from
    their weights and the data.

    Raises:
        BenchError: the folder is no experiment's, none of its runs is here, or `deep` lacks weights or data.
    """
    home, findings = ExperimentFolder(folder), Findings()
    if not any(home.run(run_id).path.is_dir() for run_id in home.planned):
        raise BenchError(
            f"{home.runs} holds none of the runs of {folder}, so there is nothing to verify it against;"
            " put them there, or do them with bench run"
        )
    found = check_runs(findings, home)
    if deep and not any(home.run(run_id).weights.is_file() for run_id in found):
        raise BenchError(
            f"{home.runs} holds no weights of these runs, so nothing can be measured again; leave out --deep,"
            " or make them with bench run SPEC --fresh"
        )
    with tempfile.TemporaryDirectory(prefix="bench-verify-") as elsewhere:
        again = ExperimentFolder(Path(elsewhere) / folder.resolve().name)
        again.path.mkdir()
        again.runs.symlink_to(home.runs.resolve())
        for name in INPUTS:
            with contextlib.suppress(FileNotFoundError):
                (again.path / name).write_bytes(read_regular(folder / name, MOST))
        bring_pictures(folder, again.path)
        write_report(again.path, **{key: (folder / name).is_file() for name, key in OPTIONAL.items()})
        check_files(findings, home, again.path, found)
    if deep:
        from bench.verify.weights import measure_again  # scikit-learn takes seconds to import

        measure_again(findings, home, found, data_dir)
    return findings
