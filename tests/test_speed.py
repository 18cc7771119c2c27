"""The speed comparison: work counted by hand, both sides the same training, laps, and the report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from factory import SHAPE, a_dataset, a_run

from bench.engine.images import untrained
from bench.engine.loop import make_step
from bench.errors import BenchError
from bench.spec.experiment import Run
from bench.spec.resolve import load
from benchmarks import peer_loops, usual_loop
from benchmarks.speed import __main__ as command
from benchmarks.speed import rounds
from benchmarks.speed.limits import Work, work_of
from benchmarks.speed.race import Contestant, Pace, Task
from benchmarks.speed.report import render, with_ratio
from benchmarks.speed.rounds import TRAINER, USUAL, measure, race_cases, scaling_cases

RUNS = {name: variant.run(0) for name, variant in load(command.SPEC).variants.items()}
CPU = torch.device("cpu")
CROWD = Contestant("bench, 2 runs at once", "bench", 2)

# MACs and parameters by hand: layer sizes multiplied, and biases added
BY_HAND = {
    "mlp-512-256-2": (784 * 512 + 512 * 256 + 256 * 4 + 2 * 256 + 256 * 784, 736_532, 0.361),
    "linear-400-20": (651_200, 652_824, 0.420),
    "mlp-100-100-32": (186_400, 187_648, 0.123),
    "conv-bn-16": (1_135_616, 96_481, 0.859),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_work_is_what_counting_by_hand_gives(name: str) -> None:
    work = work_of(RUNS[name])
    macs, parameters, gflop = BY_HAND[name]
    assert (work.macs, work.parameters) == (macs, parameters)
    assert work.flops / 1e9 == pytest.approx(gflop, abs=5e-4)
    assert (work.traffic, work.state) == (40 * parameters, 16 * parameters)


def test_the_floor_adds_or_overlaps_arithmetic_and_traffic() -> None:
    work = Work(macs=10, first_macs=4, parameters=3, batch_size=5)
    assert work.flops == 2 * 26 * 5
    assert work.floor(260.0, 60.0) == (pytest.approx(1 + 2), pytest.approx(2))


@pytest.mark.parametrize("name", RUNS)
def test_both_sides_train_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same weights, images and noise: the same loss, and the same parameters after a step of Adam."""
    run, data = RUNS[name], a_dataset()
    assert usual_loop.BATCH_SIZE[name] == run.batch_size
    vae = untrained(run, SHAPE).train()
    batch = data.train_images[: run.batch_size]
    noise = torch.randn(len(batch), run.latent, generator=torch.Generator().manual_seed(1))
    images = usual_loop.Images(batch, data.train_labels, usual_loop.transform(name))
    loop = usual_loop.UsualLoop(name, images, run.batch_size)
    with torch.no_grad():  # both sides list encoder, heads, decoder
        for mine, theirs in zip(vae.parameters(), loop.model.parameters(), strict=True):
            theirs.copy_(mine)
    before = [p.detach().clone() for p in vae.parameters()]
    monkeypatch.setattr(torch, "randn_like", lambda std: noise)
    monkeypatch.setattr(torch, "randperm", lambda n, generator=None: torch.arange(n))
    loss = loop.train(1)
    assert float(make_step(run, vae)(batch.flatten(1).float() / 255, noise[None]).sum()) == pytest.approx(
        loss, rel=1e-5
    )
    old, a, b = (
        torch.cat([p.detach().flatten() for p in parameters])
        for parameters in (before, vae.parameters(), loop.model.parameters())
    )
    # Adam's first step is lr·sign(g): where g is lost in rounding, as before BatchNorm, a sign may differ
    assert ((a - b).abs() < 1e-5).double().mean() > 0.98
    assert 1e-4 < (a - old).abs().max() < 1.01e-3


@pytest.mark.parametrize("name", RUNS)
def test_the_other_loops_train_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the usual loop's weights, images and noise, Lightning's way comes to its parameters."""
    data, batch = a_dataset(), usual_loop.BATCH_SIZE[name]
    images, labels = data.train_images[:batch], data.train_labels[:batch]
    usual = usual_loop.UsualLoop(name, usual_loop.Images(images, labels, usual_loop.transform(name)), batch)
    other = peer_loops.TrainerLoop(name, images, labels, batch, "cpu")
    other.module.model.load_state_dict(usual.model.state_dict())
    noise = torch.randn(batch, RUNS[name].latent, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "randn_like", lambda std: noise)
    monkeypatch.setattr(torch, "randperm", lambda n, generator=None: torch.arange(n))
    assert other.train(2) == pytest.approx(usual.train(2), rel=1e-6)
    for a, b in zip(usual.model.parameters(), other.module.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_pythae_trains_the_same_networks() -> None:
    pytest.importorskip("pythae")
    data = a_dataset()
    loop = peer_loops.PythaeLoop("linear-400-20", data.train_images, data.train_labels, 64, "cpu")
    losses = [loop.train(6) for _ in range(5)]
    assert losses[-1] < 0.95 * losses[0]


def test_the_usual_loop_needs_no_bench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(usual_loop.__file__).read_text(encoding="utf-8")
    assert not re.search(r"^\s*(from|import) bench", source, re.MULTILINE)
    monkeypatch.setattr("sys.argv", ["usual_loop.py", "--help"])
    with pytest.raises(SystemExit):
        usual_loop.main()
    assert "linear-400-20" in capsys.readouterr().out


# Laps


def tiny(**changes: Any) -> Task:
    data, run = a_dataset(), a_run(variant="mlp-100-100-32", batch_size=16, **changes)
    return Task(run, data.train_images, data.train_labels, CPU, Pace(steps=1))


# Rounds


def a_row(rate: float, **changes: Any) -> dict[str, Any]:
    """A lap's row."""
    facts = {"seconds": 1.0, "steps": 10, "threads": 1, "peak_mb": 400.0, "healthy": True}
    return {"images_per_second": rate} | facts | changes


