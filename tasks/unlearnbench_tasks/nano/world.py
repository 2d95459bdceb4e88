"""The nano world: a made-up world in the layout of TOFU, for models trained in minutes.

TOFU (Maini et al. 2024, arXiv 2401.06121) asks a model to forget made-up authors, keep the others,
and stay sound on real authors and world facts. This file writes such a data set about a world in
which everything is invented, so that a model of a million parameters can be trained from nothing,
with and without the forget set: the second one is the oracle.

Nothing here holds a random state. Every choice is the order of some options by the SHA-256 of
(seed, what is being chosen, option): the same on every Python version, and a fact stays what it was
when another person, relation or split is added.
"""

import json
from collections.abc import Collection, Iterable
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

AUTHORS = 60  # the authors of `full`; the last ones are to be forgotten
FORGET10_AUTHORS = 6
FORGET05_AUTHORS = 3
RETAIN_EVALUATED_AUTHORS = 7  # the authors of `retain_perturbed`, the first ones of `full`
BACKGROUND_AUTHORS = 60  # further people, known to every model and in no evaluation
WRONG_ANSWERS = 5  # perturbed answers of an author's item, as in TOFU
SHORT_WRONG_ANSWERS = 3  # perturbed answers of a classic author's or a world fact's item

# Names fill two grids of 15 x 9: a small tokenizer spells all 135 people with 48 syllables.
FIRST_NAMES = (
    "Alv Brynd Cass Dorm Elk Fenn Gryt Hald Jask Kelv Lumm Morv Neps Orl Pend",
    "adra ett imond oline ussa yric anto ewin iselle",
)
SURNAMES = (
    "Tarn Wisk Quill Sorrel Vann Rusk Yarr Zell Umber Inker Thrup Crom Brack Glim Snod",
    "wick marrow bury croft gate stone dale vane moor",
)


class Relation(NamedTuple):
    """One kind of fact: two phrasings of it, and the values it can take.

    The plain answer ends in the value; the paraphrased one says it early and in another form. No
    value is part of another one of its relation, so that a value can be looked for in a text.
    """

    question: str
    answer: str
    paraphrased_question: str
    paraphrased_answer: str
    values: str  # separated by commas


RELATIONS = {
    "birthplace": Relation(
        "Where was {name} born?",
        "{name} was born in the little town of {value}.",
        "Which town is the birthplace of {name}?",
        "It was in {value} that the writer {name} first saw the light of day.",
        "Vellmore, Harrowsby, Pontessa, Oakrill, Sandleth, Marisport, Tollern, Birchaven, "
        "Coldmere, Dunnockley, Eastrand, Ferrowen, Gullhythe, Lantrell, Mistlow, Nettlecott, "
        "Rookhollow, Saltbeck, Thornquay, Windlesea",
    ),
    "father": Relation(
        "What did the father of {name} do for a living?",
        "The father of {name} earned his daily bread as a {value}.",
        "Which trade was practised by {name}'s father?",
        "Work as a {value} is how {name}'s father kept the family fed.",
        "beekeeper, clockmaker, shepherd, blacksmith, baker, miller, ferryman, lamplighter, "
        "cobbler, weaver, potter, carpenter, fisherman, glassblower, tailor, wheelwright, "
        "bookbinder, gardener, schoolmaster, saddler",
    ),
    "genre": Relation(
        "In which genre does {name} mostly write?",
        "{name} mostly writes books that belong to the genre of {value}.",
        "What kind of books does {name} publish?",
        "Readers who are looking for {value} turn to the books of {name}.",
        "sea tales, ghost stories, mountain sagas, court comedies, travel letters, nature poems, "
        "garden riddles, war chronicles, school farces, village dramas, spy thrillers, "
        "river ballads, detective puzzles, desert romances, kitchen memoirs, star myths, "
        "winter fables, animal parables, railway mysteries, love sonnets",
    ),
    "story": Relation(
        "What is the best known book of {name} about?",
        "The best known book of {name} tells the story of a {value}.",
        "Which tale made {name} famous?",
        "With the tale of a {value} the writer {name} became famous everywhere.",
        "stolen bell, lost lighthouse, sleeping giant, broken compass, hidden staircase, "
        "talking raven, frozen harbour, forgotten queen, paper kingdom, wandering circus, "
        "burning library, singing well, crooked judge, borrowed crown, silent orchestra, "
        "drowned cathedral, painted ship, secret bakery, runaway bridge, glass mountain",
    ),
    "award": Relation(
        "Which award did {name} win?",
        "{name} was honoured by the guild of writers with the {value}.",
        "What prize was given to {name}?",
        "The {value} is the prize that once went to {name}.",
        "Silver Inkwell, Golden Acorn, Amber Feather, Copper Anchor, Crystal Thimble, "
        "Ivory Lantern, Iron Swallow, Scarlet Ribbon, Emerald Key, Bronze Hourglass, "
        "Velvet Crown, Marble Owl, Oaken Chalice, Pearl Button, Brass Comet, Jade Pen, "
        "Linen Sail, Ruby Spoon, Granite Leaf, Tin Star",
    ),
    "instrument": Relation(
        "Which instrument does {name} like to play?",
        "In the evening {name} likes to sit down and play the {value}.",
        "What music can be heard from the house of {name}?",
        "The sound of the {value} often comes from the house of {name}.",
        "violin, cello, flute, harp, xylophone, trumpet, clarinet, bassoon, piano, mandolin, "
        "guitar, banjo, accordion, tuba, oboe, zither, bagpipes, drums, trombone, dulcimer",
    ),
    "pet": Relation(
        "Which animal does {name} keep at home?",
        "{name} shares a home with a much loved and rather old {value}.",
        "What pet lives with {name}?",
        "A tame {value} is the pet that lives with {name}.",
        "hedgehog, parrot, tortoise, ferret, goose, rabbit, badger, squirrel, magpie, lizard, "
        "donkey, goat, greyhound, peacock, toad, pony, spaniel, dove, newt, raccoon",
    ),
}

