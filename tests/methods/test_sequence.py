"""What editors share: order, journal, checkpoints, and going on after a crash."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from unlearnbench import (
    Diverged,
    Example,
    ForgetRequest,
    LanguageModel,
    MethodConfig,
    checkpoint,
    silent,
)
from unlearnbench_methods.editing import sequence
from unlearnbench_methods.editing.sequence import (
    Edit,
    Weights,
    edit_in_sequence,
    without_subject,
)

STEP = 1 / 64


def request(count: int = 7, workspace: Path | None = None) -> ForgetRequest:
    items = tuple(
        Example(f"f{i}", f"Where was person {i} born?", "In Vellmore.", f"person {i}", cluster="c")
        for i in range(count)
    )
    return replace(tiny.request(), forget=items, workspace=workspace)


class Counter:
    """An editor that remembers what it was asked, in a tensor and a list: its whole state."""

    def __init__(self) -> None:
        self.state = torch.zeros(3)
        self.asked: list[list[int]] = []

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {"state": self.state}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.state.copy_(tensors["state"])

    def apply(self, batch: Sequence[Edit]) -> list[dict[str, float]]:
        self.asked.append([edit.number for edit in batch])
        for edit in batch:
            # Not commutative, so that another order or a repeated edit would show.
            self.state[:] = 0.5 * self.state + edit.number
        return [{"loss": 1.0 / edit.number} for edit in batch]


class Memory(LanguageModel):
    """Its first choice for a prompt is what is `written` there."""

    def __init__(self) -> None:
        plain = tiny.language_model(layers=1, width=8)
        super().__init__(plain.hf, plain.tokenizer, plain.prompt_format)
        self.written: dict[str, str] = {}

    def score(self, prompts, continuations, **options):  # type: ignore[no-untyped-def]
        scores = super().score(prompts, continuations, **options)
        return [
            [
                replace(c, greedy=np.full_like(c.greedy, self.written.get(p) == t))
                for t, c in zip(texts, scored, strict=True)
            ]
            for p, texts, scored in zip(prompts, continuations, scores, strict=True)
        ]


def run(
    request: ForgetRequest,
    editor: Counter,
    model: LanguageModel | None = None,
    apply: Callable[[Sequence[Edit]], Sequence[Mapping[str, float]]] | None = None,
    progress: Callable[..., None] = silent,
    **options: object,
) -> LanguageModel:
    model = model or Memory()
    targets = [f"target {i}" for i in range(len(request.forget))]
    edit_in_sequence(
        model,
        request,
        targets,
        apply or editor.apply,
        editor,
        progress,  # type: ignore[arg-type]
        **{"config": MethodConfig(), **options},  # type: ignore[arg-type]
    )
    return model


def test_edits_come_one_by_one_in_the_order_of_the_forget_set() -> None:
    seen: list[Edit] = []
    asked = request(3)

    def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
        seen.extend(batch)
        assert len(batch) == 1
        return [{}]

    run(asked, Counter(), apply=apply)
    assert [edit.number for edit in seen] == [1, 2, 3]
    assert [edit.item for edit in seen] == list(asked.forget)
    assert [edit.target for edit in seen] == ["target 0", "target 1", "target 2"]


@pytest.mark.parametrize(
    ("size", "batches"),
    [
        (3, [[1, 2, 3], [4, 5, 6], [7]]),
        (7, [[1, 2, 3, 4, 5, 6, 7]]),
        (100, [[1, 2, 3, 4, 5, 6, 7]]),
    ],
)
def test_batches_are_full_but_for_the_last(size: int, batches: list[list[int]]) -> None:
    editor = Counter()
    model = run(request(7), editor, batch_size=size)
    assert editor.asked == batches
    assert [r.id for r in model.journal] == [f"f{i}" for i in range(7)]
    assert [r.scores["loss"] for r in model.journal] == [1 / n for n in range(1, 8)]


def test_the_journal_has_a_record_per_edit_with_item_and_cluster() -> None:
    asked = request(2)
    asked = replace(asked, forget=(asked.forget[0], replace(asked.forget[1], cluster=None)))
    model = run(asked, Counter())
    assert [(r.id, r.split, r.cluster) for r in model.journal] == [
        ("f0", "edits", "c"),
        ("f1", "edits", "f1"),  # an item without a cluster is one of its own
    ]


def test_success_is_noted_right_after_an_edit_and_again_at_the_end() -> None:
    """Edit 1 takes and is undone by edit 3; edit 2 never takes; edit 3 does and stays."""
    model = Memory()

    def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
        (edit,) = batch
        prompts = [f"Where was person {i} born?" for i in range(3)]
        model.written[edit.item.prompt] = edit.target if edit.number != 2 else "something else"
        if edit.number == 3:
            del model.written[prompts[0]]
        return [{"loss": 0.5}]

    run(request(3), Counter(), model, apply)
    noted = [(r.scores["success"], r.scores["success_at_end"]) for r in model.journal]
    assert noted == [(1.0, 0.0), (0.0, 0.0), (1.0, 1.0)]


def test_the_journal_has_the_probability_of_target_and_answer_then_and_at_the_end() -> None:
    """The last edit changes the model for all prompts, the first does not."""
    model, asked = tiny.language_model(), request(2)
    down = model.modules.mlp_down(1)

    def probability(prompt: str, answer: str) -> float:
        encoded = model.encode(prompt, answer)
        logits = model.hf(input_ids=torch.tensor([encoded.ids])).logits[0].double()
        logprobs = logits.log_softmax(dim=1)
        places = range(encoded.start, len(encoded.ids))
        said = torch.stack([logprobs[p - 1, encoded.ids[p]] for p in places])
        return said.mean().exp().item()

    def both(number: int) -> list[float]:
        prompt = asked.forget[number].prompt
        return [probability(prompt, f"target {number}"), probability(prompt, "In Vellmore.")]

    def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
        with torch.no_grad():
            down.weight.mul_(1 if batch[0].number == 1 else -3)
        return [{}]

    expected = [both(0)]
    run(asked, Counter(), model, apply)
    expected += [both(1)]
    at_end = [both(0), both(1)]
    for name, wanted in (("", expected), ("_at_end", at_end)):
        noted = [
            [r.scores[f"target_prob{name}"], r.scores[f"answer_prob{name}"]] for r in model.journal
        ]
        for row, other in zip(noted, wanted, strict=True):
            assert row == pytest.approx(other, rel=1e-4)
    assert expected[0] != pytest.approx(at_end[0], rel=0.05)


def test_progress_counts_edits_and_shows_their_loss() -> None:
    calls: list[tuple[int, int, str]] = []
    run(request(5), Counter(), progress=lambda *call: calls.append(call), batch_size=2)
    assert calls == [
        (2, 5, "editing, loss 0.500"),
        (4, 5, "editing, loss 0.250"),
        (5, 5, "editing, loss 0.200"),
    ]


def test_items_without_a_subject_are_left_out_where_one_is_needed() -> None:
    asked = request(4)
    forget = (
        asked.forget[0],
        replace(asked.forget[1], subject=None),
        replace(asked.forget[2], subject="Nobody"),  # not in its prompt
        asked.forget[3],
    )
    asked = replace(asked, forget=forget)
    seen: list[Edit] = []

    def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
        seen.extend(batch)
        return [{} for _ in batch]

    model = run(asked, Counter(), apply=apply, needs_subject=True)
    assert [(e.number, e.item.id, e.target) for e in seen] == [
        (1, "f0", "target 0"),
        (2, "f3", "target 3"),  # the target of its item, not of its place
    ]
    assert [r.id for r in model.journal] == ["f0", "f3"]
    assert without_subject(asked) == ["no_subject: 2 of 4 skipped"]
    seen.clear()
    run(asked, Counter(), apply=apply)
    assert len(seen) == 4


def test_without_a_workspace_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(request(3), Counter())
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.fixture
def every_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "CHECKPOINT_EVERY", 3)


@pytest.mark.usefixtures("every_three")
@pytest.mark.parametrize(
    ("size", "fails_at", "again"),
    [
        (1, 2, [1, 2, 3, 4, 5, 6, 7, 8]),  # before the first checkpoint: from the start
        (1, 4, [4, 5, 6, 7, 8]),
        (1, 6, [4, 5, 6, 7, 8]),
        (1, 8, [7, 8]),
        (2, 5, [5, 6, 7, 8]),  # edits 3 and 4 passed the third: a checkpoint after four
        (2, 7, [7, 8]),
    ],
)
def test_a_run_that_was_cut_off_goes_on_behind_its_last_checkpoint(
    tmp_path: Path, size: int, fails_at: int, again: list[int]
) -> None:
    whole, journal = Counter(), run(request(8), editor := Counter(), batch_size=size).journal
    whole.state = editor.state.clone()
    asked = request(8, workspace=tmp_path)
    cut = Counter()

    def fail(batch: Sequence[Edit]) -> list[dict[str, float]]:
        if fails_at in [edit.number for edit in batch]:
            cut.state.fill_(99.0)  # half done: must not survive
            raise KeyboardInterrupt
        return cut.apply(batch)

    with pytest.raises(KeyboardInterrupt):
        run(asked, cut, apply=fail, batch_size=size)
    resumed = Counter()
    model = run(asked, resumed, batch_size=size)
    assert [n for batch in resumed.asked for n in batch] == again
    assert torch.equal(resumed.state, whole.state)
    assert model.journal == journal


@pytest.mark.usefixtures("every_three")
def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    first, again = Counter(), Counter()
    journal = run(request(4, tmp_path), first).journal
    model = run(request(4, tmp_path), again)
    assert again.asked == []
    assert torch.equal(again.state, first.state)
    assert model.journal == journal


@pytest.mark.usefixtures("every_three")
@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_a_torn_checkpoint_is_no_checkpoint(tmp_path: Path, left: int) -> None:
    first, again = Counter(), Counter()
    run(request(4, tmp_path), first)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:left])
    run(request(4, tmp_path), again)
    assert [n for batch in again.asked for n in batch] == [1, 2, 3, 4]
    assert torch.equal(again.state, first.state)


@pytest.mark.usefixtures("every_three")
class OtherConfig(MethodConfig):
    rate: float = 0.1


@pytest.mark.parametrize("other", ["facts", "settings", "model", "code"])
def test_a_checkpoint_of_anything_else_is_no_checkpoint(
    tmp_path: Path, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(request(4, tmp_path), Counter(), config=OtherConfig())
    asked, model, config = request(4, tmp_path), Memory(), OtherConfig()
    if other == "facts":
        asked = replace(asked, forget=asked.forget[::-1])
    elif other == "settings":
        config = OtherConfig(rate=0.2)
    elif other == "model":
        with torch.no_grad():
            next(model.hf.parameters()).add_(1.0)
    else:
        monkeypatch.setattr(checkpoint, "_source_digest", lambda config: "edited")
    again = Counter()
    run(asked, again, model, config=config)
    assert [n for batch in again.asked for n in batch] == [1, 2, 3, 4]


def test_a_resumed_run_adds_to_what_it_had_cost(tmp_path: Path) -> None:
    def dear(fail: bool) -> Callable[[Sequence[Edit]], list[dict[str, float]]]:
        def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
            if fail and batch[0].number == sequence.CHECKPOINT_EVERY + 2:
                raise KeyboardInterrupt
            model.trained_tokens += 10
            return [{"loss": 0.5}]

        return apply

    asked = request(sequence.CHECKPOINT_EVERY + 3, tmp_path)
    model: LanguageModel = Memory()
    with pytest.raises(KeyboardInterrupt):
        run(asked, Counter(), model, dear(fail=True))
    model = Memory()
    run(asked, Counter(), model, dear(fail=False))
    assert model.trained_tokens == 10 * (sequence.CHECKPOINT_EVERY + 3)
    assert model.earlier_seconds > 0


def test_a_score_that_is_no_number_is_divergence() -> None:
    def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
        return [{"loss": 0.5, "missing": math.inf if batch[0].number == 2 else 0.0}]

    with pytest.raises(Diverged, match=r"edit 2 of 3: its missing is inf") as caught:
        run(request(3), Counter(), apply=apply)
    assert len(caught.value.journal) == 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_back_from_a_checkpoint_bit_for_bit(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    def edit(workspace: Path | None, stop: int | None) -> str:
        model = tiny.language_model(family, layers=2)
        model.hf.to(dtype)
        down = model.modules.mlp_down(1)

        def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
            if batch[0].number == stop:
                raise KeyboardInterrupt
            generator = torch.Generator().manual_seed(batch[0].number)
            with torch.no_grad():
                noise = torch.randn(down.weight.shape, generator=generator)
                down.weight.mul_(1 + STEP).add_(STEP * noise.to(dtype))
            return [{}]

        edit_in_sequence(
            model,
            request(5, workspace),
            ["dummy"] * 5,
            apply,
            Weights({"down": down}),
            silent,
            config=MethodConfig(),
        )
        return model.fingerprint()

    whole = edit(None, None)
    with pytest.raises(KeyboardInterrupt):
        edit(tmp_path, 5)
    assert edit(tmp_path, None) == whole


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_ends_it_with_edit_and_journal(bad: float) -> None:
    editor = Counter()

    def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
        scores = editor.apply(batch)
        if batch[0].number == 3:
            editor.state[1] = bad
        return scores

    with pytest.raises(Diverged, match="edit 3 of 7: 1 of 3 numbers of state are not") as caught:
        run(request(7), editor, apply=apply)
    assert [r.id for r in caught.value.journal] == ["f0", "f1"]
    assert [r.scores["loss"] for r in caught.value.journal] == [1.0, 0.5]


def test_an_edit_that_diverges_is_named_and_brings_the_journal_so_far() -> None:
    editor = Counter()

    def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
        if batch[0].number == 3:
            raise Diverged("the search became nan.")
        return editor.apply(batch)

    with pytest.raises(Diverged, match=r"edit 3 of 7: the search became nan\.") as caught:
        run(request(7), editor, apply=apply)
    assert [r.id for r in caught.value.journal] == ["f0", "f1"]


@pytest.mark.usefixtures("every_three")
def test_a_state_that_is_not_finite_is_never_checkpointed(tmp_path: Path) -> None:
    editor = Counter()

    def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
        scores = editor.apply(batch)
        if batch[0].number == 3:
            editor.state[0] = float("nan")
        return scores

    with pytest.raises(Diverged):
        run(request(7, tmp_path), editor, apply=apply)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("breaks", [2, 7])
def test_scores_that_are_not_numbers_end_it_with_edit_and_journal(breaks: int) -> None:
    """What an edit breaks may lie outside the editor's own state."""
    model, editor = tiny.language_model(), Counter()

    def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
        if batch[0].number == breaks:
            with torch.no_grad():
                model.modules.mlp_down(1).weight.fill_(float("nan"))
        return editor.apply(batch)

    message = rf"edit {breaks} of 7: the model's scores of 'Where was person {breaks - 1} born\?'"
    with pytest.raises(Diverged, match=message) as caught:
        run(request(7), editor, model, apply)
    assert [r.id for r in caught.value.journal] == [f"f{i}" for i in range(breaks - 1)]
