"""Linear classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn import models
from fastnn.estimators.base import GradientClassifier, ProbabilisticClassifier


class LinearClassifier(GradientClassifier):
    """What the linear ones share: their parameters, and weights as scikit-learn shows them."""

    def __init__(
        self,
        *,
        solver: str = "adam",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate_init: float = 0.003,
        max_iter: int = 1000,
        tol: float = 1e-3,
        n_iter_no_change: int = 5,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose

    @property
    def coef_(self) -> NDArray[Any]:
        return self._of_scores("weight")

    @property
    def intercept_(self) -> NDArray[Any]:
        return self._of_scores("bias")

    def _of_scores(self, name: str) -> NDArray[Any]:
        """Return the rows of a parameter that give what decision_function returns."""
        rows: NDArray[Any] = getattr(self.model_[-1], name).data
        return rows[1:] - rows[:1] if len(rows) == 2 else rows


class LinearSVM(LinearClassifier):
    """A linear classifier with the multiclass hinge loss, `fastnn.models.LinearSVM`.

    Parameters
    ----------
    solver : {"adam", "adamw", "rmsprop", "sgd"}
        The optimizer, of `fastnn.optim`; "sgd" has Nesterov's momentum of 0.9.
    alpha : float, default 1e-4
        L2 penalty: alpha / 2 times the sum of the squared weights is added to the mean loss; "adamw" instead multiplies
        the weights by 1 - alpha times the learning rate in each step. LogisticRegression's C is 1 / (alpha n_samples),
        and twice that for two classes.
    batch_size : int or "auto"
        Samples in a step; "auto" stands for 200. A last batch of one sample is left out.
    learning_rate_init : float, default 0.003
        The learning rate.
    max_iter : int, default 1000
        The largest number of epochs.
    tol : float, default 1e-3
        Training ends when the loss, or with `early_stopping` the validation accuracy, has not become better by more
        than this for `n_iter_no_change` epochs.
    n_iter_no_change : int, default 5
        See `tol`. With `max_iter` or more, there are always `max_iter` epochs.
    early_stopping : bool, default False
        Set samples aside for validation, and keep the weights of the epoch that is best on them.
    validation_fraction : float, default 0.1
        What share of the samples those are, stratified.
    random_state : int, RandomState or None
        What initial weights, validation samples and the order of samples are drawn from. An int gives the same each
        time.
    verbose : bool, default False
        Show a bar on stderr and print a line an epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features)
        Weights; for two classes, those of the second minus those of the first.
    intercept_ : ndarray of shape (n_classes,), or (1,)
        Biases, likewise.
    loss_curve_ : list of float
        The mean loss of the batches of each epoch, without the penalty.
    validation_scores_ : list of float, or None
        The validation accuracy after each epoch, with `early_stopping`.
    n_iter_ : int
        Epochs so far.
    model_ : fastnn.models.LinearSVM
        The network.
    n_features_in_ : int
        Features of a sample.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names and all of them are strings.

    Raises
    ------
    DivergedError
        In `fit` and `partial_fit`, if the loss or a gradient is not finite.

    Warns
    -----
    ConvergenceWarning
        In `fit`, if `max_iter` ends the training before `tol` does.

    Notes
    -----
    Features should have mean 0 and deviation 1, as a StandardScaler before it in a pipeline makes them.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from fastnn import data
    >>> from fastnn.estimators import LinearSVM
    >>> train, test = data.digits().train, data.digits().test
    >>> pipeline = make_pipeline(StandardScaler(), LinearSVM(random_state=0))
    >>> pipeline.fit(train.images.reshape(-1, 64), train.labels).score(test.images.reshape(-1, 64), test.labels) > 0.93
    True
    """

    def _network(self, in_features: int, num_classes: int, seed: int) -> models.LinearSVM:
        return models.LinearSVM(in_features, num_classes, seed=seed)


class SoftmaxClassifier(ProbabilisticClassifier, LinearClassifier):
    """A linear classifier with the cross-entropy of its softmax, `fastnn.models.SoftmaxClassifier`.

    Parameters
    ----------
    solver : {"adam", "adamw", "rmsprop", "sgd"}
        The optimizer, of `fastnn.optim`; "sgd" has Nesterov's momentum of 0.9.
    alpha : float, default 1e-4
        L2 penalty: alpha / 2 times the sum of the squared weights is added to the mean loss; "adamw" instead multiplies
        the weights by 1 - alpha times the learning rate in each step. LogisticRegression's C is 1 / (alpha n_samples),
        and twice that for two classes.
    batch_size : int or "auto"
        Samples in a step; "auto" stands for 200. A last batch of one sample is left out.
    learning_rate_init : float, default 0.003
        The learning rate.
    max_iter : int, default 1000
        The largest number of epochs.
    tol : float, default 1e-3
        Training ends when the loss, or with `early_stopping` the validation accuracy, has not become better by more
        than this for `n_iter_no_change` epochs.
    n_iter_no_change : int, default 5
        See `tol`. With `max_iter` or more, there are always `max_iter` epochs.
    early_stopping : bool, default False
        Set samples aside for validation, and keep the weights of the epoch that is best on them.
    validation_fraction : float, default 0.1
        What share of the samples those are, stratified.
    random_state : int, RandomState or None
        What initial weights, validation samples and the order of samples are drawn from. An int gives the same each
        time.
    verbose : bool, default False
        Show a bar on stderr and print a line an epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features)
        Weights; for two classes, those of the second minus those of the first.
    intercept_ : ndarray of shape (n_classes,), or (1,)
        Biases, likewise.
    loss_curve_ : list of float
        The mean loss of the batches of each epoch, without the penalty.
    validation_scores_ : list of float, or None
        The validation accuracy after each epoch, with `early_stopping`.
    n_iter_ : int
        Epochs so far.
    model_ : fastnn.models.SoftmaxClassifier
        The network.
    n_features_in_ : int
        Features of a sample.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names and all of them are strings.

    Raises
    ------
    DivergedError
        In `fit` and `partial_fit`, if the loss or a gradient is not finite.

    Warns
    -----
    ConvergenceWarning
        In `fit`, if `max_iter` ends the training before `tol` does.

    Notes
    -----
    Features should have mean 0 and deviation 1, as a StandardScaler before it in a pipeline makes them.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from fastnn import data
    >>> from fastnn.estimators import SoftmaxClassifier
    >>> train, test = data.digits().train, data.digits().test
    >>> pipeline = make_pipeline(StandardScaler(), SoftmaxClassifier(random_state=0))
    >>> pipeline.fit(train.images.reshape(-1, 64), train.labels).score(test.images.reshape(-1, 64), test.labels) > 0.93
    True
    """

    def _network(self, in_features: int, num_classes: int, seed: int) -> models.SoftmaxClassifier:
        return models.SoftmaxClassifier(in_features, num_classes, seed=seed)
