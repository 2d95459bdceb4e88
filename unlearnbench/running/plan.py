"""What is to be run: methods x tasks x models x seeds. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from unlearnbench import plugins
from unlearnbench.errors import UserError, counted, unknown_name, wrong_value
from unlearnbench.experiment import is_experiment, load_from_file, short
from unlearnbench.method import Method, target_fault
from unlearnbench.models import check_folder, resolve_entry
from unlearnbench.models.devices import check_device_name
from unlearnbench.models.prompt_formats import check_prompt_format
from unlearnbench.plain_text import holds_secret
from unlearnbench.probe import Probe
from unlearnbench.results.schema import MAX_REQUESTS, TuningBlock
from unlearnbench.running.plan_file import TunedMethod
from unlearnbench.running.requests import divided
from unlearnbench.task import Task
from unlearnbench.utility import Utility, split_of

#: What every library takes for a seed (numpy's older generators take no larger one).
MAX_SEED = 2**32 - 1


class ModelSpec(BaseModel):
    """A model and how to load it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    retain_model: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    prompt_format: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    batch_tokens: Annotated[int | None, Field(ge=1)] = None
    #: The name in results, where the model is a folder whose own name says little (`full`).
    label: str | None = None

    def load_options(self) -> dict[str, Any]:
        """The keyword arguments of `load_model`."""
        return self.model_dump(exclude={"name", "retain_model", "label"})


