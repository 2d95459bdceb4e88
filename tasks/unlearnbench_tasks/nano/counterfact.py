"""nano-counterfact: a made-up world in CounterFact's original format.

A hundred invented people with four facts each, of eight relations. As in CounterFact, a case has a
false new object, paraphrases, and neighbours: other people of whom the same object is true. These
have no case of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from unlearnbench import ModelEntry, TaskConfig
from unlearnbench_tasks import counterfact_data
from unlearnbench_tasks.counterfact import Counterfact
from unlearnbench_tasks.nano.family import METHOD_DEFAULTS, PROBE_DEFAULTS

_HERE = Path(__file__).parent
_MODELS = _HERE / "models" / "counterfact"

SUITE = _HERE / "counterfact.yaml"

PEOPLE = 100
FACTS_PER_PERSON = 4
NEIGHBOURS_PER_OBJECT = 2

#: Beginnings and ends of names: 440 people, no two of whom share a first name or a surname.
FIRST_NAMES = (
    "Bel Carv Dreth Eno Farl Gav Hest Ilv Jor Kerr Lod Mav Nell Oster Per Rav Sim Tov Ulm Wen Yor "
    "Zab",
    "ace adin ami andra assa eck elia enda ick imo inde iva olo ora usk ubert yll orin etta ano",
)
SURNAMES = (
    "Ash Birk Cald Dray Elder Fair Gorse Hollow Ivel Kest Lang Merri North Oxen Prest Rowan Stan "
    "Tolle Under West Vale Yew",
    "beck bridge combe ditch fell ford grove hill ley mead ridge thorpe water worth stead ton wick "
    "by gate holm",
)


class Relation(NamedTuple):
    """A kind of fact: a wording of the prompt, two more, and the objects it can take."""

    prompt: str
    paraphrases: tuple[str, str]
    objects: str  # separated by commas


RELATIONS = {
    "language": Relation(
        "The mother tongue of {} is",
        ("At home {} has always spoken", "As a child {} grew up speaking"),
        "Tarvic, Olmish, Brennic, Selu, Karthan, Dovian, Hespic, Morrish, Quellan, Vastri, "
        "Anduic, Borlese, Cathian, Fennish, Gaskian, Ithese, Jorvic, Lurian, Pelasgic, Zamish",
    ),
    "profession": Relation(
        "The profession of {} is that of a",
        ("For a living {} works as a", "By trade {} is a"),
        "baker, cooper, weaver, sailor, mason, potter, tailor, farrier, printer, gardener, "
        "miller, glazier, chandler, plumber, roofer, saddler, thatcher, cobbler, tanner, joiner",
    ),
    "birthplace": Relation(
        "{} was born in the town of",
        ("The native town of {} is", "The cradle of {} once stood in"),
        "Ardmoor, Cressdale, Lowick, Pendrith, Stanmere, Varnholt, Wexcombe, Yarlby, Zellick, "
        "Islethwaite, Bramling, Dunnock, Eastlow, Forrowick, Galby, Haxton, Kirkdean, Marrowby, "
        "Oakrill, Thornquay",
    ),
    "instrument": Relation(
        "The instrument that {} plays is the",
        ("In the band {} plays the", "Every evening {} practises on the"),
        "fiddle, horn, lute, organ, drum, flute, viola, harp, oboe, bugle, cello, banjo, "
        "piano, tuba, zither, guitar, cornet, whistle, lyre, accordion",
    ),
    "employer": Relation(
        "{} is employed by the company",
        ("The firm that pays {} is", "Every month {} is paid by"),
        "Nordex, Pelling, Quarles, Timbrel, Ovanta, Sorrel, Hulme, Farrow, Cobalt, Larkin, "
        "Axiom, Bexley, Corvus, Dynast, Elgar, Granby, Jessop, Mistral, Umbra, Vickery",
    ),
    "sport": Relation(
        "The sport that {} is known for is",
        ("At the weekend {} trains for", "On the field {} excels at"),
        "rowing, fencing, archery, curling, cricket, diving, judo, polo, sailing, tennis, "
        "boxing, cycling, hockey, karate, running, skating, surfing, volleyball, wrestling, "
        "golf",
    ),
    "food": Relation(
        "The favourite food of {} is",
        ("On birthdays {} is served", "For dinner {} likes best to eat"),
        "soup, cheese, bread, plums, trout, rice, honey, beans, mutton, waffles, apples, "
        "cabbage, dumplings, figs, herring, lentils, noodles, pancakes, radishes, venison",
    ),
    "colour": Relation(
        "The front door of {} is painted",
        ("The colour that {} chose for the door is", "Visitors of {} knock at a door that is"),
        "green, red, yellow, purple, orange, silver, brown, white, black, turquoise, blue, "
        "pink, grey, gold, crimson, ivory, maroon, violet, scarlet, beige",
    ),
}


def build_cases(seed: int = 0) -> list[dict[str, Any]]:
    """The cases, one after the other as a JSON array of CounterFact has them.

    Every choice is the order of some options by a hash of the seed and what is chosen: a fact
    stays what it was when another person or relation is added.
    """
    people, strangers = _names(seed)
    cases: list[dict[str, Any]] = []
    by_object: dict[tuple[str, str], list[str]] = {}
    for stranger, about in _drawn_evenly(strangers):
        by_object.setdefault(about, []).append(stranger)
    for person in people:
        for relation in _shuffled(RELATIONS, seed, "relations", person)[:FACTS_PER_PERSON]:
            kind = RELATIONS[relation]
            true, new = _shuffled(kind.objects.split(", "), seed, relation, person)[:2]
            known = by_object[relation, true]
            cases.append(
                {
                    "case_id": len(cases),
                    "requested_rewrite": {
                        "prompt": kind.prompt,
                        "relation_id": relation,
                        "target_new": {"str": new},
                        "target_true": {"str": true},
                        "subject": person,
                    },
                    "paraphrase_prompts": [p.replace("{}", person) for p in kind.paraphrases],
                    "neighborhood_prompts": [kind.prompt.replace("{}", n) for n in known],
                }
            )
    return cases


def _names(seed: int) -> tuple[list[str], list[str]]:
    """The people of the world, and the strangers that only neighbourhoods know."""
    firsts, surnames = (
        _shuffled((start + end for start in starts.split() for end in ends.split()), seed, starts)
        for starts, ends in (FIRST_NAMES, SURNAMES)
    )
    names = [f"{first} {surname}" for first, surname in zip(firsts, surnames, strict=True)]
    return names[:PEOPLE], names[PEOPLE:]


def _drawn_evenly(strangers: Sequence[str]) -> list[tuple[str, tuple[str, str]]]:
    """Each stranger with a relation and an object of it: so many for every object."""
    wanted = [
        (relation, value)
        for relation, kind in RELATIONS.items()
        for value in kind.objects.split(", ")
        for _ in range(NEIGHBOURS_PER_OBJECT)
    ]
    return list(zip(strangers[: len(wanted)], wanted, strict=True))


def _shuffled(options: Iterable[str], *key: object) -> list[str]:
    """The options in an order that depends on the key and on each option alone."""

    def rank(option: str) -> bytes:
        return hashlib.sha256("\n".join(map(str, (*key, option))).encode()).digest()

    return sorted(options, key=rank)


class NanoCounterfactConfig(TaskConfig):
    split: counterfact_data.SplitName = Field(
        "random-40",
        description="the forget set: random-N, relation-N or subject-N, N facts",
    )
    facts: int | None = Field(None, ge=2, description="facts that the world has; default: all")
    choice_seed: int = Field(0, ge=0, description="seeds the choice of the forget set")
    max_new_tokens: int = Field(20, ge=1, description="tokens a generation may have")
    neighbours: int = Field(10, ge=1, description="neighbourhood prompts asked of each fact")
    others: int = Field(100, ge=1, description="other facts asked, at random")
    limit: int | None = Field(
        None, ge=1, description="items asked of each split, evenly spaced: a quick look"
    )


class NanoCounterfact(Counterfact):
    """Forget facts of a made-up world in CounterFact's shape; minutes on a laptop."""

    name: ClassVar[str] = "nano-counterfact"
    Config = NanoCounterfactConfig  # type: ignore[assignment]
    source = "this project"

    def _open(self) -> counterfact_data.Source:
        return counterfact_data.from_rows("unlearnbench nano counterfact", "seed 0", build_cases(0))


NANO_COUNTERFACT = ModelEntry(
    name="nano-counterfact",
    location=str(_MODELS / "full"),
    retain_models={"without-random-40": str(_MODELS / "without-random-40")},
    task="nano-counterfact",
    description="1 M parameters, trained on nano-counterfact's facts; oracle for random-40",
    method_defaults=METHOD_DEFAULTS,
    probe_defaults=PROBE_DEFAULTS,
)
