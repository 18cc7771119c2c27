"""Parts read from source: those of fake modules, the real ones, and a user's own."""

from __future__ import annotations

import inspect
import pickle
import re
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import ValidationError

from bench.data.vision import VISION
from bench.errors import BenchError
from bench.parts.files import part_class
from bench.parts.optimizers import TORCH_OPTIMIZERS, TORCH_SCHEDULES
from bench.spec import registry
from bench.spec.check import describe
from bench.spec.experiment import PARTS, Part, Run
from bench.spec.resolve import load

SOURCE = '''
import os
from bench.spec.options import PositiveInt
IMPORTED = open(__file__ + ".imported", "w").close()

class Mine:
    """Mine alone.

    More words.
    """
    def __init__(self, pixels: int, *, width: PositiveInt, rate: float | Literal["auto"] = 1,
                 sizes: list[int] = [2], flag: bool = False, word: str = "x") -> None:
        self.width = width

class Child(Mine): ...
class Circle(Turn): ...
class Turn(Circle): ...
def made(parameters, *, rate: Positive = 1e-3):
    """A function; its keyword-only parameters are options."""
def typed(*, width: os.PathLike): ...
def called(*, width: open("stolen", "w")): ...
def nested(*, width: list[list[int]]): ...
def none(*, width: int | None = None): ...
def bare(*, width=3): ...
def computed(*, width: int = 2 * 3): ...
def wrong(*, width: PositiveInt = 0): ...
def taken(*, copy: int = 1): ...

PARTS = {"mine": Mine, "child": Child, "none": Circle, "made": made}
TYPED: dict[str, type] = {"bare": Circle}
CALLED = {"bad": Mine(3)}
LISTED = ["mine"]
'''


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    (tmp_path / "fake.py").write_text(SOURCE)
    return tmp_path / "fake.py"


def test_options_are_the_keyword_only_parameters(fake):
    read = registry.read_registry(fake, "PARTS", "encoder")
    options = ("width=…", "rate=1", "sizes=[2]", "flag=False", "word='x'")
    assert {name: entry.options for name, entry in read.items()} == {
        "mine": options, "child": options, "none": (), "made": ("rate=0.001",)
    }  # fmt: skip
    assert read["mine"].summary == "Mine alone."
    assert list(registry.read_registry(fake, "TYPED", "encoder")) == ["bare"]


def test_the_model_fills_defaults_and_makes_floats_of_whole_numbers(fake):
    model = registry.read_registry(fake, "PARTS", "encoder")["mine"].model
    values = model.model_validate({"width": 3, "sizes": [4]}).model_dump()
    assert values == {"width": 3, "rate": 1.0, "sizes": [4], "flag": False, "word": "x"}
    assert isinstance(values["rate"], float)


@pytest.mark.parametrize(
    "values", [{}, {"width": True}, {"width": "3"}, {"width": 3.0}, {"width": 0}, {"width": 3, "rate": True},
               {"width": 3, "rate": "1"}, {"width": 3, "rate": float("inf")}, {"width": 3, "other": 1}]
)  # fmt: skip
def test_the_model_is_strict(fake, values):
    with pytest.raises(ValidationError):
        registry.read_registry(fake, "PARTS", "encoder")["mine"].model.model_validate(values)


@pytest.mark.parametrize("name", ["CALLED", "LISTED", "ABSENT"])
def test_another_shape_of_registry_is_refused(fake, name):
    with pytest.raises(BenchError, match=r"fake\.py"):
        registry.read_registry(fake, name, "encoder")


def test_a_module_that_is_missing_or_broken_is_refused(tmp_path):
    (tmp_path / "broken.py").write_text("def")
    for name in ("missing.py", "broken.py"):
        with pytest.raises(BenchError, match="installation is incomplete"):
            registry.read_registry(tmp_path / name, "PARTS", "encoder")


def test_an_unknown_name_gets_the_nearest_known():
    with pytest.raises(BenchError, match="did you mean 'bernoulli'"):
        registry.part("likelihood", "bernouli")


@pytest.mark.parametrize("kind", registry.REGISTRIES)
def test_every_real_part_has_a_summary_and_typed_options(kind):
    for entry in registry.entries(kind).values():
        assert entry.summary, f"{kind} {entry.name} has no docstring"
        allowed = [describe(field.annotation) for field in entry.model.model_fields.values()]
        assert "a value" not in allowed, f"{kind} {entry.name}: untyped"


