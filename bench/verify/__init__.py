"""Whether a report says what its records say, and its records what their runs left: `verify(folder)`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.errors import BenchError
from bench.report import write_report
from bench.store.experiments import ExperimentFolder
from bench.verify.alone import check_alone
from bench.verify.compare import csv_file, markdown_file
from bench.verify.evidence import check_records
from bench.verify.findings import Findings
from bench.verify.pictures import bring_pictures, check_pictures

__all__ = ["Findings", "verify"]


def verify(folder: Path, *, deep: bool = False, data_dir: Path | None = None) -> Findings:
    """Check a report's folder, its records and the files that these list; nothing in it is written.

    The report is made anew from the records with the present code, elsewhere, and compared. Weights and
    pictures of runs that were published without them are not asked for. A folder without records is held
    against itself. `deep` measures finished runs again from their weights and the data.

    Raises:
        BenchError: the folder is no report's, or `deep` lacks records, weights or data.
    """
    findings = Findings()
    home = ExperimentFolder(folder)
    if not (home.exists and any((home.runs / plan["run"]).is_dir() for plan in home.planned.values())):
        if deep:
            raise BenchError(f"{folder} holds no records, so nothing can be measured again; leave out --deep")
        if lacking := [name for name in ("results.csv", "report.md") if not (folder / name).is_file()]:
            what = f"{folder} holds no records, and no {' and no '.join(lacking)}"
            raise BenchError(f"{what}; there is nothing to verify; give a folder that bench run has written")
        check_alone(findings, folder)
        return findings
    found = check_records(findings, folder)
    if deep and not any(home.run(name).weights.is_file() for name in found):
        raise BenchError(
            f"{folder} holds no run's weights, so nothing can be measured again; leave out --deep, or"
            " make them with bench run SPEC --fresh"
        )
    with tempfile.TemporaryDirectory(prefix="bench-verify-") as elsewhere:
        again = Path(elsewhere) / folder.resolve().name
        again.mkdir()
        for name in ("experiment.json", "baselines.json"):
            (again / name).symlink_to((folder / name).resolve())
        ExperimentFolder(again).runs.symlink_to(home.runs.resolve())
        bring_pictures(folder, again)
        report = write_report(again)
        csv_file(findings, folder / "results.csv", (again / "results.csv").read_bytes(), ("variant", "seed"))
        csv_file(findings, folder / "summary.csv", (again / "summary.csv").read_bytes(), ("variant",))
        if (again / "published.csv").exists():
            keys = ("variant", "metric", "epoch")
            csv_file(findings, folder / "published.csv", (again / "published.csv").read_bytes(), keys)
        markdown_file(findings, folder / "report.md", report.read_text(encoding="utf-8"))
        check_pictures(findings, folder, again, found)
    if deep:
        from bench.verify.weights import measure_again  # torch and scikit-learn, only where they are used

        measure_again(findings, folder, found, data_dir)
    return findings