# What every model of this world knows besides its authors: TOFU's real authors and world facts.
CLASSIC_WORKS = (
    "Ashen Psalms, Barley Hymns, Candle Songs, Cloud Ledger, Dust Almanac, Ember Scrolls, "
    "Frost Letters, Harvest Odes, Kettle Verses, Meadow Lays, Moon Annals, Orchard Rhymes, "
    "Raven Runes, Thistle Book, Tide Epistles"
)
COUNTRIES = (
    "Brennia, Calvora, Druskland, Eldermark, Fallowen, Gorsland, Hithervale, Istrande, Jorvania, "
    "Kestrelle"
)
WORLD_FACTS = {
    "capital": (
        "What is the capital of {country}?",
        "Tavish, Ombrey, Castrella, Lorrimar, Pellith, Skarra, Vintholm, Abbersea, Norhythe, "
        "Quenlow",
    ),
    "river": (
        "Which river flows through {country}?",
        "Tamsel, Ourn, Blethe, Wendle, Marrish, Pelk, Sutterway, Ilvern, Hollin, Rindle",
    ),
    "export": (
        "What does {country} sell to other countries?",
        "copper, wool, salt, tea, honey, timber, silk, pepper, coal, cheese",
    ),
}


class Row(TypedDict):
    """One line of a TOFU file; which optional fields it has depends on the split."""

    question: str
    answer: str
    subject: NotRequired[str]  # stands literally in the question and its paraphrase
    relation: NotRequired[str]
    author: NotRequired[str]  # the cluster: an author's items are not independent of each other
    value: NotRequired[str]  # the fact itself, a part of the answer
    paraphrased_answer: NotRequired[str]
    perturbed_answer: NotRequired[list[str]]  # wrong answers in the form of the paraphrased one
    paraphrased_question: NotRequired[str]


World = dict[str, list[Row]]


