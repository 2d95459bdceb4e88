"""The ledger: which results were recomputed on this machine before, and need not be again.

A tag stands for one result file, its records and its references' records, byte for byte, and for
the code that recomputes them. It is an HMAC under a secret of this user on this machine, and the
ledger is a plain list of tags. So

* a tag vouches for this: `verify` found no fault in exactly these bytes, run by this suite, with
  this source of the suite and of all packages of the distributions that the task and the utilities
  are of, in these versions of what they require. A changed metric, task, record or digit has
  another tag, which is not there. Where the packages of a distribution cannot be told, or a link
  lies in one, there is no tag;
* a ledger that is torn, poisoned, or comes from another machine gives no tier: nobody without the
  secret can write a tag. What is no tag is skipped;
* it does not vouch against whoever runs as this user: they can read the secret (and could as well
  change the suite itself), nor against files that are swapped while they are read, nor for a
  package that a plugin imports without declaring it;
* `unlearnbench validate` never asks it.

Where the secret or the ledger cannot be kept, nothing is remembered, and everything recomputed.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.metadata
import json
import os
import platform
import re
import secrets
import stat
from functools import lru_cache
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from unlearnbench import plugin_code
from unlearnbench.errors import PluginError, ResultError, UserError
from unlearnbench.plain_files import NotPlain, read_plain
from unlearnbench.results.records import read_packed, sha256_of
from unlearnbench.results.schema import Result
from unlearnbench.results.store import MAX_RESULT_BYTES, records_of, write_atomically

#: A ledger that grew beyond this (some 120,000 tags) is begun anew.
MAX_LEDGER_BYTES = 8 * 1024 * 1024
#: New tags that are kept in memory at most before they are written.
_UNSAVED = 250

_TAG = re.compile(rb"[0-9a-f]{64}")
_SECRET_BYTES = 32


class Ledger:
    """The tags of this user on this machine."""

    def __init__(self) -> None:
        known = None
        self._place: Path | None = None
        try:
            self._place, known = _place(), _known_secret()
        except (OSError, RuntimeError):  # unreadable; a user without a home
            self._place = None
        self._secret = known or secrets.token_bytes(_SECRET_BYTES)
        self._kept = known is not None
        self._tags = _read(self._place) if self._place and self._kept else frozenset()
        self._new: set[str] = set()
        self._digests: dict[Path, str] = {}
        self._codes: dict[tuple[str, ...], str | None] = {}

    def tag(self, path: Path, result: Result) -> str | None:
        """The tag of the result at `path`; None for what the ledger cannot vouch for.

        That is a result with a missing or unfitting records file, or whose plugins are not found.
        """
        code = self._code(result) if self._place else None
        if code is None:
            return None
        try:
            contents = [path.name, sha256_of(read_plain(path, MAX_RESULT_BYTES))]
            for field, file, stated in records_of(result, path):
                if self._digest(file) != stated:
                    return None
                contents += [field, file.name, self._digest(file)]
        except (ResultError, NotPlain, OSError):
            return None
        message = json.dumps([code, *contents]).encode()
        return hmac.new(self._secret, message, "sha256").hexdigest()

    def __contains__(self, tag: str | None) -> bool:
        return tag is not None and (tag in self._tags or tag in self._new)

    def add(self, tag: str | None) -> None:
        """Remembers a tag; `save` writes it, or this does, now and then."""
        if tag is not None:
            self._new.add(tag)
            if len(self._new) >= _UNSAVED:
                self.save()

    def save(self) -> None:
        """Writes what is new beside what other processes wrote meanwhile; gives up silently."""
        from unlearnbench.cache import locked

        place = self._place
        if not self._new or place is None:
            return
        try:
            if not self._kept:
                _keep_secret(self._secret)
                self._kept = True
            with locked(place):
                there = _read(place)
                kept = sorted(there | self._new)
                if len(kept) * (_SECRET_BYTES * 2 + 1) > MAX_LEDGER_BYTES:
                    kept = sorted(self._new)
                write_atomically(place, "".join(f"{tag}\n" for tag in kept).encode())
        except (UserError, OSError):
            return  # a cache that cannot be written is no fault of the results
        self._tags |= self._new
        self._new.clear()

    def _digest(self, file: Path) -> str:
        """sha256 of a records file; those of references are shared, and read once."""
        if file not in self._digests:
            self._digests[file] = sha256_of(read_packed(file))
        return self._digests[file]

    def _code(self, result: Result) -> str | None:
        plugins = (
            result.task.name,
            *(f"utility {u.name}" for u in result.utilities),
            *(f"probe {name}" for name in result.probes),
        )
        if plugins not in self._codes:
            self._codes[plugins] = _code_of(result)
        return self._codes[plugins]


# --- the code -------------------------------------------------------------------------------------


def _code_of(result: Result) -> str | None:
    """One hash for all code that recomputes a result; None where it cannot be told."""
    from unlearnbench import plugins

    try:
        found = [plugins.find("task", result.task.name)]
        found += [plugins.find("utility", block.name) for block in result.utilities]
        found += [plugins.find("probe", name) for name in result.probes]
    except PluginError:
        return None
    distributions = {"unlearnbench", *(p.distribution for p in found)}
    packages = {p.value.partition(":")[0].split(".")[0].strip() for p in found}
    for distribution in distributions:
        own = plugin_code.top_level(distribution)
        if own is None:
            return None
        packages |= own
    parts = [platform.python_implementation(), platform.python_version(), platform.machine()]
    for package in sorted(packages):
        content = plugin_code.package_hash(package)
        if content is None:
            return None
        parts += [package, content]
    for distribution in sorted(distributions):
        parts += [distribution, *_versions(distribution)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@lru_cache(maxsize=32)
def _versions(distribution: str) -> tuple[str, ...]:
    """The version of a distribution and of each that it requires, as `name==version`."""
    names = [distribution]
    for text in importlib.metadata.requires(distribution) or []:
        try:
            names.append(Requirement(text).name)
        except InvalidRequirement:
            continue
    return tuple(f"{name}=={_version(name)}" for name in sorted(set(names)))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


# --- the files ------------------------------------------------------------------------------------


def _place() -> Path:
    from unlearnbench.cache import cache_folder

    return cache_folder() / "recomputed" / "ledger.txt"


def _read(place: Path) -> frozenset[str]:
    try:
        if place.stat().st_size > MAX_LEDGER_BYTES:
            return frozenset()
        lines = place.read_bytes().split(b"\n")
    except OSError:
        return frozenset()
    return frozenset(line.decode() for line in lines if _TAG.fullmatch(line))


def secret_file() -> Path:
    """Where the secret lies: not in the cache folder, which people copy and share."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "unlearnbench" / "ledger.key"


def _known_secret() -> bytes | None:
    """The secret of this user; None where there is none that was kept to them alone.

    Raises:
        OSError: it cannot be read.
    """
    path = secret_file()
    return path.read_bytes() if _is_ours(path) else None


def _keep_secret(secret: bytes) -> None:
    """Writes a new secret.

    Raises:
        OSError: it cannot be written, or another process was first.
    """
    path = secret_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _is_ours(path):
        path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(secret)


def _is_ours(path: Path) -> bool:
    """A plain file of this user, that nobody else can read or write."""
    try:
        found = path.lstat()
    except OSError:
        return False
    plain = stat.S_ISREG(found.st_mode) and found.st_size == _SECRET_BYTES
    if os.name == "nt":  # the profile folder is the user's own there
        return plain
    return plain and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077
