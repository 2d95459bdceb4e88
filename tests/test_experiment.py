"""A class in a file: how it is named, found from elsewhere, and imported once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench import Method, UserError
from unlearnbench.experiment import (
    file_of,
    is_experiment,
    load_from_file,
    located,
    seen_from,
    short,
)

SOURCE = """
from unlearnbench import Method
from dataclasses import dataclass


@dataclass
class Helper:
    size: int = 1


class Mine(Method):
    name = "mine"

    def unlearn(self, model, request, progress):
        return model
"""


@pytest.mark.parametrize(
    ("spec", "file"),
    [("mine.py:Mine", "mine.py"), ("a/b.py:C", "a/b.py"), ("/x/y.py", "/x/y.py")],
)
def test_a_file_with_or_without_its_class_is_an_experiment(spec: str, file: str):
    assert is_experiment(spec)
    assert file_of(spec) == Path(file)


@pytest.mark.parametrize("name", ["rome", "grad-diff", "py", "mine.pyc:Mine", "nano:forget10"])
def test_a_name_is_none_and_stays_as_it_is(name: str):
    assert not is_experiment(name)
    assert located(name, Path("/study")) == name
    assert seen_from(name, Path("/study")) == name
    assert short(name) == name


def test_a_file_is_found_from_the_folder_that_names_it():
    assert located("mine.py:Mine", Path("/study")) == "/study/mine.py:Mine"
    assert located("../mine.py:Mine", Path("/study/deep")) == "/study/mine.py:Mine"
    assert located("/else/mine.py:Mine", Path("/study")) == "/else/mine.py:Mine"
    assert located("mine.py", Path("/study")) == "/study/mine.py"
    assert short("/study/mine.py:Mine") == "mine.py:Mine"


PARTS = st.lists(st.sampled_from(["a", "b", "c d"]), max_size=3)


@given(PARTS, PARTS)
def test_what_is_seen_from_a_folder_is_found_from_it_again(file: list[str], folder: list[str]):
    spec = f"{Path('/', *file, 'mine.py')}:Mine"
    assert located(seen_from(spec, Path("/", *folder)), Path("/", *folder)) == spec


def test_a_file_is_imported_once_for_its_content(tmp_path: Path):
    for name in ("one.py", "other.py"):
        (tmp_path / name).write_text(SOURCE)
    first, again, other = (
        load_from_file(f"{tmp_path / name}:Mine", {"method": Method})
        for name in ("one.py", "one.py", "other.py")
    )
    assert first is again
    assert first is other
    (tmp_path / "one.py").write_text(SOURCE.replace('"mine"', '"changed"'))
    assert load_from_file(f"{tmp_path / 'one.py'}:Mine", {"method": Method}).name == "changed"


def test_only_the_classes_that_are_the_file_s_own_are_offered(tmp_path: Path):
    (tmp_path / "mine.py").write_text(SOURCE)
    with pytest.raises(UserError) as error:
        load_from_file(str(tmp_path / "mine.py"), {"method": Method})
    assert str(error.value).endswith(f"name a class that is in it, {tmp_path / 'mine.py'}:Mine.")


@pytest.mark.parametrize("raised", ["ValueError('x')", "SystemExit('x')", "BaseException('x')"])
def test_a_file_that_cannot_be_imported_is_one_line(raised: str, tmp_path: Path):
    (tmp_path / "mine.py").write_text(f"raise {raised}")
    with pytest.raises(UserError, match=rf'mine[.]py" fails: {raised[:-5]}: x[.]$'):
        load_from_file(f"{tmp_path / 'mine.py'}:Mine", {"method": Method})


def test_an_interrupted_file_is_an_interruption_and_is_read_again(tmp_path: Path):
    (tmp_path / "mine.py").write_text("raise KeyboardInterrupt")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            load_from_file(f"{tmp_path / 'mine.py'}:Mine", {"method": Method})
