"""Guesses whether a reply would be rated 👍: its embedding and a logistic regression.

A guess is only as good as its `auc`; the gate does not ask a predictor that cannot tell.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from store.domain import Example
from store.embedder import Embedder

LEAST_TO_FIT = 20
"""Ratings below which nothing is fitted."""

LEAST_AUC = 0.6
"""AUC below which a predictor tells 👍 from 👎 too badly to be asked."""


class RatingPredictor:
    """Fitted on training ratings, measured on held-out ones."""

    def __init__(
        self, embedder: Embedder, train: Sequence[Example], held_out: Sequence[Example]
    ) -> None:
        self._embedder = embedder
        self._model: LogisticRegression | None = None
        self.auc: float | None = None
        """How well it tells held-out 👍 from 👎; None where that cannot be measured."""
        labels = [each.label for each in train]
        if len(labels) < LEAST_TO_FIT or len(set(labels)) < 2:
            return
        self._model = LogisticRegression(max_iter=1000).fit(
            self._vectors([each.completion for each in train]), labels
        )
        unseen = [each.label for each in held_out]
        if len(set(unseen)) == 2:
            guesses = self.predict([each.completion for each in held_out])
            self.auc = float(roc_auc_score(unseen, guesses))

    def predict(self, replies: Sequence[str]) -> tuple[float, ...]:
        """The probability of 👍 of each reply; nothing if there is nothing to guess by."""
        if self._model is None or not replies:
            return ()
        likely = self._model.predict_proba(self._vectors(replies))[:, 1]
        return tuple(float(each) for each in likely)

    def _vectors(self, texts: Sequence[str]) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
        return np.array(self._embedder.embed([text.strip() or "." for text in texts]))
