"""A tiny pair on disk and methods in files, so that real jobs run in real worker processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny

METHODS = '''
import os, signal, time
import torch
from unlearnbench import cache_folder, Diverged, Method, MethodConfig, Record, silent
from unlearnbench.cache import locked


class Slow(Method):
    name = "slow"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        for i in range(600):
            progress(i, 600, "waiting")
            time.sleep(0.1)
        return model


class SlowToo(Slow):
    name = "slow-too"


class Waits(Method):
    """Needs what lies at a place of the cache, which another process may hold."""

    name = "waits"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        time.sleep(4)
        progress(0, 1, "waits")
        with locked(cache_folder() / "shared"):
            return model


class Raises(Method):
    name = "raises"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        raise ValueError("the method is broken")


class Forgets(Method):
    name = "forgets"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        pass  # forgets to return the model


class Diverges(Method):
    name = "diverges"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        raise Diverged("the loss became nan at step 3.")


class Dies(Method):
    name = "dies"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        os.kill(os.getpid(), signal.SIGKILL)


class Strays(Method):
    """Says it changes one tensor and changes another."""

    name = "strays"
    stochastic = False

    def may_change(self, model):
        return ("transformer.h.0.*",)

    @torch.no_grad()
    def unlearn(self, model, request, progress=silent):
        model.hf.transformer.h[1].mlp.c_fc.weight.add_(0.01)
        return model


class Nudge(Method):
    """A real, quick, seeded change."""

    name = "nudge"

    def may_change(self, model):
        return ("transformer.h.0.mlp.c_fc.weight",)

    @torch.no_grad()
    def unlearn(self, model, request, progress=silent):
        weight = model.hf.transformer.h[0].mlp.c_fc.weight
        generator = torch.Generator().manual_seed(request.seed)
        weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
        progress(1, 1, "nudging")
        return model


class Notes(Method):
    """Keeps a journal, and a file that survives its own death."""

    name = "notes"
    stochastic = False

    def resolved(self, model):
        return {"depth": len(model.modules)}

    def unlearn(self, model, request, progress=silent):
        request.workspace.mkdir(parents=True, exist_ok=True)
        lives = request.workspace / "lives"
        if not lives.exists():
            lives.write_text("one")
            os.kill(os.getpid(), signal.SIGKILL)
        model.journal = [
            Record(id=e.id, split="edits", cluster=e.id, scores={"loss": float(i)})
            for i, e in enumerate(request.forget[:3])
        ]
        return model


class NotesAndDiverges(Method):
    name = "notes-and-diverges"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        raise Diverged("edit 2 of 3: nan", [Record("a", "edits", "a", {"loss": 1.5})])


class Breaks(Method):
    """Leaves weights that give no numbers."""

    name = "breaks"
    stochastic = False

    def may_change(self, model):
        return ("*",)

    @torch.no_grad()
    def unlearn(self, model, request, progress=silent):
        model.hf.transformer.wte.weight.fill_(float("nan"))
        return model
'''


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `full` and `retain95`, as `reference train` lays out a pair."""
    folder = tmp_path_factory.mktemp("pair")
    tiny.language_model(layers=2, seed=0).save(folder / "full")
    tiny.language_model(layers=2, seed=1).save(folder / "retain95")
    return folder


@pytest.fixture(scope="session")
def methods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with methods of all tempers; use as `f"{methods}:Raises"`."""
    path = tmp_path_factory.mktemp("methods") / "tempers.py"
    path.write_text(METHODS)
    return path


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _shared_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch, _own_cache: None) -> None:
    """Runs share their references' evaluations, keyed by content: they are the slow part."""
    monkeypatch.setenv("UNLEARNBENCH_CACHE", str(session_cache))