class Job(BaseModel):
    """One method on one task, model and seed. A job is a pure function of its inputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    config: dict[str, Any] = {}
    task: str
    task_config: dict[str, Any] = {}
    model: ModelSpec
    seed: StrictInt
    #: Tasks of other benchmarks to evaluate too, as `UTILITY:TASK`, sorted.
    utilities: tuple[str, ...] = ()
    #: The options of each utility, by its name.
    utility_config: dict[str, dict[str, Any]] = {}
    #: In how many the forget set comes, one after the other.
    requests: Annotated[StrictInt, Field(ge=1, le=MAX_REQUESTS)] = 1
    #: Attacks to make on the unlearned model, sorted. They decide nothing of the other numbers.
    probes: tuple[str, ...] = ()
    #: The options of each probe, by its name.
    probe_config: dict[str, dict[str, Any]] = {}
    #: How the configuration was chosen, where a sweep chose it. Decides nothing of the outcome.
    tuning: TuningBlock | None = None

    @property
    def title(self) -> str:
        """A short name for people: `rome target=dummy · nano:forget10 · nano · seed 0`."""
        options = " ".join(f"{k}={v}" for k, v in self.config.items())
        split = self.task_config.get("split")
        asked = {k: v for k, v in self.task_config.items() if k not in ("split", "data_dir")}
        task = f"{self.task}:{split}" if split else self.task
        task = " ".join([task, *(f"{k}={v}" for k, v in asked.items())])
        model = self.model.label or Path(self.model.name).name
        parts = [f"{short(self.method)} {options}".strip(), task, model, f"seed {self.seed}"]
        parts += [counted(self.requests, "request")] if self.requests > 1 else []
        return " · ".join([*parts, *self.utilities])

    def tasks_by_utility(self) -> dict[str, list[str]]:
        """The tasks of each utility, both by name."""
        found: dict[str, list[str]] = {}
        for spec in self.utilities:
            name, _, task = spec.partition(":")
            found.setdefault(name, []).append(task)
        return found


#: What is named in a study: one thing or several, each by its name or as `{name: options}`.
Specs = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


def plan_jobs(
    methods: Specs,
    tasks: Specs,
    models: Specs,
    seeds: int | Sequence[int],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    tuning: Sequence[TunedMethod] = (),
    utilities: Specs = (),
    probes: Specs = (),
    requests: int = 1,
) -> list[Job]:
    """The product of all, in an order that keeps one model's jobs together.

    A method that no seed can change (and that says so) gets the first seed only, unless the forget
    set comes in several requests: the seed says which facts come together. A job whose method and
    configuration are one of `tuning` carries it.

    Raises:
        UserError: an unknown name, option or value, or data that cannot be read; nothing has run
            then.
    """
    methods, tasks, models = map(_listed, (methods, tasks, models))
    utilities, probes = map(_listed, (utilities, probes))
    seeds = list(seeds) if isinstance(seeds, Iterable) else [seeds]
    settings = settings or {}
    named = [_split_spec(m) for m in methods]
    used = {setting_name(name) for name, _ in named}
    used |= {_split_spec(spec)[0] for spec in (*tasks, *utilities)}
    attacks, attack_options = _probes(probes, settings)
    used = {name.partition(":")[0] for name in used} | set(attacks)
    unused = set(settings) - used
    if unused:
        files = {setting_name(name): short(name) for name, _ in named if is_experiment(name)}
        told = [f"{name} (of {files[name]})" if name in files else name for name in sorted(used)]
        raise UserError(
            f"--set {min(unused)}.…: no method, task, utility or probe "
            f'"{min(unused)}" is in this run. It has {", ".join(told)}.'
        )
    for word, given in (("method", named), ("task", tasks), ("model", models), ("seed", seeds)):
        if not given:
            raise UserError(f"nothing to run: no --{word}, and no --suite or --plan that has one.")
    for seed in seeds:
        if not is_whole(seed) or not 0 <= seed <= MAX_SEED:
            raise UserError(f"seed {seed} is none: seeds are whole numbers from 0 to {MAX_SEED}.")
    seeds = [int(seed) for seed in seeds]
    if not 1 <= requests <= MAX_REQUESTS:
        raise UserError(f"{requests} requests: a forget set comes in 1 to {MAX_REQUESTS}.")
    built: list[Job] = []
    tuned = {_content(t.method, t.config): t.block() for t in tuning}
    task_options = [_task_options(t, settings) for t in tasks]
    if requests > 1:
        for name, options in task_options:
            chosen = load_task(name).configured(**options)
            forget = chosen.request(seeds[0]).forget
            divided(forget, requests, seeds[0], f"{name}:{chosen.split}")  # raises on too many
    also, also_options = _utilities(utilities, settings)
    for model in models:
        spec = _model_spec(model)
        _check_model(spec)
        for task, options in task_options:
            for name, own in named:
                method_class = load_method(name)
                _check_own_name(name, method_class)
                config = {**own, **settings.get(setting_name(name), {})}
                fault = target_fault(method_class.configured(**config))  # raises on a wrong one
                if fault:
                    raise UserError(f'method "{short(name)}": {fault}.')
                runs = seeds if method_class.stochastic or requests > 1 else seeds[:1]
                built += [
                    Job(
                        method=name,
                        config=config,
                        task=task,
                        task_config=options,
                        model=spec,
                        seed=seed,
                        utilities=also,
                        utility_config=also_options,
                        requests=requests,
                        probes=attacks,
                        probe_config=attack_options,
                        tuning=tuned.get(_content(name, config)),
                    )
                    for seed in runs
                ]
    for job in built:
        _check_secrets(job)
    return list({json.dumps(j.model_dump(mode="json"), sort_keys=True): j for j in built}.values())


def _check_secrets(job: Job) -> None:
    """Raises UserError where a result of the job, which tells every option, would tell a secret."""
    options = [
        (job.method, job.config),
        (job.task, {k: v for k, v in job.task_config.items() if k != "data_dir"}),
        ("model", job.model.model_dump(include={"name", "label", "revision", "prompt_format"})),
        *job.utility_config.items(),
        *job.probe_config.items(),
    ]
    for name, given in options:
        for key, value in given.items():
            if holds_secret(value):
                raise UserError(
                    f"{setting_name(name)}.{key} holds a secret (a token, or a URL with one), and "
                    "results tell every option. Log in (`hf auth login`) or use the environment."
                )


def check_ranks(jobs: Sequence[Job], ranks: int) -> None:
    """Raises UserError where several processes are to share a job of several requests."""
    several = max((job.requests for job in jobs), default=1)
    if ranks > 1 and several > 1:
        raise UserError(
            f"--ranks {ranks} with --requests {several}: the processes of a job can share one "
            "request and no more. Leave one of the two away."
        )


def load_method(name: str) -> type[Method[Any]]:
    """The method class of a registered name, or of `path/to/file.py:Class` (an experiment).

    Raises:
        UserError: unknown, unloadable, or not a method.
    """
    if is_experiment(name):
        return load_from_file(name, {"method": Method})
    return _loaded("method", name, Method)


def load_task(name: str) -> type[Task[Any]]:
    """The task class of a registered name.

    Raises:
        UserError: unknown, unloadable, or not a task.
    """
    return _loaded("task", name, Task)


def load_utility(name: str) -> type[Utility[Any]]:
    """The utility class of a registered name.

    Raises:
        UserError: unknown, unloadable, or not a utility.
    """
    return _loaded("utility", name, Utility)


def load_probe(name: str) -> type[Probe[Any]]:
    """The probe class of a registered name.

    Raises:
        UserError: unknown, unloadable, or not a probe.
    """
    return _loaded("probe", name, Probe)


def standard_probes() -> list[str]:
    """The suite's own probes that `default` stands for and `robustness` is made of, sorted.

    Raises:
        UserError: one of the suite's own cannot be loaded.
    """
    own = [p.name for p in plugins.plugins("probe") if p.distribution == plugins.SUITE]
    return sorted(name for name in own if load_probe(name).standard)


def _loaded(kind: str, name: str, base: type) -> type[Any]:
    if kind != "method":
        _refuse_file(kind, name)
    loaded = plugins.load(kind, name)
    fault = plugins.class_fault(loaded, kind, base)
    if fault:
        raise UserError(f'{kind} "{name}" {fault}.')
    return loaded  # type: ignore[no-any-return]


def _refuse_file(kind: str, name: str) -> None:
    if name.partition(":")[0].endswith(".py"):
        raise UserError(
            f'{kind} "{name}": only a method runs from a file, a {kind} from a package that '
            "registers it as an entry point."
        )


def setting_name(method: str) -> str:
    """How `--set` calls a method: by its name, an experiment by its class."""
    return method.rpartition(":")[2] if is_experiment(method) else method


def _check_own_name(spec: str, method: type[Method[Any]]) -> None:
    """Tables know a method by its name: a file's must not pass for a registered one."""
    if is_experiment(spec):
        for plugin in plugins.plugins("method"):
            if plugin.name == method.name:
                raise UserError(
                    f'{short(spec)} is called "{method.name}", as the method of '
                    f"{plugin.distribution} {plugin.version} is: give it a name of its own."
                )


