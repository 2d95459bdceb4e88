"""Reading CounterFact (Meng et al. 2022, arXiv 2202.05262), and choosing what is to be forgotten.

Two formats, told apart row by row: the original one, which nests a `requested_rewrite` beside lists
of prompts, and the flat one of EasyEdit (arXiv 2308.07269). A `World` is what a reference model
knows: every prompt in it has one answer. A `ForgetSet` is the part of it that is to go.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from unlearnbench import DataError, Example, UserError
from unlearnbench_tasks.row_files import Row, json_rows

HUB_ID = "azhx/counterfact"
#: The names that the data set's files go by, the original first.
FILES = ("counterfact.json", "counterfact-edit.json")
#: What a forget set is made of, and how many facts it has: `relation-100`.
SPLIT = re.compile(r"(random|relation|subject)-([1-9]\d*)")


#: Characters of a `case_id` that is a text.
_LONGEST_ID = 100


def _split_name(split: str) -> str:
    if SPLIT.fullmatch(split) is None:
        raise ValueError("a split is random-N, relation-N or subject-N, with N facts, at least 1")
    return split


SplitName = Annotated[str, AfterValidator(_split_name)]


@dataclass(frozen=True)
class Fact:
    """One case. `answer` is what is true, `new` the false object that the data set brings.

    `relation` is Wikidata's id (P103). The flat format has none: the prompt with `{}` for its
    subject stands in, so that one relation is as many as it has wordings.
    """

    id: str
    prompt: str
    subject: str
    answer: str
    new: str
    relation: str
    paraphrases: tuple[str, ...]
    neighbours: tuple[tuple[str, str], ...]  # (prompt, true answer)


@dataclass(frozen=True)
class Source:
    """All facts of a file or hub data set, in its order."""

    source: str
    revision: str
    facts: tuple[Fact, ...]


# --- reading --------------------------------------------------------------------------------------


def from_folder(folder: Path, file: str | None) -> Source:
    """The facts of `file` in a folder; of the one that goes by a known name where None is named.

    Raises:
        UserError: no such folder or file.
        DataError: the file is not CounterFact (file, row and field).
    """
    if not folder.is_dir():
        raise UserError(f'--data-dir "{folder}" is not a folder.')
    names = [file] if file else [*FILES, *sorted(p.name for p in folder.glob("*.json"))]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise UserError(
            f'"{folder}" has no {file or " or ".join(FILES)}: name the file with '
            "--set counterfact.file=NAME."
        )
    return Source(path.name, "local files", read_file(path))


def from_hub(revision: str | None) -> Source:
    """The data set on the hub (both its splits, as they were one file before); downloads it."""
    import datasets

    try:
        loaded = datasets.load_dataset(HUB_ID, revision=revision)
    except Exception as error:
        raise DataError(
            f"{HUB_ID} cannot be loaded from the hub: {str(error)[:200]}. "
            "Give local files with --data-dir."
        ) from error
    rows = [dict(row) for split in sorted(loaded, reverse=True) for row in loaded[split]]
    return from_rows(HUB_ID, revision or "main", rows)


def from_rows(source: str, revision: str, rows: Sequence[Row]) -> Source:
    """Rows that are in memory already, of either format."""
    placed = [(f"{source} row {number}", row) for number, row in enumerate(rows, start=1)]
    return Source(source, revision, _facts(placed))


def read_file(path: Path) -> tuple[Fact, ...]:
    """The facts of a JSON array, or of JSON Lines.

    Raises:
        DataError: not JSON, or a row that is no case (file, row and field).
    """
    return _facts(json_rows(path))


def _facts(rows: Iterable[tuple[str, Any]]) -> tuple[Fact, ...]:
    facts: list[Fact] = []
    places: dict[str, str] = {}
    for place, row in rows:
        if not isinstance(row, Mapping):
            raise DataError(f"{place}: a {type(row).__name__}, not an object.")
        fact = _nested(row, place) if "requested_rewrite" in row else _flat(row, place)
        if not fact.subject or fact.subject not in fact.prompt:
            raise DataError(
                f'{place}: the subject "{fact.subject}" is not in the prompt "{fact.prompt}".'
            )
        if fact.id in places:
            raise DataError(
                f'{place}: "case_id" {fact.id.removeprefix("case-")} is that of '
                f"{places[fact.id]} too. Each case needs one of its own."
            )
        places[fact.id] = place
        facts.append(fact)
    if not facts:
        raise DataError("the CounterFact file has no rows: there is nothing to forget.")
    return tuple(facts)


def _nested(row: Row, place: str) -> Fact:
    rewrite = row["requested_rewrite"]
    if not isinstance(rewrite, Mapping):
        raise DataError(f'{place}: "requested_rewrite" is a {type(rewrite).__name__}.')
    subject = _text(rewrite, "subject", place, "requested_rewrite.")
    template = _text(rewrite, "prompt", place, "requested_rewrite.")
    if "{}" not in template:
        raise DataError(
            f'{place}: "requested_rewrite.prompt" has no {{}} for its subject: "{template}".'
        )
    answer, new = (
        _text(_object(rewrite, field, place), "str", place, f"requested_rewrite.{field}.")
        for field in ("target_true", "target_new")
    )
    return Fact(
        id=_case(row, place),
        prompt=template.replace("{}", subject, 1),
        subject=subject,
        answer=answer,
        new=new,
        relation=str(rewrite.get("relation_id") or template),
        paraphrases=_texts(row, "paraphrase_prompts", place),
        # Neighbours are other subjects of which the same object is true.
        neighbours=tuple((p, answer) for p in _texts(row, "neighborhood_prompts", place)),
    )


def _flat(row: Row, place: str) -> Fact:
    prompt, subject = _text(row, "prompt", place), _text(row, "subject", place)
    locality = _texts(row, "locality_prompt", place)
    truths = _texts(row, "locality_ground_truth", place)
    if len(locality) != len(truths):
        raise DataError(
            f'{place}: {len(locality)} texts in "locality_prompt" and {len(truths)} in '
            '"locality_ground_truth": each prompt needs its answer.'
        )
    return Fact(
        id=_case(row, place),
        prompt=prompt,
        subject=subject,
        answer=_text(row, "ground_truth", place),
        new=_text(row, "target_new", place),
        relation=prompt.replace(subject, "{}", 1),
        paraphrases=_texts(row, "rephrase_prompt", place),
        neighbours=tuple(zip(locality, truths, strict=True)),
    )


def _case(row: Row, place: str) -> str:
    number = row.get("case_id")
    if number is None:
        raise DataError(f'{place}: no "case_id" (fields: {", ".join(row)}).')
    if isinstance(number, int):
        return f"case-{number:05d}"
    if isinstance(number, str) and number.isprintable() and 0 < len(number) <= _LONGEST_ID:
        return f"case-{number}"
    raise DataError(f'{place}: "case_id" is neither a number nor a short text.')


def _object(row: Row, field: str, place: str) -> Row:
    value = row.get(field)
    if not isinstance(value, Mapping):
        raise DataError(f'{place}: "requested_rewrite.{field}" is not an object with "str".')
    return value


def _text(row: Row, field: str, place: str, within: str = "") -> str:
    value = row.get(field)
    if not (isinstance(value, str) and value.strip()):
        raise DataError(
            f'{place}: no text in "{within}{field}" (fields: {", ".join(row)}). CounterFact rows '
            "have requested_rewrite (the original format), or prompt, subject, ground_truth and "
            "target_new (EasyEdit's)."
        )
    # The space between prompt and answer is the prompt format's to write.
    return value.strip()


def _texts(row: Row, field: str, place: str) -> tuple[str, ...]:
    """A list of texts, one text, or none."""
    value = row.get(field)
    listed = [value] if isinstance(value, str) else ([] if value is None else value)
    if not (isinstance(listed, list) and all(isinstance(v, str) and v.strip() for v in listed)):
        raise DataError(f'{place}: "{field}" is neither a text nor a list of texts.')
    return tuple(v.strip() for v in listed)


# --- the world ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Facts that do not contradict one another: every prompt has one answer."""

    facts: tuple[Fact, ...]

    def sha256(self) -> str:
        """Content hash, whatever format or file the facts came in."""
        rows = json.dumps([asdict(f) for f in self.facts], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(rows.encode()).hexdigest()

    def examples(self) -> list[Example]:
        """All that the world says, once: facts, then their paraphrases, then neighbours."""
        said = [
            *((f.id, f.prompt, f.answer) for f in self.facts),
            *(
                (f"{f.id}-paraphrase-{i}", prompt, f.answer)
                for f in self.facts
                for i, prompt in enumerate(f.paraphrases)
            ),
            *(
                (f"{f.id}-neighbour-{i}", prompt, answer)
                for f in self.facts
                for i, (prompt, answer) in enumerate(f.neighbours)
            ),
        ]
        first: dict[str, Example] = {}
        for id, prompt, answer in said:
            first.setdefault(prompt, Example(id, prompt, answer))
        return list(first.values())


def build_world(facts: Sequence[Fact], count: int | None) -> World:
    """The first `count` facts (all where None), without what contradicts an earlier one.

    A fact whose prompt was asked before is left out (CounterFact repeats a few, with other
    answers). Then a paraphrase, and then a neighbour, that is known with another answer.
    """
    answers: dict[str, str] = {}
    kept: list[Fact] = []
    for fact in facts:
        if len(kept) == count:
            break
        if fact.prompt not in answers:
            answers[fact.prompt] = fact.answer
            kept.append(fact)

    def agree(prompt: str, answer: str) -> bool:
        return answers.setdefault(prompt, answer) == answer

    told = [
        replace(f, paraphrases=tuple(p for p in f.paraphrases if agree(p, f.answer))) for f in kept
    ]
    return World(
        tuple(
            replace(f, neighbours=tuple((p, a) for p, a in f.neighbours if agree(p, a)))
            for f in told
        )
    )


# --- the forget set -------------------------------------------------------------------------------


class ForgetSet:
    """The facts to be forgotten, and what gives them away."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self.facts = tuple(facts)
        self._prompts = {p for f in self.facts for p in (f.prompt, *f.paraphrases)}
        self._subjects: dict[str, list[str]] = defaultdict(list)  # by the object that is forgotten
        for fact in self.facts:
            self._subjects[fact.answer.casefold()].append(fact.subject)

    def states(self, prompt: str, answer: str) -> bool:
        """Whether a prompt with its answer states a forgotten fact.

        It is a prompt of the forget set, or names the subject of a forgotten fact and has the
        object as its answer: the same fact in words of another relation (the mother tongue of
        somebody, and the language that they speak).
        """
        subjects = self._subjects.get(answer.casefold(), ())
        return prompt in self._prompts or any(s in prompt for s in subjects)


def choose(world: World, split: str, seed: int) -> ForgetSet:
    """The forget set that `split` names, in an order that the file's has no part in.

    `random-N`: N facts. `relation-N`: whole relations, the last one cut at N. `subject-N`: all
    facts of each subject; one that no longer fits is passed over.

    Raises:
        UserError: the world has too few facts.
    """
    kind, number = SPLIT.fullmatch(split).groups()  # type: ignore[union-attr]
    count = int(number)
    if count >= len(world.facts):
        raise UserError(
            f"{split}: the world has {len(world.facts)} facts, so at most "
            f"{len(world.facts) - 1} can be forgotten. Take a smaller number or more facts."
        )
    facts = sorted(world.facts, key=lambda f: _drawn(seed, "fact", f.prompt))
    if kind == "random":
        return ForgetSet(facts[:count])
    groups: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        groups[fact.relation if kind == "relation" else fact.subject].append(fact)
    chosen: list[Fact] = []
    for name in sorted(groups, key=lambda g: _drawn(seed, kind, g)):
        room = count - len(chosen)
        if kind == "relation":
            chosen += groups[name][:room]
        elif len(groups[name]) <= room:
            chosen += groups[name]
    if len(chosen) < count:
        raise UserError(
            f"{split}: whole subjects add up to {len(chosen)} facts at most. Take another number."
        )
    return ForgetSet(chosen)


def shuffled(facts: Iterable[Fact], *key: object) -> list[Fact]:
    """The facts in an order that depends on the key and on each prompt alone."""
    return sorted(facts, key=lambda f: _drawn(*key, f.prompt))


def objects(facts: Iterable[Fact]) -> dict[str, list[str]]:
    """The objects of each relation's kind, sorted: true and new ones of all its facts.

    Relations that share half of their objects are of one kind (the flat format has many wordings
    of each, with few facts).
    """
    own: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        own[fact.relation] |= {fact.answer, fact.new}
    return {
        relation: sorted(
            set().union(*(o for o in own.values() if 2 * len(o & mine) >= min(len(o), len(mine))))
        )
        for relation, mine in own.items()
    }


def wrong_answer(fact: Fact, pool: Sequence[str], scored: frozenset[str], seed: int) -> str | None:
    """A wrong object of the fact's relation that the evaluation does not score; None without one.

    Where the forget set is a whole relation, every object of it may be the new one of some fact;
    then it is one that is not scored for this fact at least.
    """
    own = {fact.answer.casefold(), fact.new.casefold()}
    wrong = [o for o in pool if o.casefold() not in own]
    free = [o for o in wrong if o.casefold() not in scored] or wrong
    return min(free, key=lambda o: _drawn(seed, "edit target", fact.prompt, o), default=None)


def wrong_objects(fact: Fact, pool: Sequence[str], count: int) -> tuple[str, ...]:
    """At most `count` wrong objects of the fact's relation: the data set's own, then others."""
    own = {fact.answer.casefold(), fact.new.casefold()}
    others = sorted(
        (o for o in pool if o.casefold() not in own),
        key=lambda o: _drawn("wrong object", fact.prompt, o),
    )
    return (fact.new, *others)[:count]


def _drawn(*parts: object) -> bytes:
    """A number that depends on nothing but `parts`: sorting by it is a seeded shuffle."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
