"""A predictor of ratings: logistic regression over sentence embeddings of replies.

Its predictions are worth as much as its `auc` says; the gate ignores a predictor with a low one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from store.domain import Example
from store.embedder import Embedder

MIN_RATINGS_TO_FIT = 20
"""Ratings below which nothing is fitted."""

MIN_AUC = 0.6
"""AUC below which a predictor tells 👍 from 👎 too badly to be used."""


class RatingPredictor:
    """Predicts 👍; fitted on training ratings and measured on held-out ones."""

    def __init__(
        self, embedder: Embedder, train: Sequence[Example], held_out: Sequence[Example]
    ) -> None:
        self._embedder = embedder
        self._model: LogisticRegression | None = None
        self.auc: float | None = None
        """AUC on held-out ratings; None if it cannot be measured."""
        labels = [each.label for each in train]
        if len(labels) < MIN_RATINGS_TO_FIT or len(set(labels)) < 2:
            return
        self._model = LogisticRegression(max_iter=1000).fit(
            self._embed([each.completion for each in train]), labels
        )
        held_out_labels = [each.label for each in held_out]
        if len(set(held_out_labels)) == 2:
            predicted = self.predict([each.completion for each in held_out])
            self.auc = float(roc_auc_score(held_out_labels, predicted))

    def predict(self, replies: Sequence[str]) -> tuple[float, ...]:
        """Return the probability of 👍 of each reply; nothing if no model was fitted."""
        if self._model is None or not replies:
            return ()
        probabilities = self._model.predict_proba(self._embed(replies))[:, 1]
        return tuple(float(each) for each in probabilities)

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return one row a text; an empty text is embedded as a full stop."""
        return np.array(self._embedder.embed([text.strip() or "." for text in texts]))
