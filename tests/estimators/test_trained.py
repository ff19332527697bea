"""The classifiers that are trained by gradients: their options, what they report, and training bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn

sklearn = pytest.importorskip("sklearn")

from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from fastnn.estimators import LinearSVM, MLPClassifier, SoftmaxClassifier  # noqa: E402
from fastnn.training import DivergedError  # noqa: E402

TRAINED = [LinearSVM, SoftmaxClassifier, MLPClassifier]
BRIEF = {"max_iter": 2, "n_iter_no_change": 2, "random_state": 0}


def blobs(n: int = 300, classes: int = 3, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Points around the corners of a simplex, which overlap a little."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    return (2 * np.eye(classes)[y] + 0.7 * rng.standard_normal((n, classes))).astype(dtype), y


@pytest.mark.parametrize("classes", [2, 4])
def test_softmax_finds_the_minimum_of_logistic_regression(classes: int) -> None:
    X, y = blobs(400, classes)
    ours = SoftmaxClassifier(alpha=0.1, learning_rate_init=0.01, batch_size=400, tol=1e-9, random_state=0).fit(X, y)
    C = (2 if classes == 2 else 1) / (0.1 * len(X))
    theirs = LogisticRegression(C=C, tol=1e-8).fit(X, y)
    assert ours.coef_.shape == theirs.coef_.shape
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-3)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-3)


@pytest.mark.parametrize("Estimator", [LinearSVM, SoftmaxClassifier])
@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_those_of_the_weights(Estimator: Any, classes: int) -> None:
    X, y = blobs(classes=classes)
    classifier = Estimator(**BRIEF).fit(X, y)
    scores = X @ classifier.coef_.T + classifier.intercept_
    np.testing.assert_allclose(classifier.decision_function(X), scores[:, 0] if classes == 2 else scores, atol=1e-12)
    best = scores[:, 0] > 0 if classes == 2 else scores.argmax(1)
    assert np.array_equal(classifier.predict(X), best)
    assert hasattr(classifier, "predict_proba") == (Estimator is SoftmaxClassifier)


@pytest.mark.parametrize("Estimator", TRAINED)
@pytest.mark.parametrize(("given", "computed"), [
    (np.float32, np.float32), (np.float64, np.float64), (np.int64, np.float32), (np.uint8, np.float32)])
def test_floats_are_computed_in_as_they_are(Estimator: Any, given: Any, computed: Any) -> None:
    X, y = blobs()
    X = (10 * X + 50).astype(given)
    classifier = Estimator(**BRIEF).fit(X, y)
    assert classifier.decision_function(X).dtype == computed
    assert classifier.decision_function(X.astype(np.float64)).dtype == computed


@pytest.mark.parametrize("Estimator", TRAINED)
@pytest.mark.parametrize("options", [
    {"solver": "adam"}, {"solver": "adamw"}, {"solver": "rmsprop"}, {"solver": "sgd"}, {"batch_size": 32},
    {"early_stopping": True}])
def test_every_way_of_training_learns(Estimator: Any, options: dict[str, Any]) -> None:
    X, y = blobs()
    classifier = Estimator(**{"learning_rate_init": 0.01, "random_state": 0, **options}).fit(X, y)
    assert classifier.score(X, y) > 0.9
    assert classifier.loss_curve_[-1] < classifier.loss_curve_[0]
    assert len(classifier.loss_curve_) == classifier.n_iter_ < classifier.max_iter


@pytest.mark.parametrize("options", [
    {"hidden_layer_sizes": 7}, {"hidden_layer_sizes": np.array([8, 4])}, {"activation": "logistic"},
    {"activation": "tanh"}, {"activation": "gelu"}, {"batch_norm": True}, {"dropout": 0.2}])
def test_every_network_learns(options: dict[str, Any]) -> None:
    X, y = blobs(301)                           # batches of 100, and one sample
    classifier = MLPClassifier(learning_rate_init=0.01, batch_size=100, random_state=0, **options).fit(X, y)
    assert classifier.score(X, y) > 0.9
    np.testing.assert_allclose(classifier.predict_proba(X).sum(1), 1)


def test_names_of_activations_are_scikit_learns_and_ours() -> None:
    X, y = blobs()
    first, second = (MLPClassifier(activation=name, **BRIEF).fit(X, y) for name in ("logistic", "sigmoid"))
    assert np.array_equal(first.predict_proba(X), second.predict_proba(X))


def test_alpha_makes_weights_small() -> None:
    X, y = blobs()
    norms = [np.linalg.norm(LinearSVM(alpha=alpha, random_state=0).fit(X, y).coef_) for alpha in (1e-4, 0.1, 10.0)]
    assert norms[0] > 1.1 * norms[1] > 5 * norms[2]


def test_early_stopping_keeps_the_best_epoch() -> None:
    train = fastnn.data.digits().train
    X, y = train.images.reshape(-1, 64) / 16, train.labels
    classifier = MLPClassifier(early_stopping=True, validation_fraction=0.2, learning_rate_init=0.02,
                               n_iter_no_change=4, random_state=3).fit(X, y)
    scores = classifier.validation_scores_
    assert len(scores) == classifier.n_iter_ == 4 + 1 + int(np.argmax(scores > np.max(scores) - classifier.tol))
    held = fastnn.data.split(fastnn.data.Split(X, y), round(0.2 * len(X)), classifier._seed)[1]
    assert classifier.score(held.images, held.labels) == scores[-5]
    assert LinearSVM(**BRIEF).fit(X, y).validation_scores_ is None


def test_an_end_by_max_iter_warns_unless_it_was_asked_for() -> None:
    X, y = blobs()
    with pytest.warns(ConvergenceWarning, match="the 3 epochs of max_iter were over before tol"):
        assert SoftmaxClassifier(max_iter=3, n_iter_no_change=2, tol=0, random_state=0).fit(X, y).n_iter_ == 3
    assert SoftmaxClassifier(max_iter=3, n_iter_no_change=3, random_state=0).fit(X, y).n_iter_ == 3


@pytest.mark.parametrize("Estimator", TRAINED)
def test_partial_fit_learns_from_one_part_after_another(Estimator: Any) -> None:
    X, y = blobs(600)
    names = np.array(["a", "b", "c"])[y]
    classifier = Estimator(learning_rate_init=0.01, random_state=0)
    for epoch in range(30):
        for part in np.array_split(np.arange(600), 3):
            classifier.partial_fit(X[part].astype(np.float32 if epoch else np.float64), names[part], ["a", "b", "c"])
    assert classifier.score(X, names) > 0.9
    assert classifier.n_iter_ == len(classifier.loss_curve_) == 90
    assert classifier.partial_fit(X, names).n_iter_ == 91
    assert classifier.fit(X, names).n_iter_ != 92                   # a fit begins anew


def test_partial_fit_draws_new_masks_and_orders_each_time() -> None:
    X, y = blobs()
    classifier = MLPClassifier(learning_rate_init=0, dropout=0.5, random_state=0)
    losses = [classifier.partial_fit(X, y, [0, 1, 2]).loss_curve_[-1] for _ in range(3)]
    assert len(set(losses)) == 3


def test_wrong_classes_in_partial_fit() -> None:
    X, y = blobs()
    with pytest.raises(ValueError, match="classes: expected all classes there will be in the first call"):
        LinearSVM().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y: expected the classes \[0 1\], got \[2\] too"):
        LinearSVM().partial_fit(X, y, [0, 1])
    classifier = LinearSVM().partial_fit(X, y, [0, 1, 2])
    with pytest.raises(ValueError, match=r"classes: expected those of the first call, \[0 1 2\], got \[0 1\]"):
        classifier.partial_fit(X, y, [0, 1])
    with pytest.raises(ValueError, match=r"y: expected the classes \[0 1 2\], got \[3 4 5\] too"):
        classifier.partial_fit(X, y + 3)


def test_verbose_prints_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = blobs()
    LinearSVM(**BRIEF).fit(X, y)
    assert capsys.readouterr().out == ""
    LinearSVM(verbose=True, **BRIEF).fit(X, y)
    assert "epoch 2/2" in capsys.readouterr().out


def test_many_samples_are_scored_as_parts_of_them_are() -> None:
    X, y = blobs(20_000, dtype=np.float32)
    classifier = MLPClassifier(**BRIEF).fit(X[:300], y[:300])
    parts = [classifier.predict_proba(X[i : i + 1000]) for i in range(0, len(X), 1000)]
    assert np.array_equal(classifier.predict_proba(X), np.concatenate(parts))


@pytest.mark.parametrize("Estimator", TRAINED)
@pytest.mark.parametrize(("options", "error", "message"), [
    ({"solver": "lbfgs"}, ValueError, "solver: expected one of adam, adamw, rmsprop, sgd, got 'lbfgs'"),
    ({"solver": None}, ValueError, "solver: expected one of adam, adamw, rmsprop, sgd, got None"),
    ({"alpha": -1}, ValueError, "alpha: expected a number from 0 to inf, got -1"),
    ({"alpha": "much"}, TypeError, "alpha: expected a number, got 'much'"),
    ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
    ({"batch_size": "all"}, TypeError, "batch_size: expected an integer, got 'all'"),
    ({"learning_rate_init": -0.1}, ValueError, "learning_rate_init: expected a number from 0"),
    ({"max_iter": 0}, ValueError, "max_iter: expected at least 1, got 0"),
    ({"tol": -1}, ValueError, "tol: expected a number from 0"),
    ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change: expected at least 1, got 0"),
    ({"validation_fraction": 2}, ValueError, "validation_fraction: expected a number from 0 to 1, got 2"),
    ({"early_stopping": True, "validation_fraction": 0.001}, ValueError,
     "validation_fraction: expected one that sets from 1 to 299 of 300 samples aside, got 0.001, which gives 0"),
    ({"random_state": "lucky"}, ValueError, "'lucky' cannot be used to seed"),
])
def test_wrong_parameters(Estimator: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Estimator(**options).fit(*blobs())


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"activation": "softsign"}, ValueError, "activation: expected one of relu, .*, logistic, got 'softsign'"),
    ({"hidden_layer_sizes": (5, 0)}, ValueError, "hidden_layer_sizes: expected at least 1, got 0"),
    ({"hidden_layer_sizes": 2.5}, TypeError, "hidden_layer_sizes: expected an integer, got 2.5"),
    ({"dropout": 1.5}, ValueError, "dropout: expected a number from 0 to 1, got 1.5"),
])
def test_wrong_networks(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MLPClassifier(**options).fit(*blobs())


@pytest.mark.parametrize("Estimator", TRAINED)
def test_one_class_is_no_task(Estimator: Any) -> None:
    X, y = blobs()
    with pytest.raises(ValueError, match=r"y: expected at least two classes, got one class"):
        Estimator().fit(X, 0 * y)


@pytest.mark.parametrize("Estimator", TRAINED)
def test_a_refused_fit_leaves_the_earlier_one(Estimator: Any) -> None:
    X, y = blobs()
    classifier = Estimator(**BRIEF).fit(X, y)
    scores = classifier.decision_function(X)
    none = {"early_stopping": True, "validation_fraction": 0}
    for options, labels in [({"solver": "lbfgs"}, y), (none, y), ({}, 0 * y)]:
        with pytest.raises(ValueError, match="expected"):
            classifier.set_params(**options).fit(X, labels)
        assert np.array_equal(classifier.set_params(**Estimator(**BRIEF).get_params()).decision_function(X), scores)


def test_training_that_diverges_says_what_to_do() -> None:
    X, y = blobs()
    with pytest.raises(DivergedError, match="try a lower learning rate, inputs scaled to mean 0"):
        SoftmaxClassifier(solver="sgd", learning_rate_init=1e200, random_state=0).fit(1e150 * X, y)
