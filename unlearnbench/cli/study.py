"""What `run` and `sweep` ask alike: the options that name a study, and how its jobs are run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unlearnbench.cli.completion import names_of

if TYPE_CHECKING:
    from unlearnbench.running import Job
    from unlearnbench.running.plan_file import TunedMethod

F = TypeVar("F", bound=Callable[..., Any])

_WHAT = (
    click.option(
        "--method",
        "methods",
        multiple=True,
        metavar="NAME[,NAME]",
        shell_complete=names_of("method", several=True),
        help="Methods; FILE.py:Class for one that is no plugin yet.",
    ),
    click.option(
        "--task",
        "tasks",
        multiple=True,
        metavar="NAME[:SPLIT]",
        shell_complete=names_of("task", several=True),
        help="Tasks.",
    ),
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="MODEL",
        shell_complete=names_of("model", several=True),
        help="Name, folder or hub id.",
    ),
    click.option(
        "--suite",
        metavar="NAME",
        shell_complete=names_of("suite"),
        help="A registered plan, such as nano.",
    ),
    click.option("--plan", type=click.Path(path_type=Path), help="A plan as YAML."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME.KEY=VALUE",
        help="Hyperparameter of a method (of FILE.py:Class by its class), or option of a task, "
        "utility or probe.",
    ),
    click.option(
        "--utility",
        "utilities",
        multiple=True,
        metavar="UTILITY:TASK[,TASK]",
        shell_complete=names_of("utility"),
        help="Other benchmarks' tasks to evaluate too: lm-eval:arc_easy,piqa.",
    ),
    click.option(
        "--probes",
        multiple=True,
        metavar="NAME[,NAME]",
        shell_complete=names_of("probe", several=True),
        help="Attacks on each unlearned model; `default` stands for the suite's own.",
    ),
    click.option(
        "--requests",
        type=click.IntRange(1),
        metavar="N",
        help="The forget set in N requests, one after the other; all are asked again after each.",
    ),
    click.option(
        "--data-dir", type=click.Path(path_type=Path), help="Local data files of the tasks."
    ),
    click.option("--retain-model", metavar="MODEL", help="The retrained oracle."),
    click.option(
        "--model-label", metavar="NAME", help="Name of a local model in results and tables."
    ),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32"),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, cuda:1, mps, balanced (over all GPUs).",
    ),
    click.option("--prompt-format", metavar="FORMAT", help="chat, plain, raw or a template."),
    click.option("--trust-remote-code", is_flag=True, help="Run code that the model brings."),
    click.option("--allow-pickle", is_flag=True, help="Read .bin weights, which can run code."),
)
_HOW = (
    click.option(
        "--executor",
        type=click.Choice(["local", "ray", "slurm"]),
        default="local",
        show_default=True,
        help="Where jobs run: processes here, a Ray cluster, Slurm.",
    ),
    click.option(
        "--executor-option",
        "executor_options",
        multiple=True,
        metavar="KEY=VALUE",
        help="What to tell it: address=HOST:PORT (ray), partition=gpu, time=120 (slurm) ...",
    ),
    click.option(
        "--shard", metavar="I/N", help="Run the I-th of N parts of the plan; the others elsewhere."
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Jobs at a time. Default: 1 here, elsewhere as many as there is room for.",
    ),
    click.option(
        "--ranks",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Processes that train one job together, where its method can.",
    ),
    click.option(
        "--threads", type=click.IntRange(0), default=0, help="Torch threads of a process."
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        help="Seconds a job may take, waiting for what another one makes left out.",
    ),
    click.option(
        "--memory",
        type=click.FloatRange(0, min_open=True),
        metavar="GIB",
        help="Memory a job may use, all its processes together.",
    ),
    click.option("--dry-run", is_flag=True, help="Show the jobs and run nothing."),
)


def study_options(command: F) -> F:
    """The options that say what is run: the keyword arguments of `study_of`."""
    return _add(command, _WHAT)


def execution_options(command: F) -> F:
    """The options that say how and where: what `how_of` takes."""
    return _add(command, _HOW)


def out_option(default: str, kept: str) -> Callable[[F], F]:
    """`--out`, a results folder; `kept` says what of it is not run again."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=Path(default),
        show_default=True,
        help=f"Results folder; {kept} finished there are not run again.",
    )