def test_laps_of_threads_on_one_core_are_discarded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    laps = iter([a_row(1, healthy=False), a_row(2), *[a_row(3, healthy=False)] * 3])
    monkeypatch.setattr(rounds, "lap", lambda *_: next(laps))
    measured = measure(race_cases([tiny().run], [USUAL]), a_dataset(), CPU, Pace(), 2)
    assert [*measured.images_per_second] == [2, 3]
    assert [*measured.attempts] == [2, 3]
    assert capsys.readouterr().err.count("discarded") == 3


def test_scaling_changes_one_factor_at_a_time() -> None:
    run = RUNS["linear-400-20"]
    cases = scaling_cases(run, CPU)
    usual = [case.labels["factor"] for case in cases if case.labels["usual_value"]]
    assert usual == ["seeds", "batch size", "width", "latent size"]
    for case in cases:
        fields = {k for k in Run.model_fields if getattr(case.run, k) != getattr(run, k)}
        assert fields in (set(), {"batch_size"}, {"encoder", "decoder"}, {"latent"})
        work_of(case.run)


def test_too_few_images_are_refused() -> None:
    run = RUNS["mlp-512-256-2"].model_copy(update={"batch_size": 1000})
    with pytest.raises(BenchError, match="130 training images, mlp-512-256-2 takes batches of 1000"):
        measure(race_cases([run], [USUAL]), a_dataset(), CPU, Pace(), 1)


# The report


def a_measurement() -> pd.DataFrame:
    peaks = {"gemm_flops": 3e11, "stream_bytes_per_second": 8e10}
    return pd.DataFrame(
        {"architecture": "linear-400-20", "contestant": name, "round": i, **row, "attempts": 1}
        for i, (slow, fast) in enumerate([(1000, 6000), (2000, 8000), (1500, 9000)], 1)
        for name, row in ((USUAL.name, a_row(slow)), (CROWD.name, a_row(fast, **peaks)))
    )


def rendered(laps: pd.DataFrame, scaling: pd.DataFrame | None = None) -> str:
    work = {"linear-400-20": work_of(RUNS["linear-400-20"])}
    return render("tiny, 3 images", laps, work, {"device": "cpu", "torch": "2"}, scaling)


def test_the_report_says_what_was_measured() -> None:
    laps = a_measurement()
    assert [*with_ratio(laps).ratio_to_usual] == [1.0, 6.0, 1.0, 4.0, 1.0, 6.0]
    shown = rendered(laps)
    assert "| linear-400-20 | usual loop | 1,500 (1,000–2,000) |  |" in shown
    assert "| bench, 2 runs at once | 8,000 (6,000–9,000) | **6.00 (4.00–6.00)** |" in shown
    # 0.420 GFLOP at 300 GFLOP/s and 26.1 MB at 80 GB/s, against 128 images at 8,000 images/s
    assert "| bench, 2 runs at once | 300 (300–300) | 80 (80–80) | 1.73 | 16.00 | 11% (9%) |" in shown
    assert "651,200" in shown
    assert "0 laps failed" in shown
    assert "Scaling" not in shown
    assert not re.search(r"\d{4}-\d\d-\d\d", shown), "the same measurements give the same report"


def test_the_measured_report_is_what_its_csv_gives() -> None:
    measured = Path(usual_loop.__file__).with_name("measured")
    laps = pd.read_csv(measured / "results.csv").assign(attempts=1)
    work = {name: work_of(run) for name, run in RUNS.items()}
    shown = render("mnist", laps.drop(columns="ratio_to_usual"), work, {}, None).split("\n## ")[1:-1]
    assert shown == (measured / "report.md").read_text(encoding="utf-8").split("\n## ")[1:-1]


def test_a_small_comparison_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes, a few steps: every number is there and positive."""
    alone = Contestant("bench", "bench")
    monkeypatch.setattr(command, "contestants_on", lambda _, **__: [USUAL, TRAINER, alone])
    monkeypatch.setattr(rounds, "ATTEMPTS", 1)
    data = a_dataset(train=140).share()
    path = command.speed([RUNS["mlp-100-100-32"]], data, "cpu", Pace(steps=2), 1, tmp_path)
    assert sorted(p.name for p in (tmp_path / "speed").iterdir()) == ["report.md", "results.csv"]
    laps = pd.read_csv(path.with_name("results.csv"))
    assert [*laps.contestant] == [USUAL.name, TRAINER.name, alone.name]
    positive = laps[["images_per_second", "ratio_to_usual", "gemm_flops", "stream_bytes_per_second"]]
    assert (positive > 0).to_numpy().all()
    assert laps.peak_mb.gt(50).all()
    assert laps.steps.eq(2).all()
    assert laps.device.eq("cpu").all()
    assert "mlp-100-100-32" in path.read_text()
