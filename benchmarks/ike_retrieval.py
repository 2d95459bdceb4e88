"""Claim: IKE finds a prompt's edit among 10,000 in less than 5 ms, alone or in a batch.

One sparse product by the prompt's few words, against the usual way: a TF-IDF matrix and
scikit-learn's nearest neighbours by cosine. Both find the same edits (asserted). CPU seconds of one
thread, medians of alternating runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise, product

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

from unlearnbench_methods.editing.retrieval import Index, Tfidf

QUESTIONS = (
    "Where was {name} born?",
    "What did the father of {name} do for a living?",
    "In which genre does {name} mostly write?",
    "What is the best known book of {name} about?",
    "Which award did {name} win?",
    "Which instrument does {name} like to play?",
    "Which animal does {name} keep at home?",
)
REPHRASED = "Could you tell me, please: {prompt}"
SYLLABLES = ("ka", "lo", "mi", "nu", "pe", "ra", "so", "ti", "ve", "za", "bor", "den", "fil")


def prompts(count: int) -> list[str]:
    """Different questions about made-up people."""
    names = ["".join(s).title() for s in product(SYLLABLES, repeat=3)]
    people = [f"{a} {b}" for a, b in pairwise(names)]
    return [q.format(name=p) for p in people for q in QUESTIONS][:count]


@click.command()
@click.option("--edits", default=10_000, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--singles", default=50, show_default=True, help="prompts that are asked alone")
@click.option("--runs", default=5, show_default=True)
def main(edits: int, batch: int, singles: int, runs: int) -> None:
    stored = prompts(edits)
    asked = [REPHRASED.format(prompt=p) for p in stored[:: max(1, edits // batch)][:batch]]
    index = Index(Tfidf.of(stored), stored)
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
    neighbours = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute")
    neighbours.fit(vectorizer.fit_transform(stored))

    def ours(texts: list[str]) -> NDArray[np.int64]:
        return index.nearest(texts)[0]

    def usual(texts: list[str]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = neighbours.kneighbors(
            vectorizer.transform(texts), return_distance=False
        )[:, 0]
        return found

    assert len(set(stored)) == edits
    assert (ours(asked) == usual(asked)).all()
    assert [stored[i] in text for i, text in zip(ours(asked), asked, strict=True)] == [True] * batch
    click.echo(f"{edits} edits, CPU milliseconds a prompt:")
    alone = asked[:singles]
    compare("one at a time", [[a] for a in alone], ours, usual, runs)
    compare(f"{batch} together", [asked], ours, usual, runs)


def compare(
    name: str,
    batches: list[list[str]],
    ours: Callable[[list[str]], object],
    usual: Callable[[list[str]], object],
    runs: int,
) -> None:
    count = sum(map(len, batches))
    fast, slow = [], []
    for _ in range(runs):
        for work, seconds in ((ours, fast), (usual, slow)):
            start = time.process_time()
            for texts in batches:
                work(texts)
            seconds.append((time.process_time() - start) / count)
    a, b = statistics.median(fast) * 1e3, statistics.median(slow) * 1e3
    click.echo(f"{name}: nearest neighbours {b:.2f} ms, by words {a:.2f} ms: {b / a:.1f}x faster")
    assert a < 5, a


if __name__ == "__main__":
    main()
