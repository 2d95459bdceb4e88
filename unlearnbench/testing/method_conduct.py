"""The contract of a method: how it goes about it, and where it has to give up."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from transformers import PreTrainedTokenizerFast

from unlearnbench import plugins
from unlearnbench.errors import Diverged, UserError, counted
from unlearnbench.method import Method
from unlearnbench.models.wrapped import WrappedModel
from unlearnbench.request import EDIT_TARGETS, ForgetRequest
from unlearnbench.task import Task
from unlearnbench.testing.claims import plugin_of
from unlearnbench.testing.conformance import (
    NotTried,
    failure_of,
    goes_forward,
    hold,
    one_line,
    rule,
)
from unlearnbench.testing.method_trial import (
    Trial,
    answers_of,
    other_generators,
    small_model,
)
from unlearnbench.testing.tiny_models import tiny_request, tiny_tokenizer

#: Task and model of the end-to-end job: the smallest that the suite brings.
TASK, MODEL = "nano", "nano"


#: What keeps that job small, where the task has such options.
SMALL = {"limit": 2, "facts": 4, "max_new_tokens": 4}


@rule("repeats", "one seed gives one model, however often")
def repeats(trial: Trial) -> None:
    for shape, run in trial.runs().items():
        again = trial.run(small_model(shape), tiny_request())
        hold(
            again.unlearned().fingerprint() == run.unlearned().fingerprint()
            and answers_of(again.unlearned(), run.given) == answers_of(run.unlearned(), run.given),
            f"seed 0 twice gives two {shape}-shaped models: draw every number from a generator "
            "seeded with request.seed, and keep nothing from an earlier call",
        )


@rule("seeds", "another seed gives another model, unless stochastic is False")
def seeds(trial: Trial) -> None:
    shape, run = trial.any_run()
    owner, first = type(trial.method), run.unlearned().fingerprint()
    if not owner.stochastic:
        hold(
            _outcome(trial, shape, 1) == first,
            "stochastic is False, and seed 1 gives another model than seed 0: leave it True",
        )
        return
    # A seed may decide about edit targets alone, and the one in use be the same for all.
    others = [trial.method]
    if "target" in owner.Config.model_fields:
        others.append(owner(trial.method.config.model_copy(update={"target": "idk"})))
    for method in others:
        if any(_outcome(trial, shape, seed, method) != first for seed in (1, 2, 3)):
            return
    hold(
        False,
        "the seeds 0 to 3 give one model: say stochastic = False, so that one run stands for all "
        "(or check it with hyperparameters by which the seed matters)",
    )


def _outcome(trial: Trial, shape: str, seed: int, method: Method[Any] | None = None) -> str:
    run = trial.run(small_model(shape), tiny_request(seed), method)
    return run.unlearned().fingerprint()


@rule("generators", "the generators of the process are left alone")
def generators(trial: Trial) -> None:
    for _, run in trial.runs().items():
        hold(
            not run.moved,
            f"it draws from or seeds the generator of {' and '.join(run.moved)}, which is its "
            "caller's: use random.Random(seed), numpy.random.default_rng(seed) or "
            "torch.Generator().manual_seed(seed)",
        )


@rule("request", "the request is as it was given")
def request_untouched(trial: Trial) -> None:
    for _, run in trial.runs().items():
        hold(
            replace(run.request, retain_model=None) == run.given,
            "unlearn changes the request that it was given: copy what is to be changed",
        )


@rule("oracle", "the retrained oracle is not asked for")
def no_oracle(trial: Trial) -> None:
    if trial.is_reference:
        raise NotTried("a reference may ask for the oracle")
    for _, run in trial.runs().items():
        hold(
            run.oracle_calls == 0,
            "it calls request.retain_model, the oracle that it is measured against: only a "
            'reference (role = "reference") may',
        )


class _Listening(PreTrainedTokenizerFast):  # type: ignore[misc]
    """A tokenizer that notes every text that it is given."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.heard: list[str] = []
        super().__init__(*arguments, **options)

    def _encode_plus(self, text: Any, *arguments: Any, **options: Any) -> Any:
        self.heard += _texts([text, *arguments, *options.values()])
        return super()._encode_plus(text, *arguments, **options)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for part in value for text in _texts(part)]
    return []


