"""A report folder from a stranger: what is no record is told in one line, what is no file stays closed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import synthetic
from PIL import Image

from bench.errors import BenchError
from bench.report import write_report
from bench.report.embed import embed
from bench.store import records
from bench.store.experiments import ExperimentFolder
from bench.store.files import no_link, picture, read_regular
from bench.store.lock import held
from bench.store.records import RunFolder
from bench.store.whole import replacing
from bench.verify import verify

GOOD: dict[str, Any] = {
    "format": 2, "id": "a-s0-00000000", "variant": "a", "seed": 0, "status": "finished", "run": {},
}  # fmt: skip
BAD = {
    "digits": {"seed": 10**4000},
    "vast": {"metrics": {"elbo": 1e308}},
    "infinite": {"environment": {"x": float("inf")}},
    "surrogate": {"reason": "\ud800"},
    "nul": {"reason": "a\0b"},
    "nul in a name": {"metrics": {"a\0b": 1.0}},
    "metrics": {"metrics": {f"m{i}": 0.0 for i in range(20_000)}},
    "epochs": {"curves": [{"epoch": 1}] * 100_001},
    "no epoch": {"curves": [{"elbo": 1.0}]},
    "data": {"data": {"name": 1}},
    "diverged": {"diverged": {"epoch": "one"}},
} | {f"no {key}": {key: ...} for key in GOOD}  # fmt: skip


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_what_is_no_record_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    record = {key: value for key, value in (GOOD | change).items() if value is not ...}
    text = json.dumps(record).replace("Infinity", "1e999")
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(BenchError, match=r"record\.json is (truncated|not a bench record)") as caught:
        records.read(tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    (tmp_path / "record.json").write_text(json.dumps(GOOD))
    assert records.read(tmp_path) == GOOD


@pytest.mark.parametrize("rows", ["x", [1], [None], {"a": 1}])
def test_baselines_of_a_wrong_type_are_named(tmp_path: Path, rows: object) -> None:
    (tmp_path / "baselines.json").write_text(json.dumps({"rows": rows}))
    with pytest.raises(BenchError, match=r"baselines\.json cannot be used \(rows"):
        ExperimentFolder(tmp_path).baselines()


def test_only_regular_files_of_the_folder_itself_are_read(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "runs/key/pictures"
    secret.mkdir()
    folder.mkdir(parents=True)
    (secret / "x.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(secret / "x.png")
    os.mkfifo(folder / "fifo.png")
    (folder / "folder.png").mkdir()
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "x.png").write_bytes(b"own")
    assert read_regular(folder / "x.png", 3, under=3) == b"own"
    for name in ("link.png", "fifo.png", "folder.png", "zero.png", "absent.png"):
        with pytest.raises(OSError, match=r"regular|link|No such"):
            read_regular(folder / name, 100, under=3)
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_regular(folder / "x.png", 2)
    with pytest.raises(OSError, match="regular"):
        read_regular(Path("/dev/zero"), 100)
    assert RunFolder(folder.parent).files() == ["pictures/x.png"]
    for at in (folder, folder.parent):  # a folder on the way is a link
        at.rename(tmp_path / "away")
        at.symlink_to(tmp_path / "away")
        with pytest.raises(OSError, match="a link"):
            read_regular(folder / "x.png", 100, under=3)
        with pytest.raises(OSError, match="a link"):
            no_link(at)
        at.unlink()
        (tmp_path / "away").rename(at)


def test_a_picture_is_png_or_gif_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would hand EPS, whatever its name, to Ghostscript."""
    monkeypatch.setattr("subprocess.Popen", None)
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(OSError, match="identify"):
        picture(path)
    assert embed(path) is None
    Image.new("L", (64, 64)).save(path)
    assert picture(path).size == (64, 64)
    monkeypatch.setattr("bench.store.files.PIXELS", 64 * 64 - 1)
    with pytest.raises(ValueError, match="pixels"):
        picture(path)


def test_a_lock_is_no_link(tmp_path: Path) -> None:
    """What takes a lock writes its name there."""
    (tmp_path / "mine").write_text("kept")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(BenchError, match="is a link"), held(tmp_path / ".lock", "it", "give another folder"):
        raise AssertionError("held")
    assert (tmp_path / "mine").read_text() == "kept"


def test_a_hidden_file_beside_is_replaced_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    (tmp_path / f".x.{os.getpid()}").symlink_to(tmp_path / "mine")
    with replacing(tmp_path / "x") as partial:
        partial.write_text("new")
    assert [(tmp_path / name).read_text() for name in ("mine", "x")] == ["kept", "new"]


def test_a_file_of_any_size_is_a_difference_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sparse files cost their maker nothing; reading them would take hours, and comparing lines days."""
    monkeypatch.setattr("bench.report.figures.draw", lambda _: {})
    synthetic.write(tmp_path / "reports/a", {"v": synthetic.settings()}, (0,), pictures=True)
    folder = tmp_path / "reports/a"
    write_report(folder, figures=False)
    [run] = synthetic.runs_of(folder).values()
    picture_there = next(run.glob("pictures/*.png"))
    for file in (picture_there, folder / "effects.csv", folder / "report.html", folder / "figures/x.png"):
        file.parent.mkdir(exist_ok=True)
        with file.open("ab") as stream:
            stream.truncate(10**12)
    (folder / "report.md").write_text("\n" * 200_000)
    told = verify(folder).differences
    assert "report.md, lines: found 200001, " in "\n".join(told)
    assert any(line.startswith("report.html: cannot be read: more than ") for line in told)
    assert all(line.isprintable() for line in told)
