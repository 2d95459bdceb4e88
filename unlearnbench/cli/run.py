"""`unlearnbench run`: methods x tasks x models x seeds to result files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click


@click.command("run")
@click.option("--method", "methods", multiple=True, metavar="NAME[,NAME]", help="Methods.")
@click.option("--task", "tasks", multiple=True, metavar="NAME[:SPLIT]", help="Tasks.")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Name, folder or hub id.")
@click.option("--seed", "seeds", multiple=True, metavar="N[,N]", help="Seeds; default: 0,1,2.")
@click.option("--suite", metavar="NAME", help="A registered plan, such as nano.")
@click.option("--plan", type=click.Path(path_type=Path), help="A plan as YAML.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Results folder; jobs finished there are not run again.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    help="Hyperparameter of a method, or option of a task.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Local data files of the tasks.")
@click.option("--retain-model", metavar="MODEL", help="The retrained oracle.")
@click.option("--model-label", metavar="NAME", help="Name of a local model in results and tables.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps, auto.")
@click.option("--prompt-format", metavar="FORMAT", help="chat, plain, raw or a template.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that the model brings.")
@click.option("--allow-pickle", is_flag=True, help="Read .bin weights, which can run code.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--threads", type=click.IntRange(0), default=0, help="Torch threads of a worker.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds a job may take.")
@click.option("--dry-run", is_flag=True, help="Show the jobs and run nothing.")
def command(
    methods: tuple[str, ...],
    tasks: tuple[str, ...],
    models: tuple[str, ...],
    seeds: tuple[str, ...],
    suite: str | None,
    plan: Path | None,
    out: Path,
    settings: tuple[str, ...],
    data_dir: Path | None,
    retain_model: str | None,
    model_label: str | None,
    dtype: str,
    device: str,
    prompt_format: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    workers: int,
    threads: int,
    timeout: float | None,
    dry_run: bool,
) -> None:
    """Run methods on tasks and write one result file per job.

    A job is one method on one task, model and seed. Finished jobs are skipped, so the same command
    goes on after an interruption. A job that fails is recorded and the rest go on; the exit code
    is then 1.

    \b
    Examples:
      unlearnbench run --suite nano --out results
      unlearnbench run --method grad-diff,rome --task nano --model nano --set rome.target=idk
      unlearnbench run --method npo --task tofu:forget10 --model ORG/MODEL --seed 0
    """
    from unlearnbench import plugins
    from unlearnbench.cli.specs import parse_settings
    from unlearnbench.errors import UserError
    from unlearnbench.running.plan import DEFAULT_SEEDS, PlanFile, plan_jobs, read_plan

    if suite and plan:
        raise UserError("give --suite or --plan, not both.")
    base = None
    if suite:
        base = read_plan(Path(plugins.load("suite", suite)))
    elif plan:
        base = read_plan(plan)
    base = base or PlanFile(methods=[], tasks=[], models=[], seeds=list(DEFAULT_SEEDS))
    chosen_methods: list[Any] = _names(methods) or list(base.methods)
    chosen_tasks: list[Any] = _names(tasks) or list(base.tasks)
    chosen_models: list[Any] = _names(models) or list(base.models)
    if data_dir is not None:
        chosen_tasks = [_with(t, data_dir=str(data_dir.resolve())) for t in chosen_tasks]
    if (retain_model or model_label) and len(chosen_models) > 1:
        raise UserError("--retain-model and --model-label are for one --model: use a plan instead.")
    if retain_model and len(chosen_tasks) > 1:
        raise UserError("--retain-model is the oracle of one split: give one --task.")
    options = {
        "retain_model": _resolved(retain_model),
        "label": model_label,
        "dtype": dtype if dtype != "float32" else None,
        "device": device if device != "auto" else None,
        "prompt_format": prompt_format,
        "trust_remote_code": trust_remote_code or None,
        "allow_pickle": allow_pickle or None,
    }
    given = {k: v for k, v in options.items() if v is not None}
    chosen_models = [_with(m, **given) if given else m for m in chosen_models]
    jobs = plan_jobs(
        chosen_methods,
        chosen_tasks,
        chosen_models,
        _seeds(seeds) or list(base.seeds),
        parse_settings(settings),
    )
    if dry_run:
        for job in jobs:
            click.echo(job.title)
        click.echo(f"{len(jobs)} jobs; nothing was run.")
        return
    from unlearnbench.cli.run_display import run_and_show

    sys.exit(run_and_show(jobs, out, workers=workers, threads=threads, timeout=timeout))


def _names(values: tuple[str, ...]) -> list[str]:
    """`a,b` and repeated options alike; a path to a file with a comma stays whole."""
    return [n.strip() for v in values for n in ([v] if ".py:" in v else v.split(",")) if n.strip()]


def _seeds(values: tuple[str, ...]) -> list[int]:
    from unlearnbench.errors import UserError

    seeds = []
    for text in _names(values):
        try:
            seeds.append(int(text))
        except ValueError as error:
            raise UserError(f'seed "{text}" is not an integer.') from error
    return seeds


def _with(spec: Any, **options: Any) -> Any:
    """A plan entry with options added."""
    if isinstance(spec, str):
        return {spec: options}
    if len(spec) != 1:
        return spec  # the plan refuses it with a sentence
    ((name, given),) = spec.items()
    return {name: {**(given or {}), **options}}


def _resolved(name: str | None) -> str | None:
    """A local folder as an absolute path, since workers may stand elsewhere."""
    if name is None:
        return None
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name