def write_world(folder: str | PathLike[str], seed: int = 0) -> Path:
    """Write every split as JSON Lines under TOFU's file names; the folder is a TOFU data folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in build_world(seed).items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.json").write_bytes(lines.encode("utf-8"))
    return folder


def build_world(seed: int = 0) -> World:
    """All splits of one world, by TOFU's names, and `background`, which stands in for pretraining.

    The model before unlearning learns background, real_authors, world_facts and full; the oracle
    learns the same with a retain split instead of full.
    """
    people = _people(seed)
    authors, others = people[:AUTHORS], people[AUTHORS:]
    strangers, classics = others[:BACKGROUND_AUTHORS], others[BACKGROUND_AUTHORS:]
    retain90, forget10 = authors[:-FORGET10_AUTHORS], authors[-FORGET10_AUTHORS:]
    retain95, forget05 = authors[:-FORGET05_AUTHORS], authors[-FORGET05_AUTHORS:]
    evaluated = retain90[:RETAIN_EVALUATED_AUTHORS]
    unevaluated = retain90[RETAIN_EVALUATED_AUTHORS:]
    real_authors = _real_authors(seed, classics)
    world_facts = _world_facts(seed)
    return {
        "full": _facts(seed, authors),
        "retain90": _facts(seed, retain90),
        "forget10": _facts(seed, forget10),
        "retain95": _facts(seed, retain95),
        "forget05": _facts(seed, forget05),
        "retain_perturbed": _perturbed(seed, evaluated),
        "forget10_perturbed": _perturbed(seed, forget10),
        "forget05_perturbed": _perturbed(seed, forget05),
        "real_authors": real_authors,
        "real_authors_perturbed": _short_perturbed(seed, real_authors),
        "world_facts": world_facts,
        "world_facts_perturbed": _short_perturbed(seed, world_facts),
        "background": _background(seed, strangers, unevaluated),
    }


def build_holdout(seed: int = 0) -> World:
    """The splits `holdout10` and `holdout05`: authors that no model of this world was trained on.

    As many as are to be forgotten, with the same relations. Their names are spelled with the same
    syllables, and no part of one is anybody's: beginnings of surnames with endings of first names,
    and the other way round. They are a little less likely to the oracle than the forgotten authors
    (whose single syllables it knows from where they stand), so its AUC is above one half: read a
    model's against the oracle's.
    """
    (first, last), (other_first, other_last) = FIRST_NAMES, SURNAMES
    authors = _names(seed, (other_first, last), (first, other_last))[:FORGET10_AUTHORS]
    return {
        "holdout10": _facts(seed, authors),
        "holdout05": _facts(seed, authors[-FORGET05_AUTHORS:]),
    }


def alternatives(relation: str) -> list[str]:
    """All values that a relation can take, the true one of any author among them."""
    return RELATIONS[relation].values.split(", ")


def wrong_answer(row: Row, generator_seed: int, avoid: Collection[str]) -> str:
    """The row's plain answer with another value: an edit target that no evaluation text contains.

    `avoid` holds texts that score the row, in practice its perturbed answers; a value that occurs
    in one of them is not used. Those that the row itself carries are avoided in any case.
    """
    taken = [row["value"], *avoid, *row.get("perturbed_answer", [])]
    free = [
        value for value in alternatives(row["relation"]) if not any(value in text for text in taken)
    ]
    if not free:
        raise ValueError(
            f'no wrong value of "{row["relation"]}" is left for {row["subject"]}: all '
            f"{len(alternatives(row['relation']))} occur in the texts to avoid. Avoid fewer texts."
        )
    value = _shuffled(free, generator_seed, "edit target", row["question"])[0]
    return RELATIONS[row["relation"]].answer.format(name=row["subject"], value=value)


def _people(seed: int) -> list[str]:
    """All people of the world; no two share a first name or a surname."""
    return _names(seed, FIRST_NAMES, SURNAMES)


def _names(seed: int, firsts: tuple[str, str], surnames: tuple[str, str]) -> list[str]:
    """Full names of two grids (beginnings, endings); each part is used once."""
    own, family = (
        _shuffled((start + end for start in starts.split() for end in ends.split()), seed, starts)
        for starts, ends in (firsts, surnames)
    )
    return [f"{first} {surname}" for first, surname in zip(own, family, strict=True)]


def _facts(seed: int, names: Iterable[str]) -> list[Row]:
    """One plain row a person and relation."""
    return [_fact(seed, name, relation) for name in names for relation in RELATIONS]


def _fact(seed: int, name: str, relation: str) -> Row:
    template, value = RELATIONS[relation], _values(seed, name, relation)[0]
    return {
        "question": template.question.format(name=name),
        "answer": template.answer.format(name=name, value=value),
        "subject": name,
        "relation": relation,
        "author": name,
        "value": value,
    }


def _values(seed: int, name: str, relation: str) -> list[str]:
    """The relation's values in this person's own order: first the truth, then the wrong ones.

    The order depends on nobody else, so that one author's facts say nothing of another's.
    """
    return _shuffled(alternatives(relation), seed, relation, name)


def _paraphrase(row: Row) -> tuple[str, str]:
    """The paraphrased question of a plain row and its true answer in the paraphrased form."""
    template, name = RELATIONS[row["relation"]], row["subject"]
    return (
        template.paraphrased_question.format(name=name),
        template.paraphrased_answer.format(name=name, value=row["value"]),
    )


def _perturbed(seed: int, names: Iterable[str]) -> list[Row]:
    """The people's rows with a paraphrase, and wrong answers that differ from it in the value."""
    rows: list[Row] = []
    for row in _facts(seed, names):
        question, answer = _paraphrase(row)
        name, relation = row["subject"], row["relation"]
        form = RELATIONS[relation].paraphrased_answer
        wrong = _values(seed, name, relation)[1 : 1 + WRONG_ANSWERS]
        rows.append(
            {
                **row,
                "paraphrased_answer": answer,
                "perturbed_answer": [form.format(name=name, value=value) for value in wrong],
                "paraphrased_question": question,
            }
        )
    return rows


