"""The command line as people use it: real processes on a tiny experiment, exit codes, one-line errors.

What starts as a user starts it need not be shown every time: most commands here are forked, which is cheaper.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import forked
import pytest
from factory import timeless

from bench.store.experiments import ExperimentFolder

LONGEST = 400  # seconds that a command may take, on a machine that does much else
CACHE = tempfile.TemporaryDirectory(prefix="bench-tests-")
SPEC = """
question: Does a tiny experiment run from end to end?
dataset: digits
seeds: 2
evaluation: {importance_samples: 3}
defaults: {epochs: 2, batch_size: 256}
architectures:
  small: {encoder: {name: mlp, hidden: [16]}, decoder: {name: mlp, hidden: [16]}, latent: 1}
matrix:
  architecture: [small]
  likelihood: [bernoulli, gaussian]
"""


def bench(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run bench as a user does, with a cache of its own."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
        env=clean(cwd) | environment,
    )


def clean(cwd: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("BENCH_DATA_DIR", "MLFLOW_TRACKING_URI")}
    return kept | {"XDG_CACHE_HOME": CACHE.name}


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished run of the tiny experiment, and what it printed."""
    folder = tmp_path_factory.mktemp("done")
    (folder / "tiny.yaml").write_text(SPEC)
    return folder, bench("run", "tiny.yaml", "--workers", "2", cwd=folder)


def test_a_matrix_runs_to_its_report(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = done
    assert result.returncode == 0, result.stderr
    assert "4 finished" in result.stdout
    assert re.search(r"^small-bernoulli +−[\d,.]+\s±\s[\d,.]+ .* 2/2$", result.stdout, re.M)
    assert "Traceback" not in result.stderr
    report = (folder / "reports/tiny/report.md").read_text()
    assert "Covers 4 of 4 runs" in report
    with (folder / "reports/tiny/results.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert sorted((r["variant"], r["seed"]) for r in rows) == [
        (variant, seed) for variant in ("small-bernoulli", "small-gaussian") for seed in ("0", "1")
    ]
    linked = re.findall(r"\]\(([^)#]+)\)", report)
    assert linked
    assert not [
        link for link in linked if "://" not in link and not (folder / "reports/tiny" / link).exists()
    ]


def test_every_run_is_in_mlflow_with_curves_and_pictures(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = done
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    assert "digits" in experiment.name
    runs = [r for r in client.search_runs([experiment.experiment_id]) if "variant" in r.data.tags]
    assert len(runs) == 4
    for run in runs:
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "test/elbo")
        assert [point.step for point in history] == [1, 2]
        pictures = [f.path for f in client.list_artifacts(run.info.run_id, "images")]
        assert any("samples" in p for p in pictures)
        assert any("reconstructions" in p for p in pictures)
        assert "weights.safetensors" in [f.path for f in client.list_artifacts(run.info.run_id)]


def test_the_same_seed_gives_the_same_bits_again(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = done
    home = ExperimentFolder(folder / "reports/tiny")
    (run_id,) = [name for name in home.planned if name.startswith("small-bernoulli-s1-")]
    path = home.run(run_id).record
    before = json.loads(path.read_text())
    fresh = forked.bench(
        "run", "tiny.yaml", "--fresh", "--only", "small-bernoulli", "--seeds", "1,", cwd=folder
    )
    assert fresh.returncode == 0, fresh.stderr
    after = json.loads(path.read_text())
    assert after["artifacts"]["weights.safetensors"] == before["artifacts"]["weights.safetensors"]
    assert timeless(after["metrics"]) == timeless(before["metrics"])


POOR = {
    "posix": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
}
EACH = """
import codecs, sys
from bench.cli import main
for words in ("plan tiny.yaml", "run tiny.yaml", "report reports/tiny", "parts", "verify reports/tiny",
              "compare small-bernoulli small-gaussian --report reports/tiny"):
    sys.argv = ["bench", *words.split()]
    try:
        main()
    except SystemExit as end:
        print("exit", end.code, codecs.lookup(sys.stdout.encoding).name)
"""


@pytest.mark.parametrize("kind", POOR)
def test_a_terminal_that_knows_few_letters_and_no_screen_stops_no_command(
    done: tuple[Path, subprocess.CompletedProcess[str]], kind: str
) -> None:
    folder, _ = done
    environment = clean(folder) | POOR[kind] | {"MPLBACKEND": "nonsense"}
    again = subprocess.run(
        [sys.executable, "-c", EACH], cwd=folder, capture_output=True, timeout=LONGEST, check=False,
        env=environment,
    )  # fmt: skip
    encoding = "ascii" if kind == "posix" else "iso8859-1"
    told = again.stdout.decode(encoding)
    assert re.findall(r"^exit (\S+) (\S+)$", told, re.M) == [("0", encoding)] * 6, told
    assert "Traceback" not in told + again.stderr.decode("latin-1")
    assert re.search(r"^small-bernoulli +\?[\d,.]+", told, re.M), "the closing table"
    assert "−" in (folder / "reports/tiny/report.md").read_text("utf-8"), "files keep every letter"


def test_a_plan_creates_nothing(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = done
    before = files(folder)
    result = forked.bench("plan", "tiny.yaml", "--seeds", "3", "--reports", "elsewhere/deep", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("never run") == 6
    changed = forked.bench("plan", "tiny.yaml", "--seeds", "3", cwd=folder)
    assert changed.stdout.count("skip") == 4
    assert files(folder) == before


BAD = {  # one for each way out; others are held in this process
    "missing file": ("run", "none.yaml"),
    "epochs 0": ("run", "tiny.yaml", "--epochs", "0"),
    "unwritable reports": ("run", "tiny.yaml", "--reports", "tiny.yaml/inside"),
    "no server": ("run", "tiny.yaml", "--tracking-uri", "http://127.0.0.1:9"),
}


@pytest.mark.parametrize("words", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_exit_2_and_leaves_nothing(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    before = files(tmp_path)
    result = forked.bench(*words, cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("bench: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert files(tmp_path) == before


@pytest.mark.usefixtures("stored")
def test_a_diverged_run_is_reported_and_exits_1(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(
        SPEC.replace("epochs: 2,", "epochs: 3, optimizer: {name: sgd, lr: 1.0e+6},")
    )
    result = forked.bench("run", "tiny.yaml", "--seeds", "1", "--workers", "1", cwd=tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "2 diverged" in result.stdout
    report = (tmp_path / "reports/tiny/report.md").read_text()
    assert "non-finite" in report
    assert "nan" not in report.lower().replace("non-finite", "").split()
