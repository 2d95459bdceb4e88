"""The importers of peers' logs, and figures of the literature."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from tests.fuzz.mutation import changed_bytes
from tests.fuzz.target import Target
from tests.leaderboard import peer_logs as peers
from unlearnbench.plain_yaml import dump
from unlearnbench_leaderboard.importers import table
from unlearnbench_leaderboard.importers.log import Imported
from unlearnbench_leaderboard.importers.read import read_logs
from unlearnbench_leaderboard.importers.rows import reported_sets
from unlearnbench_leaderboard.tables.reported import dump_reported, read_reported


def _shown(logs: list[Imported]) -> Iterator[str]:
    """What a user sees of logs that were read; each becomes a row too."""
    for log in logs:
        for line in table.text(log).split("\n"):
            assert "\x1b" not in line
            assert len(line) < 1000
        named = {"task": "tofu", "split": "forget10", "model": "m", "source": "s"}
        sets = reported_sets([log], ["mine"], **named, link="https://example.org")
        dump_reported(sets)
    yield from ()


class OpenUnlearning(Target):
    """`TOFU_EVAL.json`, against the log of a retained model."""

    name = "import-open-unlearning"

    def seeds(self) -> list[bytes]:
        whole = peers.open_unlearning()
        few = ("forget_quality", "forget_truth_ratio", "forget_Q_A_PARA_Prob", "privleak")
        part = {name: whole[name] for name in (*few, "forget_Q_A_PERT_Prob", "mia_min_k")}
        return [peers.dump(whole), peers.dump(part), peers.dump({"model_utility": 0.5})]

    def read(self, data: bytes) -> Iterator[str]:
        other = peers.open_unlearning()
        other["forget_Q_A_PARA_Prob"] = peers.prob(0.4, [0.1, 0.2])
        return _shown(read_logs([("a\x1b[2J.json", data)], ("retain.json", peers.dump(other))))


class Legacy(Target):
    """TOFU's own logs: the aggregated one, alone and as the retained model's."""

    name = "import-legacy-tofu"

    def seeds(self) -> list[bytes]:
        whole = peers.legacy()
        without_texts = {
            split: {name: items for name, items in log.items() if name != "generated_text"}
            for split, log in whole.items()
        }
        return [peers.dump(whole), peers.dump(without_texts)]

    def read(self, data: bytes) -> Iterator[str]:
        retained = {"eval_log_forget.json": peers.legacy_split()}
        retained["eval_log_forget.json"]["avg_paraphrased_loss"] = peers.by_index([0.1, 0.2])
        files = [("x/eval_log_forget.json", data)]
        return _shown(read_logs(files, ("retain.json", peers.dump(retained))))


class Harness(Target):
    """Results of lm-evaluation-harness, with the samples of a task."""

    name = "import-lm-eval"

    def seeds(self) -> list[bytes]:
        return [peers.dump([peers.harness(), *peers.SAMPLES])]

    def changed(self, rng: Random, data: bytes) -> bytes:
        return changed_bytes(rng, data) if rng.randrange(20) == 0 else super().changed(rng, data)

    def read(self, data: bytes) -> Iterator[str]:
        try:
            results, *samples = json.loads(data)
            files = [("r.json", peers.dump(results)), ("s.jsonl", peers.lines(samples))]
        except (ValueError, TypeError, RecursionError):
            files = [("r.json", data)]
        return _shown(read_logs(files))


class Reported(Target):
    """Figures of the literature, as YAML and as JSON."""

    name = "reported"

    def seeds(self) -> list[bytes]:
        document = {
            "version": 1,
            "sets": [
                {
                    "task": "tofu",
                    "split": "forget10",
                    "model": "a model",
                    "source": {"name": "arXiv 1", "where": "Table 1", "link": "https://a.org/x"},
                    "metrics": [{"name": "FQ", "better": "higher"}, {"name": "MU"}],
                    "rows": [{"method": "NPO", "values": {"FQ": 0.5, "MU": 1e-20}, "note": "one"}],
                }
            ],
        }
        return [json.dumps(document).encode(), dump(document).encode()]

    def changed(self, rng: Random, data: bytes) -> bytes:
        if data.startswith(b"{"):
            return super().changed(rng, data)
        return changed_bytes(rng, data, self.valid)

    def read(self, data: bytes) -> None:
        self.room.mkdir(exist_ok=True)
        path = self.room / ("reported.json" if data[:1] == b"{" else "reported.yaml")
        path.write_bytes(data)
        for found in read_reported([path]):
            for row in found.rows:
                for metric in found.metrics:
                    assert found.shown(row, metric)


TARGETS = (OpenUnlearning, Legacy, Harness, Reported)
