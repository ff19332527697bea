"""Networks of fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastnn import models
from fastnn._checks import as_float, as_int
from fastnn.estimators.base import ProbabilisticClassifier, check_choice
from fastnn.models.fully_connected_net import ACTIVATIONS

_NAMES = {"logistic": "sigmoid"}            # what scikit-learn calls them


class MLPClassifier(ProbabilisticClassifier):
    """A fully connected network with the cross-entropy of its softmax, `fastnn.models.FullyConnectedNet`.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
        Units of each hidden layer.
    activation : {"relu", "leaky_relu", "gelu", "tanh", "sigmoid", "logistic"}
        What follows each hidden layer; "sigmoid" and "logistic" are the same.
    batch_norm : bool, default False
        Normalize batches before each activation.
    dropout : float, default 0
        The share of each hidden layer's outputs that are dropped in training.
    solver : {"adam", "adamw", "rmsprop", "sgd"}
        The optimizer, of `fastnn.optim`; "sgd" has Nesterov's momentum of 0.9.
    alpha : float, default 1e-4
        L2 penalty: alpha / 2 times the sum of the squared weights is added to the mean loss; "adamw" instead multiplies
        the weights by 1 - alpha times the learning rate in each step.
    batch_size : int or "auto"
        Samples in a step; "auto" stands for 200. A last batch of one sample is left out.
    learning_rate_init : float, default 0.001
        The learning rate.
    max_iter : int, default 200
        The largest number of epochs.
    tol : float, default 1e-3
        Training ends when the loss, or with `early_stopping` the validation accuracy, has not become better by more
        than this for `n_iter_no_change` epochs.
    n_iter_no_change : int, default 10
        See `tol`. With `max_iter` or more, there are always `max_iter` epochs.
    early_stopping : bool, default False
        Set samples aside for validation, and keep the weights of the epoch that is best on them.
    validation_fraction : float, default 0.1
        What share of the samples those are, stratified.
    random_state : int, RandomState or None
        What initial weights, validation samples, the order of samples and the masks of dropout are drawn from. An int
        gives the same each time.
    verbose : bool, default False
        Show a bar on stderr and print a line an epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    loss_curve_ : list of float
        The mean loss of the batches of each epoch, without the penalty.
    validation_scores_ : list of float, or None
        The validation accuracy after each epoch, with `early_stopping`.
    n_iter_ : int
        Epochs so far.
    model_ : fastnn.models.FullyConnectedNet
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
    >>> from fastnn.estimators import MLPClassifier
    >>> train, test = data.digits().train, data.digits().test
    >>> pipeline = make_pipeline(StandardScaler(), MLPClassifier(32, learning_rate_init=0.01, random_state=0))
    >>> pipeline.fit(train.images.reshape(-1, 64), train.labels).score(test.images.reshape(-1, 64), test.labels) > 0.95
    True
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        batch_norm: bool = False,
        dropout: float = 0.0,
        solver: str = "adam",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate_init: float = 0.001,
        max_iter: int = 200,
        tol: float = 1e-3,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.batch_norm = batch_norm
        self.dropout = dropout
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

    def _network(self, in_features: int, num_classes: int, seed: int) -> models.FullyConnectedNet:
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        check_choice("activation", self.activation, [*ACTIVATIONS, *_NAMES])
        return models.FullyConnectedNet(
            in_features, [as_int("hidden_layer_sizes", size, 1) for size in sizes], num_classes,
            activation=_NAMES.get(self.activation, self.activation), batch_norm=self.batch_norm,
            dropout=as_float("dropout", self.dropout, 0, 1), seed=seed)
