"""Which stored text is most like a given one: cosine similarity of sentence vectors.

TF-IDF by default: words, weighed by how rare they are in the training data, by scikit-learn. Or the
sentence embedding that IKE was published with (all-MiniLM-L6-v2), by sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer

from unlearnbench import UserError

EmbeddingName = Literal["tfidf", "sentence-transformers"]

#: Words are told apart by a hash of this many values, so that a word which the training data does
#: not have counts too (in a vocabulary it would vanish, and a strange prompt seem familiar).
BUCKETS = 2**18
#: The sentence embedding of IKE (Zheng et al. 2023, section 4.1).
SENTENCE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
#: Texts that are compared with all stored ones at once.
CHUNK = 256


class Embedding(Protocol):
    """Turns texts into rows of unit length; a text's row hangs on that text alone."""

    def rows(self, texts: Sequence[str]) -> Any:
        """Sparse or dense float [texts, dimensions]."""
        ...

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What `embedding` needs to make it again."""
        ...


class Tfidf:
    """Term counts times inverse document frequency, idf(w) = ln((1 + n) / (1 + df(w))) + 1.

    `frequencies` int64 [BUCKETS] are df over `count` texts.
    """

    def __init__(self, frequencies: NDArray[np.int64], count: int) -> None:
        if frequencies.shape != (BUCKETS,):
            raise ValueError(f"document frequencies are {frequencies.shape}, not ({BUCKETS},).")
        self._frequencies, self._count = frequencies, count
        self._idf = np.log((1 + count) / (1 + frequencies)) + 1

    @classmethod
    def of(cls, corpus: Sequence[str]) -> Tfidf:
        """With the document frequencies of `corpus`, each different text counted once."""
        texts = list(dict.fromkeys(corpus))
        return cls(np.bincount(_counts(texts).indices, minlength=BUCKETS), len(texts))

    def rows(self, texts: Sequence[str]) -> sparse.csr_array:
        counts = _counts(texts)
        weights = counts.data * self._idf[counts.indices]
        owner = np.repeat(np.arange(len(texts)), np.diff(counts.indptr))
        # A text without a word owns no weight: it has no direction, and is like nothing.
        lengths = np.sqrt(np.bincount(owner, weights**2, minlength=len(texts)))
        unit = weights / lengths[owner]
        return sparse.csr_array((unit, counts.indices, counts.indptr), shape=counts.shape)

    def tensors(self) -> Mapping[str, torch.Tensor]:
        present = np.flatnonzero(self._frequencies)
        return {
            "tfidf.words": torch.from_numpy(present),
            "tfidf.frequencies": torch.from_numpy(self._frequencies[present]),
            "tfidf.texts": torch.tensor([self._count]),
        }

    @classmethod
    def load(cls, tensors: Mapping[str, torch.Tensor]) -> Tfidf:
        frequencies = np.zeros(BUCKETS, np.int64)
        words, counts = tensors["tfidf.words"].cpu(), tensors["tfidf.frequencies"].cpu()
        frequencies[words.numpy()] = counts.numpy()
        return cls(frequencies, int(tensors["tfidf.texts"]))


def _counts(texts: Sequence[str]) -> sparse.csr_array:
    """How often each word is in each text: [texts, BUCKETS], case ignored."""
    if not texts:
        return sparse.csr_array((0, BUCKETS))  # scikit-learn counts at least one
    counting = HashingVectorizer(
        n_features=BUCKETS, alternate_sign=False, norm=None, token_pattern=r"(?u)\b\w+\b"
    )
    return sparse.csr_array(counting.transform(texts))


class SentenceEmbedding:
    """The published sentence embedding; needs the extra `embeddings`.

    Raises:
        UserError: the extra is not installed, or the embedding's weights cannot be loaded.
    """

    def __init__(self) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(
                'embedding "sentence-transformers" needs an extra that is not installed: '
                'pip install "unlearnbench[embeddings]", or use embedding "tfidf".'
            ) from error
        try:
            self._model = SentenceTransformer(SENTENCE_MODEL, device="cpu")
        except OSError as error:
            raise UserError(
                f"the sentence embedding {SENTENCE_MODEL} cannot be loaded ({error}): fetch it "
                'from the hub once, or use embedding "tfidf".'
            ) from error

    def rows(self, texts: Sequence[str]) -> NDArray[np.float32]:
        # One at a time: padding moves the last digits, and a row must hang on its text alone.
        options = {"batch_size": 1, "normalize_embeddings": True, "show_progress_bar": False}
        made = self._model.encode(list(texts) or [""], **options)  # none: just the width is asked
        return np.asarray(made, dtype=np.float32)[: len(texts)]

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {}


def new_embedding(name: EmbeddingName, corpus: Sequence[str]) -> Embedding:
    """The embedding of that name; `corpus` is what it may learn from."""
    return Tfidf.of(corpus) if name == "tfidf" else SentenceEmbedding()


def loaded_embedding(name: EmbeddingName, tensors: Mapping[str, torch.Tensor]) -> Embedding:
    """The embedding again, from its `tensors`."""
    return Tfidf.load(tensors) if name == "tfidf" else SentenceEmbedding()


class Index:
    """Stored texts, to be asked for the ones most like another text."""

    def __init__(self, embedding: Embedding, texts: Sequence[str]) -> None:
        self._embedding = embedding
        rows = embedding.rows(texts)
        self._dense = isinstance(rows, np.ndarray)
        # By dimension, so that a text's few words pick what is read: [dimensions, stored].
        self._stored = rows if self._dense else sparse.csr_array(rows.T)
        self._count = len(texts)

    def similarities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Cosine similarity to every stored text: [texts, stored]."""
        rows = self._embedding.rows(texts)
        if not self._dense:
            found: NDArray[np.float64] = (rows @ self._stored).toarray()
            return found
        # Row by row: a matrix product may add up in another order for another number of rows.
        made = [self._stored @ row for row in rows]
        return np.array(made, dtype=np.float64).reshape(len(texts), self._count)

    def nearest(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """For each text the stored one most like it (the first of equals) and the similarity.

        Raises:
            ValueError: nothing is stored.
        """
        places, similarities = [np.zeros(0, np.int64)], [np.zeros(0)]
        for first in range(0, len(texts), CHUNK):
            found = self.similarities(texts[first : first + CHUNK])
            places.append(found.argmax(axis=1))
            similarities.append(found.max(axis=1))
        return np.concatenate(places), np.concatenate(similarities)