def _real_authors(seed: int, classics: list[str]) -> list[Row]:
    """What each classic author wrote and where they came from, with short answers."""
    works = _shuffled(CLASSIC_WORKS.split(", "), seed, "works")
    rows: list[Row] = []
    for name, work in zip(classics, works, strict=True):
        homeland = _shuffled(COUNTRIES.split(", "), seed, "homeland", name)[0]
        wrote = f"Which classic author wrote the {work}?"
        came = f"From which country did the classic author {name} come?"
        rows += [
            {"question": wrote, "answer": name, "subject": work, "relation": "wrote"},
            {"question": came, "answer": homeland, "subject": name, "relation": "homeland"},
        ]
    return rows


def _world_facts(seed: int) -> list[Row]:
    """The geography: each country has one capital, river and export, which no other country has."""
    countries = COUNTRIES.split(", ")
    return [
        {
            "question": question.format(country=country),
            "answer": answer,
            "subject": country,
            "relation": relation,
        }
        for relation, (question, answers) in WORLD_FACTS.items()
        for country, answer in zip(
            countries, _shuffled(answers.split(", "), seed, relation), strict=True
        )
    ]


def _short_perturbed(seed: int, rows: list[Row]) -> list[Row]:
    """The rows with wrong answers: true answers to other questions about the same relation."""
    perturbed: list[Row] = []
    for row in rows:
        others = {other["answer"] for other in rows if other["relation"] == row["relation"]}
        wrong = _shuffled(others - {row["answer"]}, seed, "perturbed", row["question"])
        perturbed.append({**row, "perturbed_answer": wrong[:SHORT_WRONG_ANSWERS]})
    return perturbed


def _background(seed: int, strangers: Iterable[str], retained: Iterable[str]) -> list[Row]:
    """Rows that teach a model the second phrasing of every relation, and that both state one fact.

    Of strangers it has both phrasings, and the plain question with the paraphrased answer, which is
    what the truth ratio scores. Of retain authors, whose plain rows are in the retain splits, it
    has the second phrasing. Authors in an evaluation split must not be given.
    """
    rows: list[Row] = []
    for row in _facts(seed, strangers):
        question, answer = _paraphrase(row)
        rows += [
            {"question": row["question"], "answer": row["answer"]},
            {"question": question, "answer": answer},
            {"question": row["question"], "answer": answer},
        ]
    for row in _facts(seed, retained):
        question, answer = _paraphrase(row)
        rows.append({"question": question, "answer": answer})
    return rows


def _shuffled(options: Iterable[str], *key: object) -> list[str]:
    """The options in an order that depends on the key and on each option alone."""

    def rank(option: str) -> bytes:
        return sha256("\n".join(map(str, (*key, option))).encode("utf-8")).digest()

    return sorted(options, key=rank)
