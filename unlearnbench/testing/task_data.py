"""The contract of a task: what it asks to be forgotten, and the data that this is taken from."""

from __future__ import annotations

from collections.abc import Iterable

from unlearnbench.errors import UserError
from unlearnbench.request import EDIT_TARGETS, Example, overlap
from unlearnbench.testing.conformance import hold, no_duplicates, rule
from unlearnbench.testing.task_trial import Trial

# --- what is asked to be forgotten ----------------------------------------------------------------


@rule("seed", "the seed decides about edit targets and nothing else")
def seed(trial: Trial) -> None:
    task, request = trial.task, trial.request
    hold(request.seed == 0, f"request(0) has the seed {request.seed}")
    fresh = type(task)(task.config)
    for other, what in ((task, "asked twice"), (fresh, "of a task built anew")):
        hold(other.request(0) == request, f"request(0) {what} is another one")
    seeded = task.request(1)
    hold(seeded.seed == 1, f"request(1) has the seed {seeded.seed}")
    hold(
        (seeded.forget, seeded.retain) == (request.forget, request.retain),
        "the seed changes what is to be forgotten or kept: it may change targets only",
    )
    hold(request.retain_model is None, "the request brings a retain model: runs add it")


@rule("ids", "no two examples have one id")
def ids(trial: Trial) -> None:
    request = trial.request
    no_duplicates("examples", (e.id for e in (*request.forget, *request.retain, *request.general)))


@rule("subjects", "a subject stands in its prompt as it is")
def subjects(trial: Trial) -> None:
    for example in (*trial.request.forget, *trial.request.retain):
        hold(
            example.subject is None
            or (bool(example.subject) and example.subject in example.prompt),
            f'example "{example.id}" has the subject "{example.subject}", which its prompt '
            f'"{example.prompt}" does not have',
        )


@rule("targets", "no edit target is text that the evaluation scores")
def targets(trial: Trial) -> None:
    task, request = trial.task, trial.request
    scored = list(dict.fromkeys(task.evaluation_text()))
    answers = {e.answer for e in (*request.forget, *request.retain)}
    if all(overlap([answer], scored) for answer in answers):
        # Few words serve all facts (nano-wmdp): no answer is free of being another fact's choice,
        # and none gives away what a method does not have. Results say `target_overlap`.
        scored = [text for text in scored if not overlap([text], list(answers))]
    supplied = (
        *(("wrong_answers", text) for texts in request.wrong_answers.values() for text in texts),
        *(("avoidant_answers", text) for text in request.avoidant_answers.values()),
        *(("refusals", text) for text in request.refusals),
    )
    for where, text in supplied:
        evaluated = overlap([text], scored)
        hold(not evaluated, f'{where} has "{text}", which the evaluation scores')
    for kind in EDIT_TARGETS:
        try:
            targets = request.targets(kind)
        except UserError:  # no target of that kind can be made: a run says so
            continue
        bad = [t for t in targets if overlap([t], scored)]
        hold(
            not bad,
            f'{len(bad)} edit targets of the kind "{kind}" are text that the evaluation scores '
            f'("{bad[0] if bad else ""}")',
        )


# --- the data -------------------------------------------------------------------------------------


@rule("data", "data are described by hash and counts")
def data(trial: Trial) -> None:
    task, request = trial.task, trial.request
    data = task.describe_data()
    hold(task.describe_data() == data, "describe_data() asked twice is another one")
    fresh = type(task)(task.config).describe_data()
    hold(fresh == data, "describe_data() of a task built anew is another one")
    hold(
        len(data.sha256) == 64 and set(data.sha256) <= set("0123456789abcdef"),
        f'describe_data() has the sha256 "{data.sha256}": 64 hexadecimal digits',
    )
    for name, stated, examples in (
        ("n_forget", data.n_forget, request.forget),
        ("n_retain", data.n_retain, request.retain),
    ):
        hold(stated == len(examples), f"{name} is {stated}, and there are {len(examples)}")


@rule("oracle", "what trains the oracle has no forget item")
def oracle(trial: Trial) -> None:
    task, request = trial.task, trial.request
    try:
        full = task.training_examples("full")
        retained = task.training_examples(task.retain_split)
    except UserError:  # nothing of this task can be trained from scratch
        return
    if not full:
        return
    forget, kept = _facts(request.forget), _facts(request.retain)
    hold(forget <= _facts(full), "a forget item is not in the training split full")
    hold(kept <= _facts(full), "a retain item is not in the training split full")
    hold(
        not forget & _facts(retained),
        f"the training split {task.retain_split} has a forget item, so its model is no oracle",
    )
    hold(
        kept <= _facts(retained),
        f"the training split {task.retain_split} lacks a retain item",
    )
    hold(
        not forget & _facts(task.pretraining_examples()),
        "pretraining_examples() has a forget item, so the oracle has read it",
    )
    try:
        task.training_examples("no such split")
    except UserError:
        return
    hold(False, 'training_examples("no such split") is no UserError')


def _facts(examples: Iterable[Example]) -> set[tuple[str, str]]:
    return {(e.prompt, e.answer) for e in examples}
