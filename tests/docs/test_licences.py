"""docs/licences.md says what is needed, shipped and read, as it is: nothing is left out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.docs.examples import ROOT
from tests.test_packaging import data_files

PAGE = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

#: What distributions write that is no SPDX name, and what it can mean.
WORDS = {
    "3-Clause BSD License": {"BSD-3-Clause"},
    "Apache": {"Apache-2.0"},
    "Apache 2.0": {"Apache-2.0"},
    "Apache 2.0 License": {"Apache-2.0"},
    "Apache License, Version 2.0": {"Apache-2.0"},
    "Apache Software License": {"Apache-2.0"},
    "BSD": {"BSD-2-Clause", "BSD-3-Clause"},
    "BSD License": {"BSD-2-Clause", "BSD-3-Clause"},
    "GNU Lesser General Public License v2 or later (LGPLv2+)": {"LGPL-2.1-or-later"},
    "GNU Lesser General Public License v3 (LGPLv3)": {"LGPL-3.0-or-later"},
    "ISC License": {"ISC"},
    "ISC License (ISCL)": {"ISC"},
    "LGPL-3.0-or-newer": {"LGPL-3.0-or-later"},
    "MIT License": {"MIT"},
    "Mozilla Public License 2.0 (MPL 2.0)": {"MPL-2.0", "MPL-2.0 AND MIT"},
    "PSFL": {"PSF-2.0"},
    "Python Software Foundation License": {"PSF-2.0"},
    "The MIT License (MIT)": {"MIT"},
}
#: Whether the words of a licence are GPL or AGPL.
COPYLEFT = re.compile(r"A?GPL|GNU (Affero )?General").match
#: A classifier that names no licence.
NO_LICENCE = {"OSI Approved", "DFSG approved"}


def table(*headings: str) -> list[list[str]]:
    """The rows of the page's table with these headings, without the marks of code."""
    head = re.escape("| " + " | ".join(headings) + " |")
    (found,) = re.findall(rf"^{head}\n\|[-|]+\|\n((?:\|.*\|\n)+)", PAGE, re.MULTILINE)
    return [
        [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
        for line in found.splitlines()
    ]


RUNTIME = {row[0]: row[1] for row in table("distribution", "licence")}
OF_EXTRAS = {
    (extra, name): licence for extra, name, licence in table("extra", "distribution", "licence")
}
ACCEPTABLE = {row[0] for row in table("acceptable")}
LISTED = {**{name: licence for (_, name), licence in OF_EXTRAS.items()}, **RUNTIME}


def stated(found: Distribution) -> set[str]:
    """What the licence of a distribution can be, in SPDX names, by its own metadata.

    The licence file's first line counts where the metadata says nothing; an empty set where that
    says nothing either.
    """
    metadata = found.metadata
    if expression := metadata["License-Expression"]:
        return {str(expression)}
    classifiers = metadata.get_all("Classifier") or []
    words = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
    first = (metadata["License"] or "").strip().partition("\n")[0]
    if not first.startswith("Copyright"):  # some write the whole text there
        words.append(first)
    words = [word for word in words if word and word not in NO_LICENCE]
    if not words:
        files = [f for f in found.files or [] if f.name.startswith("LICENSE")]
        words = [f.read_text().strip().partition("\n")[0] for f in files]
    meanings = [WORDS.get(word, {word}) for word in words]
    return set.intersection(*meanings) if meanings else set()


def installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def acceptable(licence: str) -> bool:
    """Whether all of what holds together, or one of what is to choose, is in the page's list."""
    return all(
        any(choice.strip(" ()") in ACCEPTABLE for choice in part.split(" OR "))
        for part in licence.split(" AND ")
    )


def brought(requirements: Iterable[str]) -> dict[str, Distribution]:
    """What is installed of these requirements and of all that they bring along, by name."""
    waiting = [Requirement(r) for r in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    found: dict[str, Distribution] = {}
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        have = installed(name)
        if (name, extras) in seen or have is None:
            continue
        seen.add((name, extras))
        found[name] = have
        for line in have.requires or []:
            own = Requirement(line)
            asked = [{"extra": extra} for extra in extras or {""}]
            if own.marker is None or any(own.marker.evaluate(extra) for extra in asked):
                waiting.append(own)
    return found


# --- what is needed -------------------------------------------------------------------------------


def test_every_runtime_dependency_is_listed():
    assert sorted(RUNTIME) == sorted(Requirement(d).name for d in PROJECT["dependencies"])


def test_every_dependency_of_an_extra_is_listed():
    wanted = {
        (extra, Requirement(d).name)
        for extra, dependencies in EXTRAS.items()
        for d in dependencies
        if Requirement(d).name != PROJECT["name"]
    }
    assert set(OF_EXTRAS) == wanted


def pins() -> Iterator[tuple[str, str]]:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            yield canonicalize_name(name), version


@pytest.mark.parametrize("name", sorted(LISTED))
def test_a_licence_is_what_the_distribution_says(name: str):
    found = installed(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    pinned = dict(pins()).get(canonicalize_name(name))
    if pinned is None or Version(found.version).public != pinned:
        pytest.skip(f"the page is of {name} {pinned}; installed is {found.version}")
    assert LISTED[name] in stated(found)


def test_runtime_dependencies_are_under_acceptable_licences():
    assert not {name: licence for name, licence in RUNTIME.items() if not acceptable(licence)}


def test_what_they_bring_along_is_under_acceptable_licences():
    found = brought(PROJECT["dependencies"])
    assert len(found) > len(RUNTIME)
    refused = {n: stated(d) for n, d in found.items() if not any(map(acceptable, stated(d)))}
    # Other versions may word it otherwise: of them only what is known to be refused counts.
    known = dict(pins())
    assert not {
        name: words
        for name, words in refused.items()
        if Version(found[name].version).public == known.get(name) or any(map(COPYLEFT, words))
    }


@pytest.mark.parametrize("extra", sorted({*EXTRAS} - {"dev", "docs"}))
def test_no_extra_for_users_brings_a_gpl(extra: str):
    for name, found in brought(EXTRAS[extra]).items():
        assert not [words for words in stated(found) if COPYLEFT(words)], name


def test_the_rule_refuses_what_it_is_there_for():
    for licence in (
        "GPL-3.0-only",
        "AGPL-3.0-or-later",
        "MIT AND GPL-2.0-only",
        "LGPL-2.1-only",
        "",
    ):
        assert not acceptable(licence)
    for licence in ("MIT", "MIT AND BSD-3-Clause", "GPL-2.0-only OR MIT"):
        assert acceptable(licence)


# --- what is shipped ------------------------------------------------------------------------------


def test_every_data_file_of_the_wheel_is_listed():
    patterns = [files for files, _ in table("files", "what they are")]
    files = data_files()
    assert files
    assert not [f for f in files if not any(fnmatchcase(f, p) for p in patterns)]
    assert not [p for p in patterns if not any(fnmatchcase(f, p) for f in files)]


def test_every_vendored_script_is_named_and_has_its_licence():
    scripts = sorted((ROOT / "docs" / "javascripts").glob("*.js"))
    assert scripts
    for script in scripts:
        assert f"`docs/javascripts/{script.name}`" in PAGE
        assert "Copyright" in script.with_suffix(".LICENSE").read_text(encoding="utf-8")


# --- what is read ---------------------------------------------------------------------------------


def hub_names(folder: Path) -> set[str]:
    """Every data set of the hub that a task's source names: a string alone, as OWNER/NAME."""
    text = "".join(p.read_text(encoding="utf-8") for p in folder.rglob("*.py"))
    return set(re.findall(r'"([A-Za-z]\w*/[\w.-]+)"', text))


def test_every_data_set_that_a_task_reads_is_listed():
    listed = {row[0] for row in table("data set", "read by", "licence", "source")}
    assert hub_names(ROOT / "tasks") == listed