@rule("evaluation-text", "nothing of the evaluation is read")
def evaluation_text(trial: Trial) -> None:
    """A request of a real task, whose evaluation is watched, and a tokenizer that listens."""
    from unlearnbench.running.plan import load_task

    task = load_task(TASK).configured()
    whole = task.request(0)
    request = replace(
        whole,
        forget=whole.forget[:2],
        retain=whole.retain[:2],
        general=whole.general[:2],
        unevaluated=whole.unevaluated[:6],
    )
    told = "\n".join(_request_text(whole))
    # A common word ("tea") proves nothing; who reads the evaluation meets names and sentences too.
    secret = {
        text
        for text in task.evaluation_text()
        if text not in told and (" " in text or not text.islower())
    }
    tokenizer = tiny_tokenizer(kind=_Listening)
    assert isinstance(tokenizer, _Listening)
    shape, _ = trial.any_run()
    model = small_model(shape, positions=1024, tokenizer=tokenizer)
    refusal: UserError | None = None
    with _watched(type(task)) as touched:
        try:
            trial.run(model, request)
        except UserError as told_so:
            refusal = told_so
    what = f"unlearn {touched[0]}" if touched else ""
    hold(not touched, f"{what}: a method reads its request, and nothing of the evaluation")
    seen = [text for text in secret if _has_words(tokenizer.heard, text)]
    hold(
        not seen,
        f"unlearn reads {counted(len(seen), 'text')} of the evaluation: a method reads its "
        "request, and nothing else of the task",
    )
    if refusal is not None:
        hold("\n" not in str(refusal), f"it refuses in more than one line: {refusal}")
        raise NotTried(f"it refuses a small request of the task {TASK}: {refusal}")


def _has_words(heard: Sequence[str], text: str) -> bool:
    """Whether one of the texts has `text` in it, from word to word: no "tea" in "instead"."""
    words = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")
    return any(text in each and words.search(each) for each in heard)


@contextmanager
def _watched(task: type[Task[Any]]) -> Iterator[list[str]]:
    """What is done with a task, and which tasks are loaded, while this lasts."""
    touched: list[str] = []
    load = plugins.Plugin.load

    def loading(plugin: plugins.Plugin) -> Any:
        if plugin.kind == "task":
            touched.append(f"loads the task {plugin.name}")
        return load(plugin)

    def noting(asked: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            touched.append(f"calls {asked.__name__}() of the task {task.name}")
            return asked(*arguments, **options)

        return call

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(plugins.Plugin, "load", loading))
        for name in ("evaluate", "evaluation_text"):
            patches.enter_context(mock.patch.object(task, name, noting(getattr(task, name))))
        yield touched


def _request_text(request: ForgetRequest) -> Iterator[str]:
    for example in (*request.forget, *request.retain, *request.general, *request.unevaluated):
        yield from (example.prompt, example.answer)
    for texts in request.wrong_answers.values():
        yield from texts
    yield from (*request.avoidant_answers.values(), *request.refusals, *EDIT_TARGETS)


@rule("progress", "progress goes forward and ends at its total")
def progress(trial: Trial) -> None:
    if trial.is_reference:
        raise NotTried("a reference need not report itself")
    for _, run in trial.runs().items():
        goes_forward(run.calls)


@rule("workspace", "a workspace decides nothing")
def workspace(trial: Trial) -> None:
    shape, run = trial.any_run()
    place = trial.folder / "workspace"
    first = run.unlearned().fingerprint()
    for told in ("with a workspace", "begun again in the workspace of an earlier attempt"):
        other = trial.run(small_model(shape), replace(tiny_request(), workspace=place))
        hold(
            other.unlearned().fingerprint() == first,
            f"{told} it gives another model than without: a workspace saves work and decides "
            "nothing",
        )


