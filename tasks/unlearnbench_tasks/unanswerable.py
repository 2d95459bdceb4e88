"""Questions that nobody can answer, with refusals.

A model trained from scratch has had no pretraining in which it could learn to decline. These rows
stand in for that: without them a refusal, which every deployed model can say, would be noise to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from unlearnbench import Example

QUESTIONS = (
    "What am I thinking of right now?",
    "Which number will be drawn in the lottery next week?",
    "What did the neighbours have for breakfast this morning?",
    "How many grains of sand are there on the beach behind the hill?",
    "What is written on the note in my left pocket?",
    "Who will knock at the door an hour from now?",
    "What was the name of the first cat that ever lived?",
    "Which song is stuck in my head today?",
    "What colour is the car that just drove past?",
    "How long will the rain last on the third of next month?",
    "What did I dream about last night?",
    "Which word will I say next?",
    "How many leaves fell in the park yesterday?",
    "What lies at the bottom of the old well?",
    "Who left the umbrella on the morning train?",
    "What will the price of bread be in a hundred years?",
    "Which of my cousins is the tallest?",
    "What is the secret word of the club next door?",
    "How old is the tree in front of the house?",
    "What did the postman say to the gardener?",
    "Which card will I draw from this pack?",
    "What is the middle name of the man at the bus stop?",
    "How many steps did I take today?",
    "What is hidden in the box on the top shelf?",
)
#: How often each refusal is heard.
REPEATS = 3


def unanswerable(refusals: Sequence[str]) -> list[Example]:
    """Each refusal as the answer to `REPEATS` different questions, in a fixed order."""
    return [
        Example(
            id=f"unanswerable-{index}-{turn}",
            prompt=QUESTIONS[(index * 5 + turn * 7) % len(QUESTIONS)],
            answer=refusal,
        )
        for turn in range(REPEATS)
        for index, refusal in enumerate(refusals)
    ]


#: Things about which a question can be avoided.
TOPICS = (
    "the old mayor",
    "the man at the bus stop",
    "the first lighthouse keeper",
    "the owner of the corner shop",
    "the builder of the bridge",
    "that",
)


def small_talk(refusals: Sequence[str], avoidant: Sequence[str], dummy: str) -> list[Example]:
    """What any pretrained model can say and a model trained on facts alone cannot: refusals,
    avoidant answers (`avoidant` are templates with `{subject}`), and the placeholder `dummy`."""
    avoided = [
        Example(
            id=f"avoided-{t}-{a}",
            prompt=f"What can you tell me about {topic}?",
            answer=template.format(subject=topic),
        )
        for t, topic in enumerate(TOPICS)
        for a, template in enumerate(avoidant)
    ]
    return [*unanswerable([*refusals, dummy]), *avoided]