def _content(method: str, config: Mapping[str, Any]) -> str:
    return json.dumps([method, dict(config)], sort_keys=True, default=str)


def _check_model(spec: ModelSpec) -> None:
    """Raises UserError for a model that cannot be read; hub ids are left to the loading itself."""
    check_device_name(spec.device)
    check_prompt_format(spec.prompt_format)
    for name in filter(None, (spec.name, spec.retain_model)):
        folder = Path(resolve_entry(name).location)
        if folder.is_dir():
            check_folder(folder, spec.dtype, spec.allow_pickle)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, of Python or of another library, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _listed(given: Specs) -> Sequence[str | Mapping[str, Any]]:
    """One thing is a list of one: a text would be taken apart into its letters."""
    return [given] if isinstance(given, str | Mapping) else given


def _split_spec(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if len(spec) != 1:
        raise UserError(f"{dict(spec)!r} names {len(spec)} things; write one per line.")
    ((name, options),) = spec.items()
    return name, dict(options or {})


def _task_options(
    spec: str | Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]
) -> tuple[str, dict[str, Any]]:
    name, options = _split_spec(spec)
    name, _, split = name.partition(":")
    if split:
        options = {"split": split, **options}
    options = {**options, **settings.get(name, {})}
    task = load_task(name).configured(**options)  # raises on a wrong option
    task.describe_data()  # raises on missing or malformed data, before anything runs
    options.setdefault("split", task.split)
    return name, {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}


def _utilities(
    specs: Sequence[str | Mapping[str, Any]], settings: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """`UTILITY:TASK` of each task, sorted, and the options of each utility."""
    wanted: set[str] = set()
    given: dict[str, dict[str, Any]] = {}
    for spec in specs:
        text, options = _split_spec(spec)
        name, _, listed = text.partition(":")
        tasks = [task.strip() for task in listed.split(",") if task.strip()]
        if not tasks:
            raise UserError(
                f'utility "{text}" names no task: write UTILITY:TASK[,TASK], such as '
                "lm-eval:arc_easy."
            )
        wanted |= {split_of(name, task) for task in tasks}
        if given.setdefault(name, options) != options:
            raise UserError(
                f"utility {name} is given with two sets of options: one run has one of them."
            )
    for name, options in given.items():
        utility = load_utility(name).configured(**{**options, **settings.get(name, {})})
        utility.check()
        asked = (split.partition(":") for split in sorted(wanted))
        utility.check_tasks([task for own, _, task in asked if own == name])
        # Folders as absolute paths, since workers may stand elsewhere.
        given[name] = {
            key: str(value.expanduser().absolute()) if isinstance(value, Path) else value
            for key in utility.config.model_fields_set
            if (value := getattr(utility.config, key)) is not None
        }
    return tuple(sorted(wanted)), given


#: What stands for the suite's own probes.
DEFAULT_PROBES = "default"


def _probes(
    specs: Sequence[str | Mapping[str, Any]], settings: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """The name of each probe, sorted, and the options that are given."""
    given: dict[str, dict[str, Any]] = {}
    for spec in specs:
        text, options = _split_spec(spec)
        names = [name.strip() for name in text.split(",") if name.strip()]
        if not names or (options and DEFAULT_PROBES in names):
            raise UserError(
                f'probes "{text}": write a name, names with commas between, or {DEFAULT_PROBES} '
                "(the suite's own); options stand under the name of one probe."
            )
        if DEFAULT_PROBES in names:
            names = [*(n for n in names if n != DEFAULT_PROBES), *standard_probes()]
        for name in names:
            if given.get(name) and options and given[name] != options:
                raise UserError(f"probe {name} is given twice with other options.")
            given[name] = {**given.get(name, {}), **options}
    known = {plugin.name for plugin in plugins.plugins("probe")}
    for name in given:
        _refuse_file("probe", name)
        if name not in known:
            raise UserError(unknown_name("probe", name, {*known, DEFAULT_PROBES}))
        given[name] = {**given[name], **settings.get(name, {})}
        load_probe(name).configured(**given[name])  # raises on a wrong option
    return tuple(sorted(given)), {name: o for name, o in sorted(given.items()) if o}


def _model_spec(spec: str | Mapping[str, Any]) -> ModelSpec:
    name, options = _split_spec(spec)
    known = ModelSpec.model_fields.keys() - {"name"}
    if unknown := options.keys() - known:
        raise UserError(unknown_name(f"option of model {name}", min(unknown), known))
    try:
        return ModelSpec(name=name, **options)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ", ".join([f"model {name}", *map(str, fault["loc"])])
        raise UserError(wrong_value(where, fault)) from error
