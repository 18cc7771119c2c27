"""A model comes back as it was saved, and what is drawn with it follows from the request alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import torch
from factory import SHAPE, a_dataset, a_run
from PIL import Image
from safetensors.torch import save_file

from bench import cli
from bench.data import datasets as data
from bench.errors import BenchError
from bench.parts.likelihoods import LIKELIHOODS
from bench.parts.networks import DECODERS, ENCODERS
from bench.parts.pixels import INPUTS, PIXELS
from bench.parts.posteriors import POSTERIORS
from bench.parts.priors import PRIORS
from bench.parts.vae import VAE, build
from bench.pictures import grids
from bench.runs.generate import Drawing, Places, find, generate, read_image
from bench.saved import load_model
from bench.spec.experiment import Run
from bench.store.records import RunFolder

TINY = a_dataset()
TILE = 56  # screen pixels of an image of 28


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set `tiny`, as every run of the factory names it."""
    monkeypatch.setitem(data.DATASETS, "tiny", lambda data_dir, download: TINY)


def model_of(run: Run, seed: int) -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(1000 + seed)  # not what the run's own seed would build
        return build(run, SHAPE)


def leave(reports: Path, run: Run, experiment: str = "one", status: str = "finished", **more: Any) -> Path:
    """A run's folder as bench leaves it, its experiment.json brought up to date."""
    run_id, key = run.identity(TINY.digest), run.key(TINY.digest)
    folder = RunFolder(reports / "runs" / key)
    folder.path.mkdir(parents=True, exist_ok=True)
    (reports / experiment).mkdir(exist_ok=True)
    if status != "failed":
        weights = model_of(run, run.seed).state_dict()
        save_file({name: value.contiguous() for name, value in weights.items()}, folder.weights)
    folder.write_record(
        {
            "id": run_id, "variant": run.variant, "seed": run.seed, "status": status,
            "reason": None if status == "finished" else "it went wrong",
            "run": run.model_dump(mode="json"), "data": {"name": "tiny", "digest": TINY.digest},
            "metrics": {"elbo": -100.0}, "curves": [], "artifacts": folder.artifacts(), **more,
        }
    )  # fmt: skip
    file = reports / experiment / "experiment.json"
    known = json.loads(file.read_text()) if file.exists() else {"variants": {}, "planned": {}}
    known["variants"][run.variant] = {}
    known["planned"][run_id] = {"variant": run.variant, "seed": run.seed, "run": key}
    file.write_text(json.dumps(known))
    return folder.path


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Two experiments: `one` has the variants small and flat (latent 2), `two` has flat alone."""
    made = tmp_path / "reports"
    leave(made, a_run(), status="diverged")
    leave(made, a_run(seed=2))
    leave(made, a_run(seed=1))
    leave(made, a_run(variant="flat", latent=2))
    leave(made, a_run(variant="flat", latent=2, epochs=3), "two")
    return made


def drawn(what: str, reports: Path, experiment: str | None = None, **wanted: Any) -> Path:
    """The picture that was asked for."""
    out = reports / "drawn.png"
    return generate(what, Drawing(**wanted), Places(reports, experiment), out, force=True)


def tiles(picture: Path) -> np.ndarray[Any, Any]:
    """The images of a grid [rows, columns, 28, 28], undoing the enlargement."""
    with Image.open(picture) as file:
        pixels = np.asarray(file)[::2, ::2]
    rows, columns = pixels.shape[0] // 28, pixels.shape[1] // 28
    return pixels.reshape(rows, 28, columns, 28).swapaxes(1, 2)


# Loading

ALL_PARTS = [
    (kind, name)
    for kind, registry in {
        "encoder": ENCODERS, "decoder": DECODERS, "posterior": POSTERIORS, "likelihood": LIKELIHOODS,
        "input": INPUTS, "target": PIXELS, "prior": PRIORS,
    }.items()
    for name in registry
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), ALL_PARTS)
def test_every_part_comes_back_as_it_was_saved(kind: str, name: str, tmp_path: Path) -> None:
    if name == "flow":
        pytest.importorskip("zuko")
    options = {"hidden": [9]} if (kind, name) == ("decoder", "mlp") else {}
    run = a_run(**{kind: factory.part(name, **options)})
    folder = leave(tmp_path, run)
    before = torch.get_rng_state()
    loaded = load_model(str(folder))
    assert not loaded.training
    kept = model_of(run, run.seed).state_dict()
    assert loaded.state_dict().keys() == kept.keys()
    assert all(torch.equal(value, kept[key]) for key, value in loaded.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)  # which loading leaves alone


def edit(folder: Path, **changes: Any) -> None:
    """A record that says something else."""
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | changes))


def edit_run(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "record.json").read_text())
    edit(folder, run=record["run"] | changes)


SPOILT: dict[str, Callable[[Path], object]] = {
    "no record": lambda f: (f / "record.json").unlink(),
    "a run of another version": lambda f: edit_run(f, latent="three"),
    "unknown part": lambda f: edit_run(f, encoder={"name": "transformer", "options": {}}),
    "unknown option": lambda f: edit_run(f, encoder={"name": "mlp", "options": {"hidden": [9], "depth": 7}}),
    "no shape": lambda f: edit(f, data={"shape": [28, "28"]}),
    "endless images": lambda f: edit(f, data={"shape": [28, 10**30]}),
    "no weights": lambda f: (f / "weights.safetensors").unlink(),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_not_the_run_is_refused_in_one_line(how: str, tmp_path: Path) -> None:
    folder = leave(tmp_path, a_run())
    SPOILT[how](folder)
    with pytest.raises(BenchError, match=r"; |give") as told:
        load_model(folder)
    assert "\n" not in str(told.value)


def test_a_run_without_weights_says_why(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"kept no weights \(failed: it went wrong"):
        load_model(leave(tmp_path, a_run(), status="failed"))


# Finding


def found(what: str, reports: Path, experiment: str | None = None) -> Run:
    return find(what, Places(reports, experiment), reports).run


def test_a_run_is_found_by_folder_key_id_and_variant(reports: Path) -> None:
    run = a_run(seed=2)
    key = run.key(TINY.digest)
    folder = reports / "runs" / key
    for what in (str(folder), str(folder / "record.json"), key, run.identity(TINY.digest)):
        assert found(what, reports).seed == 2
    assert found("small", reports).seed == 1  # seed 0 diverged: the smallest that finished
    assert found(a_run().identity(TINY.digest), reports).seed == 0  # unless it is named itself


def test_a_variant_of_two_experiments_needs_one_unless_both_mean_one_run(reports: Path) -> None:
    with pytest.raises(BenchError, match=r"flat is in one, two; say which with --experiment"):
        found("flat", reports)
    assert found("flat", reports, "two").epochs == 3
    name_in_two(reports, "small")
    assert found("small", reports).seed == 1


def name_in_two(reports: Path, variant: str) -> None:
    """Seed 1 of `small` is all there is to the experiment `two`, under this name."""
    planned = {"variant": variant, "seed": 1, "run": a_run(seed=1).key(TINY.digest)}
    content = {"variants": {variant: {}}, "planned": {f"{variant}-s1-01234567": planned}}
    (reports / "two/experiment.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("what", "experiment", "told"),
    [
        ("smal", None, "did you mean 'small'"),
        ("a" * 500, None, "no run's folder"),
        ("", None, "no run's folder"),
        ("..", None, "no run's folder"),
        ("none/of/it", None, r"holds no record\.json"),
        ("small", "on", "did you mean 'one'"),
        ("small", "two", "known: flat"),
        ("lost", None, "lost has no finished run in one"),
    ],
)
def test_what_is_not_found_says_what_is(what: str, experiment: str | None, told: str, reports: Path) -> None:
    leave(reports, a_run(variant="lost"), status="diverged")
    with pytest.raises(BenchError, match=told):
        found(what, reports, experiment)


def test_nothing_is_found_where_nothing_is_and_nothing_is_made_there(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no experiment"):
        found("small", tmp_path / "nothing")
    with pytest.raises(BenchError, match="there is no MLflow store"):
        generate("f" * 32, Drawing(), Places(tmp_path, None, f"sqlite:///{tmp_path}/store.db"))
    assert not list(tmp_path.iterdir())


# Drawing


@pytest.mark.parametrize("kind", ["samples", "reconstructions", "interpolations", "manifold"])
def test_the_same_seed_gives_the_same_bytes(kind: str, reports: Path) -> None:
    n = {"manifold": 16, "interpolations": 20}.get(kind, 13)
    first, again, other = (
        drawn("flat", reports, "one", kind=kind, n=n, seed=seed).read_bytes() for seed in (7, 7, 8)
    )
    assert first == again
    assert (first != other) is (kind != "manifold")  # which has nothing random in it


def test_samples_are_those_of_the_report(reports: Path) -> None:
    model = load_model(reports / "runs" / a_run(seed=1).key(TINY.digest))
    with Image.open(drawn("small", reports, seed=4)) as file:
        assert np.array_equal(np.asarray(file), np.asarray(grids.samples(model, (28, 28), 4)))


def test_odd_rows_are_test_images_in_order_of_their_digit(reports: Path) -> None:
    rows = tiles(drawn("small", reports, kind="reconstructions", n=25))
    assert rows.shape[:2] == (6, 10)  # three rows of originals, each over its reconstructions
    originals = [np.ascontiguousarray(image) for image in rows[::2].reshape(-1, 28, 28)[:25]]
    pairs = zip(TINY.test_images, TINY.test_labels, strict=True)
    known = {image.numpy().tobytes(): int(label) for image, label in pairs}
    digits = [known[image.tobytes()] for image in originals]
    assert digits == sorted(digits)
    assert len({image.tobytes() for image in originals}) == 25


def test_images_given_are_used_in_their_order(reports: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}-given.png" for i in range(3)]
    for i, file in enumerate(files):
        Image.fromarray(TINY.test_images[i].numpy()).save(file)
    given = TINY.test_images[:3].numpy()
    rows = tiles(drawn("small", reports, kind="reconstructions", images=tuple(files)))
    assert np.array_equal(rows[0, :3], given)
    picture = drawn("small", reports, kind="interpolations", images=tuple(files))
    with Image.open(picture) as file:
        file.crop((0, 0, TILE, file.height)).save(tmp_path / "from.png")
        file.crop((file.width - TILE, 0, file.width, file.height)).save(tmp_path / "to.png")
    assert np.array_equal(tiles(tmp_path / "from.png")[:, 0], given)
    assert np.array_equal(tiles(tmp_path / "to.png")[:, 0], given[[1, 2, 0]])


def test_data_of_another_digest_is_refused(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(TINY, digest="0" * 32)
    monkeypatch.setitem(data.DATASETS, "tiny", lambda data_dir, download: other)
    with pytest.raises(BenchError, match="not what the run was measured on"):
        drawn("small", reports, kind="reconstructions")


# Images given

GREY = (torch.arange(28 * 20) % 251).to(torch.uint8).view(28, 20).numpy()


@pytest.mark.parametrize("pixels", [GREY, GREY.astype(np.uint16) * 257], ids=["8 bits", "16 bits"])
def test_a_grey_picture_of_the_right_size_is_read_as_it_is(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", (28, 20)).numpy(), GREY)


def test_what_is_clear_is_black_and_what_is_narrow_is_padded(tmp_path: Path) -> None:
    pixels = np.full((56, 28, 4), 255, np.uint8)
    pixels[28:, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png", (28, 28))
    assert (read[:13, 8:20] == 255).all()
    assert not read[15:].any()
    assert not read[:, :7].any()


def test_a_jpeg_in_colour_is_read_and_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (280, 280), (255, 255, 255)).save(tmp_path / "a.jpg")
    assert (read_image(tmp_path / "a.jpg", (28, 28)) > 250).all()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(GREY).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    Image.fromarray(GREY).save(tmp_path / "a.bmp")
    os.mkfifo(tmp_path / "fifo.png")  # nobody writes into it: it is not waited for
    for name in ("text.png", "empty.png", "cut.png", "a.bmp", "absent.png", ".", "fifo.png", "/dev/zero"):
        with pytest.raises(BenchError, match=r"^--from-images .*; give a PNG or JPEG file$"):
            read_image(tmp_path / name, (28, 28))


# MLflow


def test_a_run_of_a_store_is_drawn_as_from_its_folder(uri: str, reports: Path, tmp_path: Path) -> None:
    from bench.tracking import Attempt, Tracker

    folder = reports / "runs" / a_run(seed=2).key(TINY.digest)
    tracker = Tracker(uri, "drawn")
    mlflow_id = tracker.deliver(RunFolder(folder).read() or {}, Attempt(folder))
    places = Places(tmp_path / "none", tracking_uri=uri)
    there = generate(mlflow_id, Drawing(n=5), places, tmp_path / "b.png").read_bytes()
    assert drawn(str(folder), reports, n=5).read_bytes() == there

    with pytest.raises(BenchError, match="holds no run ffff"):
        generate("f" * 32, Drawing(), places, tmp_path / "c.png")
    folder = leave(reports, a_run(seed=3), status="failed")
    failed = tracker.deliver(RunFolder(folder).read() or {}, Attempt(folder))
    with pytest.raises(BenchError, match="to give"):
        generate(failed, Drawing(), places, tmp_path / "c.png")


# The command


def command(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command_writes_a_png_once(
    reports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "generate", "small", "--n", "3") == 0
    assert capsys.readouterr().out == "small-samples.png\n"
    before = Path("small-samples.png").read_bytes()
    assert command(monkeypatch, "generate", "small", "--n", "4") == 2
    assert "exists; give another --out, or --force" in capsys.readouterr().err
    assert Path("small-samples.png").read_bytes() == before
    assert command(monkeypatch, "generate", "small", "--n", "40", "--force") == 0
    assert Path("small-samples.png").read_bytes() != before
    assert command(monkeypatch, "generate", "small", "--out", "deep/in/a.PNG") == 0
    assert Path("deep/in/a.PNG").is_file()


BAD = {
    "kind": "small --kind sample",
    "no images": "small --n 0",
    "too many images": "small --n 10001",
    "not a number": "small --n ten",
    "seed": "small --seed -1",
    "not a PNG": "small --out a.jpg",
    "a folder": "small --out folder.png",
    "a folder by force": "small --out folder.png --force",
    "unwritable": "small --out plain/a.png",
    "no square": "flat --experiment one --kind manifold --n 10",
    "manifold of three latents": "small --kind manifold",
    "half a row": "small --kind interpolations --n 25",
    "one row": "small --kind interpolations --n 10",
    "more than there are": "small --kind reconstructions --n 71",
    "images for samples": "small --from-images plain",
    "one image to interpolate": "small --kind interpolations --from-images plain",
    "no image": "small --kind reconstructions --from-images plain",
    "nothing": "",
    "unknown option": "small --colour",
    "too many words": "small flat",
}


@pytest.mark.usefixtures("reports")
@pytest.mark.parametrize("words", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_writes_nothing(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "plain").write_text("not a folder, not a picture")
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert command(monkeypatch, "generate", *words.split()) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("bench: ")
    assert told.err.count("\n") == 1
    assert set(tmp_path.rglob("*")) == before
