"""YAML with places: what is read, what is refused and where, and what the traps say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.spec.source import Leaf, Mapping, given, read, read_text, trap


def leaf_of(text: str) -> Leaf:
    node = read_text(f"key: {text}", "f.yaml")["key"]
    assert isinstance(node, Leaf)
    return node


def test_every_key_and_leaf_knows_its_place():
    top = read_text("question: why\nvariants:\n  a: {latent: 2,\n      epochs: [1, 20]}\n", "f.yaml")
    variants = top["variants"]
    assert str(top.places["variants"]) == "f.yaml:2:1"
    assert str(variants.places["a"]) == "f.yaml:3:3"
    assert str(variants["a"]["latent"].place) == "f.yaml:3:15"
    assert str(variants["a"]["epochs"][1].place) == "f.yaml:4:19"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-7", -7), ("1_000", 1000), ("0.5", 0.5), ("1.0e-3", 1e-3), ("true", True), ("no", False),
     ("", None), ("~", None), ("word", "word"), ("1e-3", "1e-3"), ("32/784", "32/784"), ("000", 0),
     ("'000'", "000"), ("0b_", "0b_"), ("2026-01-01", "2026-01-01"), ("10:30", 630)],
)  # fmt: skip
def test_values_are_those_of_safe_load_less_its_objects(text, value):
    assert leaf_of(text).value == value
    assert type(leaf_of(text).value) is type(value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("1e-3", "write 1.0e-3"), ("-2E5", "write -2.0e+5"), ("1.5e3", "write 1.5e+3"),
     ("on", "reads on as true"),
     ("No", "reads No as false"), ("10:30", "as 630, in base 60"), ("000", "as 0, not in base 10; write 0"),
     ("010", "write 10"), ("0x10", "as 16"), (".nan", "finite"),
     ("-.inf", "finite"), ("", "empty")],
)  # fmt: skip
def test_traps_are_named_with_what_to_write(text, hint):
    assert hint in trap(leaf_of(text))


@pytest.mark.parametrize("text", ["1", "-0", "1.0e-3", "true", "False", "word", "'on'", "'1e-3'", "'010'"])
def test_no_trap_where_there_is_none(text):
    assert trap(leaf_of(text)) == ""


REFUSED = {
    "": "f.yaml:1:1: the file is empty",
    "# only a comment\n": "f.yaml:1:1: the file is empty",
    "---\n": ": the file is empty",
    "- a\n- b\n": "f.yaml:1:1: got a list; allowed: a mapping",
    "word": "f.yaml:1:1: got 'word'; allowed: a mapping",
    "a: 1\nb: 2\na: 3\n": "f.yaml:3:1: key 'a' again, first on line 1",
    "a: {b: 1, b: 2}": "f.yaml:1:11: key 'b' again",
    "a: &x 1\n": "f.yaml:1:4: anchor &x",
    "a: *x\n": "f.yaml:1:4: alias *x",
    "a: {<<: {b: 1}}": "f.yaml:1:5: merge key",
    "a: !!python/object/apply:os.system [ls]": "f.yaml:1:4: tag",
    "a: !!str 1": "f.yaml:1:4: tag",
    "a: !own 1": "f.yaml:1:4: tag '!own'",
    "a: 1\n---\nb: 2\n": "f.yaml:2:1: a second document",
    "a: [1, 2": "is not YAML",
    "a:\n\t- b": "f.yaml:2:1: is not YAML",
    "a: b: c": "f.yaml:1:5: is not YAML",
    "? [a, b]\n: c": "f.yaml:1:3: a key is a list",
    "'': 1": "f.yaml:1:1: a key is empty",
    "a: \0": "f.yaml:1:4: control character '\\x00'",
    'a: "\\x07"': "f.yaml:1:4: character '\\x07'",
    'a: "\\ud800"': "f.yaml:1:",
    "a: " + "1" * 5000: "f.yaml:1:4: a number of 5000 characters",
    "a: " + "[" * 40 + "]" * 40: "nested too deep",
    "a: " + "{a: " * 40: "nested too deep",
    "%YAML 9.9\n---\na: 1": "is not YAML",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_with_a_place_on_one_line(text):
    with pytest.raises(BenchError) as caught:
        read_text(text, "f.yaml")
    message = str(caught.value)
    assert REFUSED[text] in message
    assert message.startswith("f.yaml:")
    assert message.isprintable()


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"\x7fELF\x02\x01\x00\x00", "f.yaml:1:1: control character"),
     (b"a: 1\nb: caf\xe9\n", "f.yaml:2:7: byte 0xe9"),
     ("a: 1".encode("utf-16"), "byte 0xff is not UTF-8"), (b"x" * 256_001, "larger than 256 kB")],
)  # fmt: skip
def test_a_file_that_is_no_text_is_refused(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_bytes(data)
    with pytest.raises(BenchError, match=message):
        read(Path("f.yaml"))


def test_missing_file_directory_and_other_things_are_refused(tmp_path):
    with pytest.raises(BenchError, match="no such file"):
        read(tmp_path / "absent.yaml")
    with pytest.raises(BenchError, match="is a directory"):
        read(tmp_path)
    for name in ("nul\0l.yaml", "line\nbreak.yaml", "x" * 300):
        with pytest.raises(BenchError) as caught:
            read(tmp_path / name)
        assert str(caught.value).isprintable()


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert list(read(tmp_path / "f.yaml")) == ["a"]


def test_laying_one_mapping_over_another_keeps_both_sides_and_their_places():
    below = read_text("a: {b: 1}\nd: 3", "below.yaml")
    merged = read_text("a: {c: 4}\ne: 5", "above.yaml").over(below)
    assert list(merged) == ["a", "d", "e"]
    assert list(merged["a"]) == ["c"]
    assert (merged.place.file, merged.places["a"].file) == ("above.yaml", "above.yaml")
    assert (merged["d"].value, merged.places["d"].file) == (3, "below.yaml")
    assert list(below["a"]) == ["b"]


def test_given_is_short():
    top = read_text(f"a: {'x' * 100}\nb: 010\nc: ''\nd: []\ne: {{}}\nf:", "f.yaml")
    assert len(given(top["a"])) < 70
    assert [given(top[k]) for k in "bcdef"] == ["010", "''", "a list", "a mapping", "nothing"]
    assert isinstance(top["e"], Mapping)
    assert math.isnan(leaf_of(".nan").value)
