"""The wheel alone, in an empty folder: a fresh environment that sees the dependencies, and no clone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from test_cli import LONGEST, clean

from bench.spec.shipped import shipped

ROOT = Path(__file__).parents[1]
LIGHT = "import sys, bench; print(bench.__file__, {'torch', 'pandas', 'mlflow'} & {*sys.modules})"
BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.M | re.S
)


def test_the_wheel_has_every_room_and_experiment() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    rooms = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "bench").rglob("*.py")}
    assert set(project["packages"]) == rooms | {"bench.experiments"}
    assert [*shipped().values()] == sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with bench's wheel in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("bench", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    venv.create(folder / "venv", symlinks=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(seen))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    scripts = folder / "venv/bin"
    no = ["--no-deps", "--no-index"]
    call([*pip, "wheel", *no, "--no-build-isolation", "-w", str(folder), str(source)], folder)
    (wheel,) = folder.glob("*.whl")
    call([*pip, "--python", str(scripts / "python"), "install", *no, str(wheel)], folder)
    shutil.rmtree(source)
    return scripts


def call(words: list[str], cwd: Path, **environment: str) -> str:
    """What a command prints; an error where it fails."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env=clean(cwd) | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.around
def test_bench_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    bench = str(installed / "bench")
    where = call([str(installed / "python"), "-c", LIGHT], tmp_path)
    assert where.startswith(str(installed.parent))
    assert where.endswith("set()\n")
    listed = call([bench, "experiments"], tmp_path).splitlines()
    assert [line.split()[0] for line in listed] == [*shipped()]
    completed = {"COMP_WORDS": "bench plan enc", "COMP_CWORD": "2", "_BENCH_COMPLETE": "complete_bash"}
    assert call([bench], tmp_path, **completed).split() == ["encoder"]
    call([bench, "new", "mine.yaml"], tmp_path)
    trains, loads = BLOCKS
    (tmp_path / "page.py").write_text(trains)
    told = call([str(installed / "python"), "page.py"], tmp_path)
    told += call([str(installed / "python"), "-c", loads], tmp_path)
    assert "torch.Size([5, 784])" in told
    assert re.search(r"^narrow-beta-1 +-\d.* 1$", told, re.M)
    small = ["--seeds", "1", "--epochs", "2", "--only", "narrow-beta-1", "--quiet"]
    assert "4 skipped" in call([bench, "run", "mine.yaml", *small], tmp_path)
    report = tmp_path / "reports/mine-epochs-2/report.html"
    report.unlink()
    assert "reports/mine-epochs-2/report.md" in call([bench, "report", "mine-epochs-2"], tmp_path)
    assert report.is_file()
