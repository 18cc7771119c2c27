"""Registries read from source: options, defaults and summaries, of fake modules and of the real ones."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import ValidationError

from bench.errors import BenchError
from bench.spec import registry as parts

FAKE = '''
"""A module of parts."""

from torch import nn

class Base(nn.Module):
    """A base.

    More words.
    """
    def __init__(self, pixels: int, *, width: PositiveInt, rate: Positive = 1e-3) -> None: ...

class Child(Base):
    """A child, with its parent's options."""

class Bare:
    """No options."""

def made(parameters, *, kind: Literal["a", "b"] = "a", flag: bool = False):
    """A function; its keyword-only parameters are options."""

PARTS = {"base": Base, "child": Child, "bare": Bare, "made": made}
TYPED: dict[str, type] = {"bare": Bare}
CALLED = {"bad": Base(3)}
LISTED = ["base"]
'''

METRICS = """
PAPER = "A paper"

class Metric:
    name: str
    title: str
    unit: str
    function: object
    reference: str = ""
    description: str = ""

METRICS = (
    Metric("elbo", "ELBO", "nats/image", lambda m: m.elbo, reference=PAPER),
    Metric("mse", "MSE", "per pixel", lambda m: m.mse, description="what it is"),
)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    path = tmp_path / "fake.py"
    path.write_text(FAKE)
    return path


def test_options_are_the_keyword_only_parameters(fake):
    read = parts.read_registry(fake, "PARTS", "encoder")
    assert list(read) == ["base", "child", "bare", "made"]
    assert [(o.name, o.default) for o in read["base"].options] == [("width", None), ("rate", "0.001")]
    assert read["child"].options == read["base"].options
    assert read["bare"].options == ()
    assert [o.signature for o in read["made"].options] == ["kind='a'", "flag=False"]


def test_what_an_option_allows_is_said_in_words(fake):
    read = parts.read_registry(fake, "PARTS", "encoder")
    assert [o.allowed for o in read["base"].options] == ["a whole number of at least 1", "a number above 0"]
    assert [o.allowed for o in read["made"].options] == ["a or b", "true or false"]


def test_the_summary_is_the_first_line_of_the_docstring(fake):
    read = parts.read_registry(fake, "PARTS", "encoder")
    assert read["base"].summary == "A base."
    assert read["child"].summary == "A child, with its parent's options."


def test_the_model_fills_defaults_and_makes_floats_of_whole_numbers(fake):
    model = parts.read_registry(fake, "PARTS", "encoder")["base"].model
    assert model.model_validate({"width": 3, "rate": 1}).model_dump() == {"width": 3, "rate": 1.0}
    assert isinstance(model.model_validate({"width": 3, "rate": 1}).model_dump()["rate"], float)
    assert model.model_validate({"width": 3}).model_dump() == {"width": 3, "rate": 1e-3}


@pytest.mark.parametrize(
    "values", [{}, {"width": True}, {"width": "3"}, {"width": 3.0}, {"width": 0}, {"width": 3, "rate": True},
               {"width": 3, "rate": "1"}, {"width": 3, "rate": float("inf")}, {"width": 3, "other": 1}]
)  # fmt: skip
def test_the_model_is_strict(fake, values):
    with pytest.raises(ValidationError):
        parts.read_registry(fake, "PARTS", "encoder")["base"].model.model_validate(values)


def test_an_annotated_registry_is_read(fake):
    assert list(parts.read_registry(fake, "TYPED", "encoder")) == ["bare"]


@pytest.mark.parametrize("registry", ["CALLED", "LISTED", "ABSENT"])
def test_another_shape_of_registry_is_refused(fake, registry):
    with pytest.raises(BenchError, match=r"fake\.py"):
        parts.read_registry(fake, registry, "encoder")


def test_a_module_that_is_missing_or_broken_is_refused(tmp_path):
    (tmp_path / "broken.py").write_text("def")
    for name in ("missing.py", "broken.py"):
        with pytest.raises(BenchError, match="installation is incomplete"):
            parts.read_registry(tmp_path / name, "PARTS", "encoder")


def test_metrics_are_read_by_their_literals(tmp_path):
    path = tmp_path / "metrics.py"
    path.write_text(METRICS)
    elbo, mse = parts.read_registry(path, "METRICS", "metric").values()
    assert [(elbo.name, elbo.summary), (mse.name, mse.summary)] == [("elbo", "ELBO"), ("mse", "what it is")]


def test_an_unknown_name_gets_the_nearest_known():
    with pytest.raises(BenchError, match="did you mean 'bernoulli'"):
        parts.part("likelihood", "bernouli")
    with pytest.raises(BenchError, match="did you mean 'likelihood'"):
        parts.part("likelihoods", "bernoulli")


@pytest.mark.parametrize("kind", parts.part_kinds())
def test_every_real_part_has_a_summary_and_typed_options(kind):
    for entry in parts.entries(kind).values():
        assert entry.summary, f"{kind} {entry.name} has no docstring"
        assert all(option.allowed != "a value" for option in entry.options), f"{kind} {entry.name}: untyped"


@pytest.mark.parametrize("kind", [kind for kind in parts.part_kinds() if kind != "metric"])
def test_what_is_read_is_what_the_modules_say(kind):
    module, registry = parts.REGISTRIES[kind]
    real = getattr(import_module("bench." + module.removesuffix(".py").replace("/", ".")), registry)
    read = parts.entries(kind)
    assert list(read) == list(real)
    for name, made in real.items():
        signature = inspect.signature(made).parameters.values()
        only = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
        assert [option.name for option in read[name].options] == list(only)
        required = {key for key, default in only.items() if default is inspect.Parameter.empty}
        assert {o.name for o in read[name].options if o.default is None} == required
        for key, field in read[name].model.model_fields.items():
            assert key in required or field.default == only[key]


def test_no_heavy_import():
    heavy = "{'torch', 'numpy', 'mlflow', 'sklearn', 'pandas'}"
    every = "[p.entries(kind) for kind in p.part_kinds()]"
    code = f"import sys, bench.spec.registry as p; {every}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