@pytest.mark.parametrize("kind", registry.REGISTRIES)
def test_what_is_read_is_what_the_modules_say(kind):
    module, table = registry.REGISTRIES[kind]
    real = getattr(import_module("bench." + module.removesuffix(".py").replace("/", ".")), table)
    read = registry.entries(kind)
    assert list(read) == [*real, *(VISION if kind == "dataset" else ())]
    for name, made in real.items():
        if name in TORCH_OPTIMIZERS or name in TORCH_SCHEDULES:  # whose tests hold them to torch's signatures
            continue
        signature = inspect.signature(made).parameters.values()
        only = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
        assert list(read[name].model.model_fields) == list(only)
        for key, field in read[name].model.model_fields.items():
            assert field.is_required() == (only[key] is inspect.Parameter.empty)
            assert field.is_required() or field.default == only[key]


def test_every_data_set_says_the_shape_of_its_images():
    from bench.data.datasets import load as load_data

    assert {name: len(registry.image_shape(name)) for name in registry.entries("dataset")}
    assert registry.image_shape("digits") == load_data("digits").shape


# A part from a file of the user's own

TEXT = """question: Why?
variants:
  a: {encoder: {ENCODER}, decoder: {name: mlp, hidden: [5]}, latent: 2}
"""


def own_run(folder: Path, encoder: str = "file: own.py, name: Mine, width: 3", source: str = SOURCE) -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(source)
    (folder / "broken.py").write_text("class Mine:\n  def")
    (folder / "large.py").write_text("#" * 256_001)
    (folder / "deep.py").write_text("x = " + "-" * 100_000 + "1")
    (folder / "secret").write_text("hunter2")
    (folder / "f.yaml").write_text(TEXT.replace("ENCODER", encoder))
    return next(load(folder / "f.yaml").runs())


def test_a_part_of_a_file_is_checked_without_importing_it(tmp_path):
    part = own_run(tmp_path).encoder
    assert part.options == {"width": 3, "rate": 1.0, "sizes": [2], "flag": False, "word": "x"}
    assert (part.name, part.file) == ("Mine", tmp_path / "own.py")
    assert own_run(tmp_path, "file: own.py, name: Circle").encoder.options == {}
    assert not list(tmp_path.glob("*.imported"))


def test_identity_follows_the_content_of_the_file_not_its_path(tmp_path):
    first, moved = own_run(tmp_path / "a"), own_run(tmp_path / "b")
    changed = own_run(tmp_path / "a", source=SOURCE + "\n")
    wider = own_run(tmp_path / "a", "file: own.py, name: Mine, width: 4")
    assert first.identity("d") == moved.identity("d")
    assert len({run.identity("d") for run in (first, changed, wider)}) == 3


def test_a_built_in_part_is_dumped_as_ever_and_no_dump_holds_a_path(tmp_path):
    run = own_run(tmp_path).model_dump(mode="json")
    assert run["decoder"] == {"name": "mlp", "options": {"hidden": [5], "activation": "relu"}}
    assert list(run["encoder"]) == ["name", "options", "sha256"]
    assert str(tmp_path) not in str(run)


@pytest.mark.parametrize("kind", PARTS)
def test_every_kind_of_part_may_come_from_a_file(tmp_path, kind):
    own_run(tmp_path)
    line = f"    {kind}: {{file: ./own.py, name: Mine, width: 7}}\n"
    text = "encoder: conv-bn, decoder: conv-bn, latent: 2"
    (tmp_path / "f.yaml").write_text(f"question: Why?\ndefaults: {{{text}}}\nvariants:\n  a:\n{line}")
    assert getattr(load(tmp_path / "f.yaml").variants["a"], kind).options["width"] == 7


def test_a_file_is_relative_to_the_yaml_that_names_it_and_options_merge(tmp_path):
    own_run(tmp_path / "sub")
    text = """question: Why?
extends: sub/f.yaml
variants:
  a: {encoder: {word: y}}
  b: {extends: a, encoder: {name: mlp, hidden: [4]}}
matrix: {architecture: [n], encoder.width: [4, 5]}
architectures: {n: {encoder: {file: sub/own.py, name: Mine, width: 9}, decoder: conv-bn, latent: 2}}
"""
    (tmp_path / "f.yaml").write_text(text)
    made = load(tmp_path / "f.yaml").variants
    assert (made["a"].encoder.options["width"], made["a"].encoder.options["word"]) == (3, "y")
    assert made["a"].encoder.file == tmp_path / "sub/own.py"
    assert (made["b"].encoder.sha256, made["b"].encoder.options["hidden"]) == (None, [4])
    assert [made[f"n-width-{width}"].encoder.options["width"] for width in (4, 5)] == [4, 5]


