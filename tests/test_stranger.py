"""A report folder from a stranger: what is no record is told in one line, what is no file stays closed."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import synthetic
from fuzz_cases import template
from PIL import Image
from pydantic import ValidationError
from test_fuzz_files import places
from test_hostile import Tags, rendered

from bench.cli import main
from bench.errors import BenchError
from bench.report import write_report
from bench.report.embed import embed
from bench.runs.sync import describe
from bench.store import records
from bench.store.experiments import ExperimentFolder
from bench.store.files import no_link, picture, read_regular
from bench.store.lock import held
from bench.store.records import RunFolder
from bench.store.shapes import Baselines, Recorded, Spec, shape
from bench.store.whole import replacing
from bench.tracking import entries
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


@pytest.mark.parametrize(
    ("where", "content"),
    [
        *(("rows", {"rows": rows}) for rows in ("x", [1], [None], {"a": 1})),
        *(("of.latents", {"of": {"latents": of}}) for of in (["x"], [0], [10**9], "2", [[2]], None)),
    ],
)
def test_baselines_that_cannot_be_used_are_named(tmp_path: Path, where: str, content: object) -> None:
    (tmp_path / "baselines.json").write_text(json.dumps(content))
    with pytest.raises(BenchError, match=rf"baselines\.json cannot be used \({where}"):
        ExperimentFolder(tmp_path).baselines()


WORD = (  # what each place takes for more than text; the number says of which field it is
    "=1+1 http://evil.example/{0} www.evil.example/{0} me@evil.example [x](http://evil.example/{0}) "
    "![y](z{0}) <img src=x onerror=a({0})> <script> x;=cmd{0}() \x1b[31m\u202e `a`|b"
)


def filled(good: dict[str, Any], kind: Any, keep: tuple[str, ...], marks: dict[int, str]) -> dict[str, Any]:
    """Put the word into each place of a file that may hold text; `marks` numbers these places."""
    made = json.loads(json.dumps(good))
    for at in [*places(good)]:
        inside = made
        for key in at[:-1]:
            inside = inside[key]
        if at[0] in keep or not isinstance(old := inside[at[-1]], str | None):
            continue
        inside[at[-1]] = WORD.format(mark := len(marks))
        try:
            shape(kind).validate_python(made, strict=True)
        except ValidationError:
            inside[at[-1]] = old
        else:
            marks[mark] = ".".join(map(str, at))
    return made


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A report folder each text of which tries to get out of its place, and the names of these fields."""
    root, marks = tmp_path_factory.mktemp("stranger"), dict[int, str]()
    files = template(root)
    folder = root / "reports/odd"
    for name, kind, keep in (
        *((name, Recorded, ("id", "variant")) for name in files if name.endswith("record.json")),
        ("reports/odd/experiment.json", Spec, ("planned",)),
        ("reports/odd/baselines.json", Baselines, ()),
    ):
        good = json.loads(files[name]) | ({"reason": "why", "origin": "who"} if kind is Recorded else {})
        (root / name).write_text(json.dumps(filled(good, kind, keep, marks)))
    write_report(folder, figures=False, latex=True)
    return folder, {*marks.values()}


def test_no_field_of_a_stranger_is_more_than_text_in_a_report(stranger: tuple[Path, set[str]]) -> None:
    folder, fields = stranger
    assert {"command", "question", "reason", "data.name", "environment.device", "rows.0.name"} <= fields
    markdown, page = ((folder / name).read_text() for name in ("report.md", "report.html"))
    assert "evil.example" in markdown
    assert "evil.example" in page
    for shown, source in ((rendered(markdown), "figures/"), (page, "data:image/")):
        for tag, attributes in Tags(shown).found:
            assert not [key for key in attributes if key.startswith("on")], (tag, attributes)
            assert str(attributes.get("href", "#")).startswith("#"), attributes
            assert str(attributes.get("src", source)).startswith(source), attributes
    assert [tag for tag, _ in Tags(rendered(markdown)).found if tag in ("script", "style", "iframe")] == []
    # GitHub makes links of bare addresses, except in code
    bare = re.sub(r"(`+).*?\1", "", markdown, flags=re.DOTALL)
    assert not re.search(r"(https?|ftp)://|\bwww\.\w|\w@\w", bare)
    for file in folder.glob("*.*"):
        text = file.read_text()
        assert {c for c in text if not c.isprintable()} <= {"\n", "\xa0"}, file
        if file.suffix == ".csv":  # which some programs take apart at semicolons
            cells = [
                part for row in csv.reader(text.splitlines()) for cell in row for part in cell.split(";")
            ]
            assert not [cell for cell in cells if cell[:1] in ("=", "+", "@")], file


def test_no_field_of_a_stranger_is_more_than_text_in_mlflow(stranger: tuple[Path, set[str]]) -> None:
    folder, _ = stranger
    told: list[str] = []
    sent: dict[str, str] = {}
    store: Any = SimpleNamespace(describe=told.append, summary=lambda _, texts: sent.update(texts))
    write_report(folder, figures=False)
    due = {
        file.name: file.read_text() for file in folder.glob("*.*") if file.suffix in (".md", ".html", ".csv")
    }
    for name in ("report.md", "report.html", "results.csv"):
        (folder / name).write_text("## Answer\n<img src=http://evil.example/report><script>1</script>")
    describe(store, folder)
    assert sent == due
    runs = [records.read(path) or {} for path in synthetic.runs_of(folder).values()]
    told += [entries.tags(run, "odd", folder)["mlflow.note.content"] for run in runs]
    for text in told:
        assert {c for c in text if not c.isprintable()} <= {"\n", "\xa0"}
        for tag, attributes in Tags(rendered(text)).found:
            assert tag not in ("img", "script"), text
            assert str(attributes.get("href", "#")).startswith("#"), text
    assert "evil.example/report" not in told[0]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_no_field_of_a_stranger_drives_a_terminal(
    stranger: tuple[Path, set[str]], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a terminal that knows few letters stop a command."""
    folder, _ = stranger
    monkeypatch.chdir(folder.parents[1])
    for words in (
        ["report", folder], ["verify", folder], ["compare", "a", "b", "--report", folder], ["parts"],
        ["plan", "odd.yaml", "--seeds", "1", "--device", "cpu"], ["compare", folder, folder],
    ):  # fmt: skip
        shown = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        for name, given in zip(
            ("argv", "stdout", "stderr"), (["bench", *map(str, words)], *shown), strict=True
        ):
            monkeypatch.setattr(sys, name, given)
        with pytest.raises(SystemExit) as end:
            main()
        monkeypatch.undo()
        monkeypatch.chdir(folder.parents[1])
        for stream in shown:
            stream.seek(0)
        told = [stream.read() for stream in shown]
        assert end.value.code in (0, 1), (words, told)
        assert {c for text in told for c in text if not c.isprintable()} <= {"\n", "\xa0"}, words


def test_the_longest_record_there_may_be_is_reported_in_seconds(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "reports/a", {"a": synthetic.settings()}, (0, 1))
    file = next(iter(synthetic.runs_of(folder).values())) / "record.json"
    record = json.loads(file.read_text())
    record["curves"] = [record["curves"][0] | {"epoch": epoch} for epoch in range(1, 100_001)]
    more = 1_000 - len(record["metrics"])
    record["metrics"] |= {f"m{number}": 0.5 for number in range(more)}
    file.write_text(json.dumps(record))
    began = time.process_time()
    write_report(folder, figures=False)
    assert time.process_time() - began < 20  # 3 on the slowest machine tried


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
