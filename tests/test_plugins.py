"""Plugins: found by metadata, loaded when asked for, and alone in their misfortune."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.plugin_site import Site, line_of, plugin_site
from unlearnbench import PluginError, plugins
from unlearnbench.cli import cli

EXAMPLE = Path(__file__).parent / "example_plugin"
GROUPS = plugins.GROUPS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with plugin_site(tmp_path / "site") as made:
        yield made


def suite(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


# --- finding -------------------------------------------------------------------------------------


def test_the_first_party_is_registered_like_everybody_else():
    names = {kind: {p.name for p in plugins.plugins(kind)} for kind in GROUPS}
    assert {"rome", "grad-diff", "none", "retrain"} <= names["method"]
    assert {"tofu", "nano"} <= names["task"]
    assert "nano" in names["model"]
    assert "nano" in names["suite"]
    assert "leaderboard" in names["command"]
    assert {p.distribution for kind in GROUPS for p in plugins.plugins(kind)} >= {"unlearnbench"}


def test_a_new_distribution_is_found_without_a_change_here(site: Site):
    site.install("strangers-kit", {"method": {"strange": "strange:Strange"}}, version="2.5")
    plugin = plugins.find("method", "strange")
    assert (plugin.distribution, plugin.version) == ("strangers-kit", "2.5")


@pytest.mark.parametrize("wrong", ["rom", "romee", "ROME"])
def test_an_unknown_name_is_told_with_the_nearest(wrong: str):
    with pytest.raises(PluginError, match=f'no method is called "{wrong}"'):
        plugins.find("method", wrong)


def test_an_unknown_name_like_none_is_told_with_all():
    with pytest.raises(PluginError, match=r"Known: .*nano"):
        plugins.find("task", "zzzzzz")


def test_plugins_come_by_name_whatever_the_order_of_the_path(site: Site):
    site.install("zzz-kit", {"method": {"aaa": "a:A"}})
    site.install("aaa-kit", {"method": {"zzz": "z:Z"}})
    names = [p.name for p in plugins.plugins("method")]
    assert names == sorted(names)
    assert {"aaa", "zzz"} <= set(names)


# --- two of one name -----------------------------------------------------------------------------


def test_two_distributions_with_one_name_are_an_error_that_names_both(site: Site):
    site.install("first-kit", {"method": {"twin": "a:A"}}, version="1.1")
    site.install("second-kit", {"method": {"twin": "b:B"}}, version="2.2")
    with pytest.raises(PluginError) as error:
        plugins.load("method", "twin")
    assert str(error.value) == (
        'a method "twin" is registered by first-kit 1.1 and by second-kit 2.2. '
        "Uninstall all but one."
    )


def test_a_clash_is_listed_and_stops_no_other(site: Site):
    site.install("first-kit", {"method": {"twin": "json:loads"}})
    site.install("second-kit", {"method": {"twin": "json:dumps"}})
    shown = suite("list", "methods")
    assert shown.exit_code == 0
    twins = [line for line in shown.output.splitlines() if " twin " in line]
    assert len(twins) == 2
    assert all("✗" in t and "first-kit 1.0 and by second-kit 1.0" in t for t in twins)
    assert line_of(shown.output, "rome").startswith("  ✓")
    assert plugins.load("method", "none").name == "none"


def test_a_stranger_cannot_take_a_name_of_ours_in_silence(site: Site):
    site.install("thief", {"method": {"rome": "thief:Rome"}})
    with pytest.raises(PluginError, match=r"registered by thief 1\.0 and by unlearnbench"):
        plugins.load("method", "rome")


def test_one_name_may_be_a_method_and_a_task(site: Site):
    site.install("kit", {"method": {"both": "json:loads"}, "task": {"both": "json:dumps"}})
    assert plugins.load("method", "both") is json.loads
    assert plugins.load("task", "both") is json.dumps


def test_a_distribution_that_is_twice_on_the_path_is_one(site: Site, tmp_path: Path):
    site.install("Some_Kit", {"method": {"old": "json:loads", "same": "json:loads"}})
    other = tmp_path / "first"
    other.mkdir()
    sys.path.insert(0, str(other))
    Site(other).install("some-kit", {"method": {"same": "json:dumps"}}, version="2.0")
    assert plugins.load("method", "same") is json.dumps  # the first on the path, as Python has it
    assert "old" not in {p.name for p in plugins.plugins("method")}


# --- what cannot be loaded -----------------------------------------------------------------------

#: Sources, entry point, and what `list` and the error must say of it.
BROKEN: dict[str, tuple[dict[str, str], str, str]] = {
    "no module": ({}, "bad:Bad", 'no module "bad"'),
    "no submodule": ({"bad/__init__.py": ""}, "bad.gone:Bad", 'no module "bad.gone"'),
    "syntax": ({"bad.py": "class Bad(:\n    pass"}, "bad:Bad", "SyntaxError"),
    "null bytes": ({"bad.py": "\0"}, "bad:Bad", "null bytes"),
    "missing import": ({"bad.py": "import not_installed_xyz"}, "bad:Bad", "'not_installed_xyz'"),
    "missing from": (
        {"bad.py": "from not_installed_xyz.a import b"},
        "bad:Bad",
        "not_installed_xyz",
    ),
    "raises": ({"bad.py": "raise RuntimeError('no licence')"}, "bad:Bad", "no licence"),
    "class imports": (
        {"bad.py": "class Bad:\n    import not_installed_xyz"},
        "bad:Bad",
        "'not_installed_xyz'",
    ),
    "class raises": (
        {"bad.py": "class Bad:\n    class Config:\n        raise OSError('no disk')"},
        "bad:Bad",
        "no disk",
    ),
    "no attribute": ({"bad.py": "class Good: ..."}, "bad:Bad", 'no "Bad"'),
    "package raises": (
        {"bad/__init__.py": "raise OSError('no disk')", "bad/sub.py": "class Bad: ..."},
        "bad.sub:Bad",
        "no disk",
    ),
    "deeper import": (
        {
            "bad/__init__.py": "",
            "bad/sub.py": "from .deep import Bad",
            "bad/deep.py": "import nope_x",
        },
        "bad.sub:Bad",
        "nope_x",
    ),
    "own module gone": (
        {"bad/__init__.py": "", "bad/sub.py": "from bad.gone import Bad"},
        "bad.sub:Bad",
        "bad.gone",
    ),
    "not offered": ({"bad.py": "from unlearnbench import Bad"}, "bad:Bad", "Bad"),
    "room gone": (
        {"bad.py": "from unlearnbench.attic import Bad"},
        "bad:Bad",
        "unlearnbench.attic",
    ),
    "no entry point": ({"bad.py": "class Bad: ..."}, "this is no entry point", "module:attribute"),
    "no attribute named": ({"bad.py": "class Bad: ..."}, "bad", "module:attribute"),
}


@pytest.fixture(params=BROKEN)
def broken(site: Site, request: pytest.FixtureRequest) -> str:
    """A broken plugin is installed; gives the reason."""
    sources, value, reason = BROKEN[request.param]
    site.install("broken-kit", {"method": {"bad": value}}, sources, version="0.9")
    return reason


def test_a_broken_plugin_is_listed_by_name_and_reason_and_stops_no_other(broken: str):
    shown = suite("list")
    assert (shown.exit_code, shown.exception) == (0, None)
    line = line_of(shown.output, "bad")
    assert line.startswith("  ✗ bad ")
    assert "broken-kit 0.9" in line
    assert broken in line
    assert line_of(shown.output, "rome").startswith("  ✓ rome")
    (row,) = [r for r in json.loads(suite("list", "--json").output) if r["name"] == "bad"]
    assert broken in row["fault"]


def test_asking_for_a_broken_plugin_is_one_sentence_that_names_all(broken: str):
    with pytest.raises(PluginError) as error:
        plugins.load("method", "bad")
    told = str(error.value)
    assert told.startswith('method "bad" of broken-kit 0.9 (')
    assert "cannot be loaded: " in told
    assert "\n" not in told
    assert told.endswith(".")
    assert not told.endswith("..")


def test_a_broken_plugin_does_not_keep_others_from_help_info_and_load(broken: str):
    assert suite("--help").exit_code == 0
    assert suite("info", "rome").exit_code == 0
    assert plugins.load("method", "rome").name == "rome"
    refused = suite("info", "bad")
    assert refused.exit_code == 1
    assert refused.output.startswith('Error: method "bad" of broken-kit 0.9')


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1 / 0\nclass Bad: ...", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\nclass Bad: ...", "SystemExit: 3"),
        ("1 and (_ for _ in ()).throw(BaseException('x'))\nclass Bad: ...", "BaseException: x"),
        ("assert False, 'a\\nb'\nclass Bad: ...", "AssertionError: a b"),
        ("for Bad in []: ...", "AttributeError"),
    ],
)
def test_what_only_running_it_can_tell_is_found_by_check(site: Site, source: str, reason: str):
    site.install("broken-kit", {"method": {"bad": "bad:Bad"}}, {"bad.py": source})
    assert line_of(suite("list", "methods").output, "bad").startswith("  ✓")
    checked = suite("list", "methods", "--check")
    assert checked.exit_code == 0
    line = line_of(checked.output, "bad")
    assert line.startswith("  ✗")
    assert reason in line


def test_an_interrupted_import_is_an_interruption(site: Site):
    site.install(
        "slow-kit", {"method": {"slow": "slow:Slow"}}, {"slow.py": "raise KeyboardInterrupt"}
    )
    with pytest.raises(KeyboardInterrupt):
        plugins.load("method", "slow")


#: Modules that load well and that a careless reader would call broken.
SOUND: dict[str, tuple[dict[str, str], str]] = {
    "two at once": ({"good.py": "Other, Good = int, str"}, "good:Good"),
    "annotated": ({"good.py": "Good: type = int"}, "good:Good"),
    "conditional": ({"good.py": "if True:\n    class Good: ..."}, "good:Good"),
    "renamed": ({"good.py": "from json import JSONDecoder as Good"}, "good:Good"),
    "star": ({"good.py": "from json import *"}, "good:JSONDecoder"),
    "made by a call": ({"good.py": "globals().update(Good=int)"}, "good:Good"),
    "on demand": ({"good.py": "def __getattr__(name):\n    return int"}, "good:Good"),
    "nested": ({"good.py": "class Outer:\n    class Good: ..."}, "good:Outer.Good"),
    "extras": ({"good.py": "class Good: ..."}, "good:Good [fast]"),
    "spaces": ({"good.py": "class Good: ..."}, "good : Good"),
    "optional import": (
        {"good.py": "try:\n    import nope_x\nexcept ImportError: ...\nclass Good: ..."},
        "good:Good",
    ),
    "import for types": (
        {
            "good.py": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    import nope_x\nclass Good: ..."
        },
        "good:Good",
    ),
    "dynamic submodule": ({"good.py": "import os.path\nclass Good: ..."}, "good:Good"),
    "package": (
        {"good/__init__.py": "from .a import Good", "good/a.py": "class Good: ..."},
        "good:Good",
    ),
    "module beside package": (
        {"good/__init__.py": "class Good: ...", "good.py": "raise OSError"},
        "good:Good",
    ),
    "namespace": ({"good/a/b.py": "class Good: ..."}, "good.a.b:Good"),
    "circle": (
        {
            "good/__init__.py": "",
            "good/a.py": "from good import b\nclass Good: ...",
            "good/b.py": "from good import a",
        },
        "good.a:Good",
    ),
    "up": (
        {
            "good/__init__.py": "",
            "good/x.py": "class Good: ...",
            "good/deep/__init__.py": "",
            "good/deep/a.py": "from ..x import Good",
        },
        "good.deep.a:Good",
    ),
    "vendored": (
        {
            "good/__init__.py": "import sys\nfrom pathlib import Path\n"
            "sys.path.insert(0, str(Path(__file__).parent / 'vendor'))\n"
            "from vendored_kit import Good",
            "good/vendor/vendored_kit.py": "class Good: ...",
        },
        "good:Good",
    ),
    "vendored by another module": (
        {
            "good/__init__.py": "",
            "good/a.py": "from . import setup\nfrom vendored_kit import Good",
            "good/setup.py": "import sys\nsys.path[:0] = [__file__[:-8] + 'vendor']",
            "good/vendor/vendored_kit.py": "class Good: ...",
        },
        "good.a:Good",
    ),
    "vendored where it is wanted": (
        {
            "good/__init__.py": "if True:\n    from . import setup",
            "good/a.py": "from vendored_kit import Good",
            "good/setup.py": "import sys\nsys.path.insert(0, __file__[:-8] + 'vendor')",
            "good/vendor/vendored_kit.py": "class Good: ...",
        },
        "good.a:Good",
    ),
    "a package of several folders": (
        {
            "good/__init__.py": "__path__.append(__path__[0] + '/more')",
            "good/more/a.py": "class Good: ...",
        },
        "good.a:Good",
    ),
    "public": (
        {"good.py": "from unlearnbench import metrics, plugins, Method as Good"},
        "good:Good",
    ),
}


@pytest.mark.parametrize("case", SOUND)
def test_no_sound_plugin_is_called_broken(site: Site, case: str):
    sources, value = SOUND[case]
    site.install("good-kit", {"method": {"good": value}}, sources)
    site.packages.add("vendored_kit")
    assert plugins.find("method", "good").fault() is None
    assert plugins.load("method", "good") is not None


def test_check_believes_the_import_and_not_the_reader(site: Site):
    """Another package than the plugin's own makes a module importable, which no reader sees."""
    sources = {
        "opener.py": "import sys\nsys.path.insert(0, __file__[:-9] + 'vendor')",
        "vendor/vendored_kit.py": "class Good: ...",
        "good.py": "import opener\nfrom vendored_kit import Good",
    }
    site.install("good-kit", {"method": {"good": "good:Good"}}, sources)
    site.packages.add("vendored_kit")
    assert line_of(suite("list", "methods").output, "good").startswith("  ✗")
    assert line_of(suite("list", "methods", "--check").output, "good").startswith("  ✓")