MISTAKES = {
    "file: absent.py, name: Mine": "f.yaml:3:23: encoder: .*absent.py: no such file; allowed: a Python",
    "file: '.', name: Mine": "f.yaml:3:23: encoder: '.' is no Python file; allowed: FILE.py",
    "file: secret, name: Mine": "'secret' is no Python file",
    "file: [own.py], name: Mine": "f.yaml:3:23: encoder: file is a list; allowed: text",
    "file: broken.py, name: Mine": "f.yaml:3:23: encoder: broken.py:2: is not Python: invalid syntax",
    "file: large.py, name: Mine": "large.py: is larger than 256 kB",
    "file: deep.py, name: Mine": "deep.py: is not Python",
    "file: own.py": "encoder has no name; allowed: Mine, Child, Circle",
    "file: own.py, name: Mien": "f.yaml:3:37: unknown encoder in own.py 'Mien'; did you mean 'Mine'?",
    "file: own.py, name: mlp": "unknown encoder in own.py 'mlp'",
    "file: own.py, name: Mine": "f.yaml:3:37: encoder Mine has no width; allowed: a whole number",
    "file: own.py, name: Mine, wdth: 3": "f.yaml:3:43: unknown key 'wdth' in encoder Mine; did you mean",
    "file: own.py, name: Mine, width: 0": "width is 0; allowed: a whole number of at least 1",
    "file: own.py, name: Mine, width: 1, rate: no": "rate is no; allowed: a number, or auto",
    "file: own.py, name: Mine, width: 1, sizes: 1": "sizes is 1; allowed: a list of whole numbers",
    "file: own.py, name: typed": "own.py:20: option width of typed: annotation 'os.PathLike'; allowed: int, ",
    "file: own.py, name: called": "own.py:21: option width of called: annotation .*; allowed: int, ",
    "file: own.py, name: nested": "annotation 'list[list[int]]'; allowed",
    "file: own.py, name: none": "annotation 'None'; allowed",
    "file: own.py, name: bare": "own.py:24: option width of bare: no annotation; allowed: int, float",
    "file: own.py, name: computed": "its default is computed; allowed: a literal",
    "file: own.py, name: wrong": "f.yaml:3:37: encoder wrong: the default of width is 0; allowed: a whole",
    "file: own.py, name: taken": "option copy of taken: this name is taken",
}  # fmt: skip


@pytest.mark.parametrize("encoder", MISTAKES)
def test_a_mistake_with_a_file_is_one_line_where_it_stands(tmp_path, encoder):
    with pytest.raises(BenchError) as caught:
        own_run(tmp_path, encoder)
    told = str(caught.value)
    wanted = ".*".join(map(re.escape, MISTAKES[encoder].split(".*")))
    assert re.match(r".*f\.yaml:3:\d+: .*", told), told
    assert re.search(wanted, told), told
    assert told.isprintable()
    assert "hunter2" not in told
    assert not {"own.py.imported", "stolen"} & {path.name for path in tmp_path.iterdir()}


def test_no_code_refuses_a_file_and_nothing_else(tmp_path):
    own_run(tmp_path)
    with pytest.raises(
        BenchError, match=r"f\.yaml:3:23: encoder: file 'own\.py' is code, which --no-code refuses"
    ):
        load(tmp_path / "f.yaml", code=False)
    (tmp_path / "f.yaml").write_text(TEXT.replace("ENCODER", "name: mlp, hidden: [3]"))
    assert load(tmp_path / "f.yaml", code=False).variants


def test_the_class_is_imported_from_the_bytes_that_were_checked(tmp_path):
    source = "from typing import Literal\n" + SOURCE.partition("class Circle")[0]
    part = own_run(tmp_path, source=source).encoder
    sent = pickle.loads(pickle.dumps(part))  # noqa: S301  as a worker process gets it
    made = part_class({}, sent)(784, width=sent.options["width"])
    assert (type(made).__name__, made.width) == ("Mine", 3)
    assert part_class({}, part) is type(made)
    assert part_class({"a": Part}, Part(name="a")) is Part


def test_what_cannot_be_imported_is_said_in_one_line(tmp_path):
    part = own_run(tmp_path, source=SOURCE + "\n1 / 0\n").encoder
    with pytest.raises(BenchError, match=r"own\.py:\d+: cannot be imported \(NameError"):
        part_class({}, part)
    (tmp_path / "own.py").write_text(SOURCE + "#")
    with pytest.raises(BenchError, match=r"own\.py has changed since the experiment was read"):
        part_class({}, part)
    with pytest.raises(BenchError, match="which no record names"):
        part_class({}, Part.model_validate(part.model_dump()))
    with pytest.raises(ValidationError):
        Part.model_validate(part.model_dump() | {"file": str(tmp_path / "own.py")})