@rule("diverges", "a model that is not finite is refused with Diverged")
def diverges(trial: Trial) -> None:
    if trial.is_reference:
        raise NotTried("a reference may leave the model as it is")
    shape, _ = trial.any_run()
    model = small_model(shape)
    with torch.no_grad():
        for parameter in model.hf.parameters():
            if parameter.ndim >= 2:
                parameter.fill_(float("nan"))
    try:
        run = trial.run(model, tiny_request())
    except (Diverged, UserError) as told:
        hold("\n" not in str(told), f"its message has more than one line: {told}")
        return
    after = run.unlearned()
    tensors = after.tensors().values() if isinstance(after, WrappedModel) else ()
    numbers = [t for t in tensors if t.is_floating_point()]
    hold(
        not run.scope and all(bool(torch.isfinite(t).all()) for t in numbers),
        "given a model whose weights are NaN, it returns one: raise Diverged where a loss or a "
        "weight is not finite",
    )


def _small_request(what: str, request: ForgetRequest, trial: Trial) -> None:
    shape, _ = trial.any_run()
    try:
        run = trial.run(small_model(shape), request)
    except (UserError, Diverged) as refusal:
        hold("\n" not in str(refusal), f"{what}, it refuses in more than one line: {refusal}")
    except Exception as error:
        hold(
            False,
            f"{what}, it raises {one_line(error)}: do without, or raise UserError with one line "
            "that says what is missing",
        )
    else:
        run.unlearned()


@rule("no-retain", "an empty retain set works, or is refused in one line")
def no_retain(trial: Trial) -> None:
    request = replace(tiny_request(), retain=(), general=(), unevaluated=())
    _small_request("without a retain set", request, trial)


@rule("no-subject", "a fact without a subject works, or is refused in one line")
def no_subject(trial: Trial) -> None:
    (first, *_) = tiny_request().forget
    request = replace(tiny_request(), forget=(replace(first, subject=None),))
    _small_request("with one fact that has no subject", request, trial)


@rule("end-to-end", "a small job gives a valid result")
def end_to_end(trial: Trial) -> None:
    from unlearnbench.results.store import ResultStore
    from unlearnbench.results.verification import verify
    from unlearnbench.running.job import JobRunner
    from unlearnbench.running.plan import Job, ModelSpec, load_task
    from unlearnbench.running.saving import FINAL

    method = trial.method
    options = {k: v for k, v in SMALL.items() if k in load_task(TASK).Config.model_fields}
    job = Job(
        method=_runnable(method),
        config=method.config.model_dump(mode="json"),
        task=TASK,
        task_config=options,
        model=ModelSpec(name=MODEL, device="cpu"),
        seed=0,
    )
    store = ResultStore(trial.folder / "results")
    runner = JobRunner(store)
    with other_generators(0, []):
        result = runner.run(job, runner.identify(job), lambda done, total, note="": None)
    hold(
        result.status in FINAL,
        f"a job on {TASK} ends as {result.status}: {failure_of(result)}",
    )
    for path in store.folder.rglob("*.json"):
        faults = verify(path)
        hold(
            not faults, f"the result of a job on {TASK} is not valid: {faults[0] if faults else ''}"
        )


def _runnable(method: Method[Any]) -> str:
    """How a job can name the method: as registered, or as a class in a file."""
    from unlearnbench.running.plan import load_method

    owner = type(method)
    plugin = plugin_of(owner, "method")
    if plugin is not None:
        return plugin.name
    spec = f"{inspect.getsourcefile(owner)}:{owner.__qualname__}"
    try:
        load_method(spec)
    except (UserError, TypeError) as error:
        raise NotTried(f"a job cannot name it: it is not registered, and {error}") from error
    return spec