def test_a_plugin_in_an_archive_is_not_called_broken(site: Site):
    with zipfile.ZipFile(site.root / "kit.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "")
        archive.writestr("zipped/a.py", "class Good: ...")
    sys.path.insert(0, str(site.root / "kit.zip"))
    site.packages.add("zipped")
    site.install("zip-kit", {"method": {"good": "zipped.a:Good"}})
    assert plugins.find("method", "good").fault() is None
    assert plugins.load("method", "good").__name__ == "Good"


def test_every_plugin_of_ours_is_sound():
    for kind in GROUPS:
        for plugin in plugins.plugins(kind):
            if plugin.distribution == "unlearnbench":
                assert plugin.fault() is None
                assert plugin.load() is not None


def unmark(info: Path) -> None:
    (info / "entry_points.txt").write_text(f"[{GROUPS['method']}]\nthis line has no sign\n")


def scramble(info: Path) -> None:
    (info / "entry_points.txt").write_bytes(b"[unlearnbench.methods]\nx = \xff\xfe:y\n")


@pytest.mark.parametrize("damage", [unmark, scramble])
def test_damaged_metadata_is_told_and_stops_nothing(site: Site, damage: Callable[[Path], None]):
    damage(site.install("torn-kit", {"method": {"torn": "json:loads"}}))
    plugins.refresh()
    shown = suite("list")
    assert (shown.exit_code, shown.exception) == (0, None)
    assert "warning: the metadata of torn-kit cannot be read (" in shown.output
    assert line_of(shown.output, "rome").startswith("  ✓")
    assert suite("--help").exit_code == 0


def test_metadata_without_name_and_version_stops_nothing(site: Site):
    (site.install("x", {"method": {"odd": "json:loads"}}) / "METADATA").unlink()
    plugins.refresh()
    shown = suite("list")
    assert (shown.exit_code, shown.exception) == (0, None)
    assert "a nameless distribution" in line_of(shown.output, "odd")


# --- the handshake -------------------------------------------------------------------------------

MARKED = """
from pathlib import Path
Path(__file__).with_name("mark").write_text("imported")
class Fine:
    "Is fine."
"""


REQUIRES = ["unlearnbench>=99"]


@pytest.mark.parametrize(
    "requirement",
    [
        *REQUIRES,
        "UnlearnBench >= 99",
        "unlearnbench[embeddings]<0.0.1",
        'unlearnbench>=99; python_version >= "3"',
    ],
)
def test_a_requirement_that_we_do_not_meet_is_refused_with_both_versions(
    site: Site, requirement: str
):
    site.install(
        "kit", {"method": {"late": "late:Fine"}}, {"late.py": MARKED}, requires=[requirement]
    )
    with pytest.raises(PluginError) as error:
        plugins.load("method", "late")
    wanted = ">=99" if "99" in requirement else "<0.0.1"
    assert f"it requires unlearnbench{wanted}, and this is {plugins.suite_version()}" in str(
        error.value
    )
    assert f"requires unlearnbench{wanted}" in line_of(suite("list", "methods").output, "late")
    assert not (site.root / "mark").exists()  # refused before a line of it ran


@pytest.mark.parametrize(
    "requirement",
    [
        "unlearnbench",
        "unlearnbench>=0.1,<99",
        "unlearnbench @ file:///somewhere",
        "unlearnbench-other>=99",
        'unlearnbench>=99; extra == "next"',
        'unlearnbench>=99; python_version < "3"',
        "this is ! no requirement",
    ],
)
def test_a_requirement_that_does_not_bind_us_is_no_obstacle(site: Site, requirement: str):
    site.install(
        "kit", {"method": {"good": "good:Fine"}}, {"good.py": MARKED}, requires=[requirement]
    )
    assert plugins.find("method", "good").fault() is None
    assert plugins.load("method", "good").__name__ == "Fine"


@pytest.mark.parametrize("contract", [2, 0, "1"])
def test_another_contract_is_refused_at_load_with_both_versions(site: Site, contract: object):
    source = f"class Next:\n    api_version = {contract!r}"
    site.install("kit", {"method": {"next": "next_kit:Next"}}, {"next_kit.py": source})
    with pytest.raises(PluginError, match=f"contract version {contract}, and this suite speaks 1"):
        plugins.load("method", "next")
    assert "✗" in line_of(suite("list", "methods", "--check").output, "next")
    refused = suite("run", "--method", "next", "--task", "nano", "--model", "nano", "--dry-run")
    assert refused.exit_code == 1
    assert "contract version" in refused.output


@pytest.mark.parametrize("body", ["api_version = 1", "pass"])
def test_the_same_contract_and_none_are_accepted(site: Site, body: str):
    site.install("kit", {"method": {"good": "good:Fine"}}, {"good.py": f"class Fine:\n    {body}"})
    assert plugins.load("method", "good").__name__ == "Fine"


CLASS = "class Next:\n    name = 'next'\n    api_version = 2\n"
ENTRY = (
    "from unlearnbench import ModelEntry\n"
    "Next = ModelEntry(name='next', location='/nowhere', api_version=2)\n"
)
IN_MODULE = "unlearnbench_api_version = 2\nNext = '/nowhere/plan.yaml'\n"


@pytest.mark.parametrize(
    ("kind", "source", "read"),
    [
        *((kind, CLASS, True) for kind in ("method", "task", "utility")),
        ("model", ENTRY, False),  # a call says it, which reading the source cannot tell
        *((kind, IN_MODULE, True) for kind in GROUPS),
    ],
)
def test_another_contract_is_refused_with_both_versions_whatever_the_kind(
    site: Site, kind: str, source: str, read: bool
):
    site.install("kit", {kind: {"next": "next_kit:Next"}}, {"next_kit.py": source}, version="3.0")
    with pytest.raises(PluginError) as error:
        plugins.load(kind, "next")
    assert str(error.value) == (
        f'{kind} "next" of kit 3.0 (next_kit:Next) cannot be loaded: it is built for contract '
        "version 2, and this suite speaks 1."
    )
    check = () if read else ("--check",)
    line = line_of(suite("list", plugins.PLURALS[kind], *check).output, "next")
    assert line.startswith("  ✗")
    assert "contract version 2, and this suite speaks 1" in line


@pytest.mark.parametrize("kind", GROUPS)
def test_a_requirement_is_checked_whatever_the_kind(site: Site, kind: str):
    site.install("kit", {kind: {"late": "late:Fine"}}, {"late.py": MARKED}, requires=REQUIRES)
    with pytest.raises(PluginError, match="it requires unlearnbench>=99, and this is"):
        plugins.load(kind, "late")
    assert not (site.root / "mark").exists()


@pytest.mark.parametrize("kind", ["method", "task", "utility"])
def test_a_name_other_than_the_registered_one_is_told(site: Site, kind: str):
    source = "class Other:\n    name = 'other'"
    site.install("kit", {kind: {"mine": "kit:Other"}}, {"kit.py": source})
    told = 'it is registered as "mine" and calls itself "other": make the two one name'
    with pytest.raises(PluginError, match=told):
        plugins.load(kind, "mine")
    assert told in line_of(suite("list", plugins.PLURALS[kind]).output, "mine")


def test_a_model_entry_of_another_name_is_told(site: Site):
    source = "from unlearnbench import ModelEntry\nM = ModelEntry('theirs', '/nowhere')"
    site.install("kit", {"model": {"mine": "kit:M"}}, {"kit.py": source})
    with pytest.raises(PluginError, match='registered as "mine" and calls itself "theirs"'):
        plugins.load("model", "mine")


@pytest.mark.parametrize(
    "body",
    [
        "name = 'mi' + 'ne'",
        "name: str = 'mine'",
        "name = 'other'\n    name = 'mine'",
        "def name(self): ...",
    ],
)
def test_a_name_that_agrees_or_cannot_be_read_is_no_fault(site: Site, body: str):
    site.install("kit", {"method": {"mine": "kit:Mine"}}, {"kit.py": f"class Mine:\n    {body}"})
    assert plugins.find("method", "mine").fault() is None
    assert plugins.load("method", "mine").__name__ == "Mine"


# --- commands ------------------------------------------------------------------------------------

COMMAND = """
import click
@click.command()
def hello():
    "Greets."
    click.echo("Hello.")
"""


def test_a_command_of_a_plugin_is_in_help_and_runs(site: Site):
    site.install("kit", {"command": {"hello": "hello:hello"}}, {"hello.py": COMMAND})
    assert "hello        Greets." in suite("--help").output
    assert suite("hello").output == "Hello.\n"


def test_a_broken_command_fails_alone(site: Site):
    site.install("kit", {"command": {"hello": "hello:hello"}}, {"hello.py": "import nope_x"})
    assert "hello" in suite("--help").output
    refused = suite("hello")
    assert refused.exit_code == 1
    assert 'Error: command "hello" of kit 1.0' in refused.output
    assert "nope_x" in refused.output


def test_two_commands_of_one_name_are_an_error_when_called(site: Site):
    site.install("kit-a", {"command": {"hello": "hello:hello"}}, {"hello.py": COMMAND})
    site.install("kit-b", {"command": {"hello": "hello:hello"}})
    assert suite("--help").exit_code == 0
    assert "kit-a 1.0 and by kit-b 1.0" in suite("hello").output


def test_a_command_of_our_own_cannot_be_replaced(site: Site):
    site.install("kit", {"command": {"list": "hello:hello"}}, {"hello.py": COMMAND})
    shown = suite("list", "commands")
    assert "Hello" not in shown.output
    line = line_of(shown.output, "list")
    assert line.startswith("  ✗")
    assert "the suite has a command of this name" in line


def test_what_is_no_command_is_one_line(site: Site):
    site.install("kit", {"command": {"hello": "hello:hello"}}, {"hello.py": "hello = 5"})
    refused = suite("hello")
    assert refused.exit_code == 1
    assert refused.output == 'Error: command "hello" is not a click command.\n'


# --- a real one, really installed ----------------------------------------------------------------


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example plugin, installed by pip into a folder of its own."""
    root = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, root / "source")  # building writes beside the sources
    pip = ["-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    subprocess.run(
        [sys.executable, *pip, "--target", str(root / "site"), str(root / "source")],
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_CACHE_DIR": "1"},
    )
    return root / "site"


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the suite in a process that has the example; `mark` in `tmp_path` betrays an import."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "unlearnbench", *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=tmp_path,
            check=False,
            env={
                **os.environ,
                "PYTHONPATH": str(installed),
                "PYTHONUTF8": "1",
                "UNLEARNBENCH_EXAMPLE_MARK": str(tmp_path / "mark"),
            },
        )

    return run


Run = Callable[..., subprocess.CompletedProcess[str]]


def test_list_shows_an_installed_plugin_and_runs_none_of_its_code(run: Run, tmp_path: Path):
    done = run("list")
    assert (done.returncode, done.stderr) == (0, "")
    for name, told in (
        ("example-shrink", "Shrinks every weight of the last layer."),
        ("example-capitals", "Forget the capitals of one half of a map."),
        ("example-model", ""),
        ("example-suite", ""),
        ("example-hello", "Greets somebody."),
    ):
        line = line_of(done.stdout, name)
        assert line.startswith("  ✓")
        assert "unlearnbench-example 0.3.1" in line
        assert told in line
    assert not (tmp_path / "mark").exists()
    assert "example-hello" in run("--help").stdout
    assert json.loads(run("list", "--json").stdout)
    assert not (tmp_path / "mark").exists()
    run("info", "example-model")
    assert (tmp_path / "mark").exists()


def test_info_shows_an_installed_plugin_with_its_options(run: Run):
    method = run("info", "example-shrink").stdout
    assert "unlearnbench-example 0.3.1 (unlearnbench_example.method:Shrink)" in method
    assert "factor  0.9" in method
    assert "what every weight is multiplied by" in method
    assert "which half is forgotten" in run("info", "example-capitals").stdout


def test_a_dry_run_plans_with_an_installed_plugin(run: Run):
    done = run("run", "--suite", "example-suite", "--method", "example-shrink", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    job, note, end = done.stdout.splitlines()
    assert job == "example-shrink · example-capitals:south · example-model · seed 0"
    assert note.startswith("note: no retrained oracle is known for example-capitals:south, ")
    assert end == "1 job; nothing was run."
    wrong = run("run", "--suite", "example-suite", "--set", "example-shrink.factor=2", "--dry-run")
    assert wrong.returncode == 1
    assert "example-shrink.factor = 2" in wrong.stderr


def test_an_installed_command_runs(run: Run):
    assert run("example-hello", "you").stdout == "Hello you.\n"