@dataclass(frozen=True)
class Study:
    """What the options name, in the forms of a plan file and with its paths as they were given."""

    methods: Sequence[Any]
    tasks: Sequence[Any]
    models: Sequence[Any]
    seeds: Sequence[int]
    settings: Mapping[str, Mapping[str, Any]]
    tuning: Sequence[TunedMethod] = ()
    utilities: Sequence[Any] = ()
    probes: Sequence[Any] = ()
    requests: int = 1

    def jobs(self, seeds: Sequence[int]) -> list[Job]:
        """The jobs; see `plan_jobs` for the errors."""
        from unlearnbench.running import plan_jobs

        # Local folders as absolute paths, since workers may stand elsewhere.
        return plan_jobs(
            self.methods,
            [_resolved(task, "data_dir") for task in self.tasks],
            [_resolved(model, "retain_model") for model in self.models],
            seeds,
            self.settings,
            tuning=self.tuning,
            utilities=self.utilities,
            probes=self.probes,
            requests=self.requests,
        )


@dataclass(frozen=True)
class How:
    """What the options say of running: which part of the jobs, where, and within which limits."""

    dry_run: bool
    shard: str | None
    #: As `run_jobs` takes them.
    arguments: Mapping[str, Any]

    def part(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Those of the jobs that are to run here.

        Raises:
            UserError: no such part.
        """
        from unlearnbench.running.shard import Shard

        return jobs if self.shard is None else Shard.parse(self.shard).of(jobs)


def how_of(given: dict[str, Any]) -> How:
    """What the options of `execution_options` say; takes them out of `given`.

    Raises:
        UserError: an option of the executor that is not of the form KEY=VALUE.
    """
    from unlearnbench.errors import UserError

    options = {}
    for text in given.pop("executor_options"):
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f'--executor-option "{text}" is not of the form KEY=VALUE.')
        options[key.strip()] = value
    arguments: dict[str, Any] = {"executor_options": options}
    for name in ("executor", "workers", "ranks", "threads", "timeout", "memory"):
        arguments[name] = given.pop(name)
    return How(given.pop("dry_run"), given.pop("shard"), arguments)


def study_of(
    *,
    methods: tuple[str, ...],
    tasks: tuple[str, ...],
    models: tuple[str, ...],
    suite: str | None,
    plan: Path | None,
    settings: tuple[str, ...],
    utilities: tuple[str, ...],
    probes: tuple[str, ...],
    requests: int | None,
    data_dir: Path | None,
    retain_model: str | None,
    model_label: str | None,
    dtype: str,
    device: str,
    prompt_format: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> Study:
    """The study that the options of `study_options` name; what is given wins over the plan.

    Raises:
        UserError: options that do not go together, or an unreadable plan.
    """
    from unlearnbench import plugins
    from unlearnbench.cli.specs import parse_settings
    from unlearnbench.errors import UserError
    from unlearnbench.experiment import located
    from unlearnbench.running.plan_file import DEFAULT_SEEDS, PlanFile, read_plan

    for option, given_text in (
        ("--suite", suite),
        ("--retain-model", retain_model),
        ("--model-label", model_label),
        ("--prompt-format", prompt_format),
    ):
        if given_text is not None and not given_text.strip():
            raise UserError(f'{option} "{given_text}" is empty: give a value, or leave it out.')
    if suite and plan:
        raise UserError("give --suite or --plan, not both.")
    base = None
    if suite:
        base = read_plan(Path(plugins.load("suite", suite)))
    elif plan:
        base = read_plan(plan)
    base = base or PlanFile(methods=[], tasks=[], models=[], seeds=list(DEFAULT_SEEDS))
    chosen_tasks: list[Any] = names(tasks, "--task") or list(base.tasks)
    chosen_models: list[Any] = names(models, "--model") or list(base.models)
    if data_dir is not None:
        chosen_tasks = [with_options(t, data_dir=str(data_dir)) for t in chosen_tasks]
    if (retain_model or model_label) and len(chosen_models) > 1:
        raise UserError("--retain-model and --model-label are for one --model: use a plan instead.")
    if retain_model and len(chosen_tasks) > 1:
        raise UserError("--retain-model is the oracle of one split: give one --task.")
    options = {
        "retain_model": retain_model,
        "label": model_label,
        "dtype": dtype if dtype != "float32" else None,
        "device": device if device != "auto" else None,
        "prompt_format": prompt_format,
        "trust_remote_code": trust_remote_code or None,
        "allow_pickle": allow_pickle or None,
    }
    given = {k: v for k, v in options.items() if v is not None}
    return Study(
        # As absolute paths: a sweep writes them into a plan in another folder.
        methods=[located(m, Path.cwd()) for m in names(methods, "--method")] or list(base.methods),
        tasks=chosen_tasks,
        models=[with_options(m, **given) if given else m for m in chosen_models],
        seeds=base.seeds,
        settings=parse_settings(settings),
        tuning=base.tuning,
        utilities=list(utilities) or list(base.utilities),
        probes=names(probes, "--probes") or list(base.probes),
        requests=requests or base.requests,
    )


def names(values: tuple[str, ...], option: str) -> list[str]:
    """`a,b` and repeated options alike; a path with a comma stays whole where it is a file's.

    Raises:
        UserError: the option is given, and names nothing (a variable of the shell was empty).
    """
    found = []
    for value in values:
        named = [name.strip() for name in _split(value) if name.strip()]
        if not named:
            from unlearnbench.errors import UserError

            raise UserError(f'{option} "{value}" names nothing: give a name, or leave it out.')
        found += named
    return found


def _split(value: str) -> Iterator[str]:
    parts = value.split(",")
    while parts:
        longest = range(len(parts), 1, -1)
        size = next((n for n in longest if _is_in_a_file(",".join(parts[:n]))), 1)
        yield ",".join(parts[:size])
        parts = parts[size:]


def _is_in_a_file(spec: str) -> bool:
    from unlearnbench.experiment import file_of

    named = ".py:" in spec and "," not in spec.rpartition(":")[2]
    return named and os.path.isfile(file_of(spec).expanduser())


def show_jobs(jobs: Sequence[Job], how: How, notes: Sequence[str] = ()) -> None:
    """What `--dry-run` shows; what a run would refuse is refused here."""
    from unlearnbench.running.executors import check_executor
    from unlearnbench.running.plan import check_ranks

    check_ranks(jobs, how.arguments["ranks"])
    check_executor(how.arguments["executor"], how.arguments["executor_options"])
    list_jobs(jobs, notes)


def list_jobs(jobs: Sequence[Job], notes: Sequence[str] = ()) -> None:
    """A line for each job, the notes, and how many jobs there are."""
    for line in (*(job.title for job in jobs), *notes):
        click.echo(line)
    from unlearnbench.errors import counted

    click.echo(f"{counted(len(jobs), 'job')}; nothing was run.")


#: What does not decide whether there is an oracle.
_SAME = {"method": "", "config": {}, "seed": 0, "tuning": None}


def missing_oracles(jobs: Sequence[Job]) -> list[str]:
    """A note about each task and model for which no retrained oracle is known."""
    from unlearnbench.models import resolve_entry
    from unlearnbench.running.plan import load_task

    found = set()
    alike = {job.model_copy(update=_SAME).model_dump_json(): job for job in jobs}
    for job in alike.values():
        entry = resolve_entry(job.model.name)
        task = load_task(job.task).configured(**job.task_config)
        if not (job.model.retain_model or task.oracle_location(entry)):
            found.add(f"{job.task}:{task.split}, {job.model.label or entry.name}")
    return [missing_oracle(name) for name in sorted(found)]


def missing_oracle(name: str) -> str:
    """The note about a task and a model for which no retrained oracle is known."""
    return (
        f"note: no retrained oracle is known for {name}: forget quality is left out. "
        "Give one with --retain-model, or train a pair (unlearnbench reference train)."
    )


def with_options(spec: Any, /, **options: Any) -> Any:
    """A plan entry with options added."""
    if isinstance(spec, str):
        return {spec: options}
    if len(spec) != 1:
        return spec  # the plan refuses it with a sentence
    ((name, given),) = spec.items()
    return {name: {**(given or {}), **options}}


def _resolved(spec: Any, option: str) -> Any:
    """A plan entry with a folder that it names made absolute; another value stays."""
    if isinstance(spec, str) or len(spec) != 1:
        return spec
    (given,) = spec.values()
    folder = (given or {}).get(option)
    if not isinstance(folder, str | Path):
        return spec
    path = os.path.expanduser(folder)
    known = option == "data_dir" or os.path.isdir(path)  # a retain model may be a hub id
    return with_options(spec, **{option: os.path.realpath(path)}) if known else spec


def _add(command: F, options: Sequence[Callable[[F], F]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command
