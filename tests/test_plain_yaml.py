"""Plain YAML: what a scalar is, what is refused, and that what is written is read as the same."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from unlearnbench import plain_yaml
from unlearnbench.cli.specs import parse_settings
from unlearnbench.errors import wrong_value

#: Nine anchors, each the one before nine times: 9^9 values in 400 bytes.
BOMB = "a: [&x0 [1, 1], " + ", ".join(
    f"&x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("010", 10),  # octal in YAML 1.1
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", 1000),
        ("1__0", "1__0"),
        ("1e-5", 1e-5),
        ("7e-21", 7e-21),
        ("2E3", 2000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("1e999", math.inf),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2020-13-45", "2020-13-45"),
        ("2020-01-01", "2020-01-01"),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ("=", "="),
        ("{<<: 1}", {"<<": 1}),
        ("{a: {b: [1, x]}}", {"a": {"b": [1, "x"]}}),
    ],
)
def test_a_scalar_is_what_it_looks_like(text: str, value: object) -> None:
    read = plain_yaml.load(text)
    assert read == value
    assert type(read) is type(value)


def test_no_number_is_told_apart() -> None:
    assert math.isnan(plain_yaml.load(".nan"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "an anchor"),
        ("a: *x", "an alias"),
        ("{a, b}: &k 1", "an anchor"),
        ("a: !!set {a, b}", "a tag (tag:yaml.org,2002:set)"),
        ("! x", "a tag (!)"),
        ("!!int ''", "a tag ("),
        ("a: 1\na: 2", "the key 'a' stands twice"),
        ("a: {x: 1, 2: 1, 2.0: 1}", "the key '2.0' stands twice"),
        ("[" * 3000, "nested too deep"),
        ("{a: " * 3000, "nested too deep"),
        ("- " * 3000, "nested too deep"),
        ("9" * 5001, "a number of 5001 digits"),
        # Of fewer digits than may be, and of more in the form that Python writes.
        ("0x" + "f" * 3990, "a number of 3992 digits"),
        (r'"\ud800"', "half a character"),
        (r'"\UFFFFFFFF"', "a number that cannot be read"),
        (f"%YAML {'9' * 5000}.1\n---\n1", "a number that cannot be read"),
        ("[a]: 1\n", "unhashable"),
        ("1\n---\n2", "expected a single document"),
        ("[" + "1," * 100_001, "more than 100000 values"),
    ],
)
def test_what_is_not_plain_is_refused(text: str, told: str) -> None:
    with pytest.raises(yaml.YAMLError) as error:
        plain_yaml.load(text)
    assert told in str(error.value)


def test_forty_levels_are_read_and_more_are_not() -> None:
    levels = plain_yaml.MAX_DEPTH
    assert plain_yaml.load("[" * levels + "1" + "]" * levels) != []
    with pytest.raises(plain_yaml.NotPlain):
        plain_yaml.load("[" * (levels + 1) + "1" + "]" * (levels + 1))


def test_a_megabyte_of_one_scalar_takes_no_time() -> None:
    start = time.process_time()
    for part in (":59", "9", "e", ".1", "_0"):
        with suppress(yaml.YAMLError):
            plain_yaml.load("1" + part * (plain_yaml.MAX_BYTES // len(part) - 1))
    assert time.process_time() - start < 15


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=12)
    | st.from_regex(r"[-+.0-9eExo_:]{1,6}", fullmatch=True),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc1.-:~", max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@example("\x85", 20, None)
@example("a\u2028b\r", 1000, False)
@given(plain, st.sampled_from([20, 1000]), st.sampled_from([None, True, False]))
def test_what_is_written_is_read_as_the_same(
    document: object, width: int, flow: bool | None
) -> None:
    assert plain_yaml.load(plain_yaml.dump(document, width, flow)) == document


def test_the_same_list_twice_is_written_twice() -> None:
    inner = [1, 2]
    assert plain_yaml.load(plain_yaml.dump({"a": inner, "b": inner})) == {"a": inner, "b": inner}


@given(st.text(st.sampled_from("[]{}:,-?!&*#|>%@`'\"\n 1a.~<=\\u")))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(yaml.YAMLError):
        plain_yaml.load(text)


def test_a_file_is_read_to_its_bound_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"#" * plain_yaml.MAX_BYTES)
    assert len(plain_yaml.read_text(path)) == plain_yaml.MAX_BYTES
    path.write_bytes(b"#" * (plain_yaml.MAX_BYTES + 1))
    for odd, told in ((path, "is larger than 1 MiB"), (Path("/dev/zero"), "is not a plain file")):
        with pytest.raises(ValueError, match=told):
            plain_yaml.read_text(odd)
    path.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match=r"is not UTF-8 text \(byte 3\)"):
        plain_yaml.read_text(path)


# --- who reads it --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("true", True), ("[1, a]", [1, "a"]), ("9" * 5001, "9" * 5001), ("[", "[")],
)
def test_a_setting_is_plain_or_the_text_as_it_stands(text: str, value: object) -> None:
    assert parse_settings((f"rome.x={text}",)) == {"rome": {"x": value}}


def test_of_a_wrong_value_a_message_shows_the_beginning() -> None:
    told = wrong_value("x", {"msg": "wrong", "input": "a" * 1000})
    assert told == f"x = '{'a' * 79}...: wrong."
    assert wrong_value("x", {"msg": "wrong.", "input": 5}) == "x = 5: wrong."
