"""Plans, and what a sweep leaves."""

from __future__ import annotations

from random import Random

from tests.fuzz.mutation import NASTY, changed_bytes
from tests.fuzz.target import Target
from unlearnbench import plain_yaml
from unlearnbench.running.plan_file import read_plan

_PLAN = """\
tasks: [nano:forget10, {tofu: {data_dir: data, split: forget10}}]
models: [nano, {nano: {dtype: bfloat16}}]
seeds: [0, 1, 2]
methods:
  - none
  - grad-diff: {learning_rate: 4.0e-4}
  - "mine.py:Mine"
utilities:
  - lm-eval:piqa: {limit: 100}
probes: [default]
requests: 2
"""
#: As `unlearnbench sweep` writes it.
_CHOSEN = """\
tasks: [nano:forget10]
models: [nano]
seeds: [0]
methods: [grad-diff: {learning_rate: 0.001}]
tuning:
- {method: grad-diff, config: {learning_rate: 0.001}, rule: r, search: s, seed: 0, trials: 8, \
trial: 3, task: nano, task_config: {split: forget10}, model: nano, space: {learning_rate: \
{scale: log, low: 1.0e-5, high: 0.01}}, requests: 1}
"""
_BOMBS = (
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b]\n",
    b"methods: !!python/object/apply:os.system ['touch /tmp/owned']\n",
    b"methods: !!python/name:os.system\n",
    b"methods: " + b"[" * 500 + b"]" * 500,
    b"methods: 0x" + b"f" * 5000,
    b"methods: 1" + b"_0" * 3000,
    b"seeds: [1e999, .inf, .nan, 0o777, 1:30, 2020-01-01]\nmethods: [a]\ntasks: [b]\nmodels: [c]\n",
    b"? [complex, key]\n: value\n",
    b"<<: {methods: [a]}\n",
)


class Plan(Target):
    """A plan file: whatever is in it, it is a plan or one line."""

    name = "plan"

    def seeds(self) -> list[bytes]:
        return [_PLAN.encode(), _CHOSEN.encode()]

    def input(self, rng: Random) -> bytes:
        if rng.randrange(50) == 0:
            return changed_bytes(rng, rng.choice(_BOMBS))
        return super().input(rng)

    def changed(self, rng: Random, data: bytes) -> bytes:
        """A value, or a key, is another one."""
        lines = data.decode().split("\n")
        at = rng.randrange(len(lines))
        words = lines[at].split(" ")
        nasty = rng.choice(NASTY)
        try:
            shown = plain_yaml.dump(nasty, flow=True).removesuffix("...\n").strip()
        except Exception:  # a number that no dumper writes
            shown = "9" * 50
        words[rng.randrange(len(words))] = rng.choice(
            (shown, str(nasty)[:300], "[", "}", "- ", ":")
        )
        lines[at] = " ".join(words)
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    def read(self, data: bytes) -> None:
        self.room.mkdir(exist_ok=True)
        path = self.room / "plan.yaml"
        path.write_bytes(data)
        plan = read_plan(path)
        for tuned in plan.tuning:
            tuned.block()


class Setting(Target):
    """The value of `--set`: plain YAML, or the text as it stands."""

    name = "setting"

    def seeds(self) -> list[bytes]:
        return [b"plan.x=1", b"rome.target=idk", b"a.b=[1, 2]", b"a.b={c: 1e-5}", b"a.b=0x10"]

    def changed(self, rng: Random, data: bytes) -> bytes:
        return changed_bytes(rng, data, (*self.valid, *_BOMBS))

    def read(self, data: bytes) -> None:
        from unlearnbench.cli.specs import parse_settings

        parse_settings([data.decode("utf-8", "replace")])


TARGETS = (Plan, Setting)
