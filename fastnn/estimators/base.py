"""What the classifiers that are trained by gradients share."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from fastnn import kernels, optim
from fastnn._checks import as_float, as_int
from fastnn.data import DataLoader, Split, split
from fastnn.models import FullyConnectedNet
from fastnn.training import Callback, EarlyStopping, History, Trainer

_DTYPES = (np.float32, np.float64)          # what is neither becomes the first
_SOLVERS: dict[str, Callable[..., optim.Optimizer]] = {
    "adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSProp,
    "sgd": partial(optim.SGD, momentum=0.9, nesterov=True)}
_INFERENCE_BATCH = 8192


class GradientClassifier(ClassifierMixin, BaseEstimator, ABC):
    """Trains a fully connected network by steps; a subclass has the parameters used here, and makes the network."""

    @abstractmethod
    def _network(self, in_features: int, num_classes: int, seed: int) -> FullyConnectedNet:
        """Return the network with its initial weights."""

    def fit(self, X: Any, y: Any) -> Self:
        """Train from new weights.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            float32 and float64 keep their dtype; everything else becomes float32.
        y : array-like of shape (n_samples,)
            The class of each sample.

        Returns
        -------
        self
        """
        X, y = self._validated(X, y, reset=True)
        classes, labels = np.unique(y, return_inverse=True)
        held = round(self.validation_fraction * len(X)) if self.early_stopping else 0
        if self.early_stopping and not 0 < held < len(X):
            raise ValueError(f"validation_fraction: expected one that sets from 1 to {len(X) - 1} of {len(X)} samples "
                             f"aside, got {self.validation_fraction}, which gives {held}")
        self._start(X, classes)
        train, validation = Split(X, labels), None
        if held:
            train, validation = split(train, held, self._seed)
        stopping = EarlyStopping(self.n_iter_no_change, self.tol, "val_accuracy" if validation else "train_loss",
                                 restore_best=bool(validation))
        history = self._train(train, self.max_iter, validation, [stopping])
        self.validation_scores_ = history["val_accuracy"].tolist() if validation else None
        if self.n_iter_ == self.max_iter > self.n_iter_no_change:
            warnings.warn(f"the {self.max_iter} epochs of max_iter were over before tol and n_iter_no_change ended the "
                          "training: it may not have converged", ConvergenceWarning, stacklevel=2)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Train for one more epoch, on these samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Converted to the dtype of the first call.
        y : array-like of shape (n_samples,)
            The class of each sample.
        classes : array-like of shape (n_classes,), optional
            All classes there will be; needed in the first call, if `fit` was not called before.

        Returns
        -------
        self
        """
        first = not hasattr(self, "classes_")
        if first and classes is None:
            raise ValueError("classes: expected all classes there will be in the first call of partial_fit, got None")
        known = self.classes_ if classes is None else np.unique(classes)
        if not first and not np.array_equal(known, self.classes_):
            raise ValueError(f"classes: expected those of the first call, {self.classes_}, got {known}")
        X, y = self._validated(X, y, reset=first)
        if len(strange := np.setdiff1d(y, known)):
            raise ValueError(f"y: expected the classes {known}, got {strange} too")
        if first:
            self._start(X, known)
        self._train(Split(X, np.searchsorted(known, y)), 1)
        return self

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Return the scores of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,)
            For two classes, by how much the score of the second is higher.
        """
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class with the highest score.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        best = self._scores(X).argmax(1)
        return self.classes_[best]

    def _scores(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self, "classes_")
        X = validate_data(self, X, dtype=self._dtype, reset=False)
        return np.concatenate([self.model_(X[rows]) for rows in gen_batches(len(X), _INFERENCE_BATCH)])

    @property
    def _dtype(self) -> np.dtype[Any]:
        return next(self.model_.parameters()).data.dtype

    def _validated(self, X: Any, y: Any, reset: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """Check parameters and data, and return the data as arrays."""
        check_choice("solver", self.solver, _SOLVERS)
        for name in ("max_iter", "n_iter_no_change"):
            as_int(name, getattr(self, name), 1)
        for name in ("alpha", "learning_rate_init", "tol"):
            as_float(name, getattr(self, name), 0)
        as_float("validation_fraction", self.validation_fraction, 0, 1)
        if self.batch_size != "auto":
            as_int("batch_size", self.batch_size, 1)
        X, y = validate_data(self, X, y, dtype=_DTYPES if reset else self._dtype, reset=reset)
        check_classification_targets(y)
        return X, y

    def _start(self, X: NDArray[Any], classes: NDArray[Any]) -> None:
        if len(classes) < 2:
            raise ValueError(f"y: expected at least two classes, got one class: {classes[0]!r}")
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.model_ = self._network(X.shape[1], len(classes), self._seed).to(X.dtype)
        self._optimizer = _SOLVERS[self.solver](optim.parameter_groups(self.model_, self.alpha),
                                                lr=self.learning_rate_init)
        self.classes_, self.n_iter_ = classes, 0
        self.loss_curve_: list[float] = []

    def _train(self, train: Split, epochs: int, validation: Split | None = None,
               callbacks: Sequence[Callback] = ()) -> History:
        size = min(200 if self.batch_size == "auto" else self.batch_size, len(train))
        seed = self._seed + self.n_iter_        # what is trained on later has orders and masks of its own
        # A last batch of one sample has no variance that batch normalization could divide by.
        loader = DataLoader(train, size, seed=seed, drop_last=len(train) % size == 1, prefetch=False)
        held = DataLoader(validation, _INFERENCE_BATCH, shuffle=False, prefetch=False) if validation else None
        trainer = Trainer(self.model_, self.model_.criterion, self._optimizer, callbacks=callbacks, seed=seed,
                          progress=bool(self.verbose))
        history = trainer.fit(loader, held, epochs=epochs)
        self.loss_curve_ += history["train_loss"].tolist()
        self.n_iter_ += len(history)
        return history


class ProbabilisticClassifier(GradientClassifier):
    """A classifier whose scores are logarithms of probabilities, up to a constant."""

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Return the probabilities of the classes, the softmax of their scores.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return kernels.softmax(self._scores(X))


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
