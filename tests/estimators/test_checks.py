"""scikit-learn's own checks: those that it holds every estimator to, and what users do with one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import fastnn

sklearn = pytest.importorskip("sklearn")    # test_import.py has a test that fails where it must not be missing

from sklearn.base import clone  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from fastnn.estimators import KNeighborsClassifier, LinearSVM, MLPClassifier, SoftmaxClassifier  # noqa: E402

TRAINED = [LinearSVM, SoftmaxClassifier, MLPClassifier]
ALL = [KNeighborsClassifier, *TRAINED]


@parametrize_with_checks([Estimator() for Estimator in ALL])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_check_estimator(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    train, test = fastnn.data.digits().train, fastnn.data.digits().test
    return train.images.reshape(-1, 64), train.labels, test.images.reshape(-1, 64), test.labels


def brief(Estimator: Any, **options: Any) -> Any:
    """An estimator whose fit is a matter of two epochs."""
    return Estimator(**options) if Estimator is KNeighborsClassifier else (
        Estimator(**{"max_iter": 2, "n_iter_no_change": 2, "random_state": 0, **options}))


@pytest.mark.parametrize(("Estimator", "least"), [
    (KNeighborsClassifier, 0.98), (LinearSVM, 0.93), (SoftmaxClassifier, 0.93), (MLPClassifier, 0.96)])
def test_default_parameters_recognise_digits(Estimator: Any, least: float) -> None:
    X, y, X_test, y_test = digits()
    options = {} if Estimator is KNeighborsClassifier else {"random_state": 0}
    assert make_pipeline(StandardScaler(), Estimator(**options)).fit(X, y).score(X_test, y_test) >= least


@pytest.mark.parametrize(("estimator", "grid"), [
    (KNeighborsClassifier(), {"n_neighbors": [1, 100], "weights": ["uniform", "distance"]}),
    (brief(LinearSVM), {"alpha": [1e-4, 1.0], "solver": ["adam", "sgd"]}),
    (brief(SoftmaxClassifier), {"learning_rate_init": [0.01, 1e-6]}),
    (brief(MLPClassifier, learning_rate_init=0.01), {"hidden_layer_sizes": [(1,), (32, 16)], "activation": ["tanh"]}),
], ids=lambda value: type(value).__name__)
def test_grid_search_over_a_pipeline(estimator: Any, grid: dict[str, list[Any]]) -> None:
    X, y, X_test, y_test = digits()
    pipeline = make_pipeline(StandardScaler(), estimator)
    name = type(estimator).__name__.lower()
    search = GridSearchCV(pipeline, {f"{name}__{key}": values for key, values in grid.items()}, cv=2)
    search.fit(X[:600], y[:600])
    scores = search.cv_results_["mean_test_score"]
    assert search.best_score_ == scores.max() > scores.min()
    assert search.score(X_test, y_test) > 0.5


def test_cross_validation_in_other_processes_gives_the_same() -> None:
    X, y, *_ = digits()
    here, elsewhere = (cross_val_score(brief(SoftmaxClassifier), X[:300], y[:300], cv=2, n_jobs=jobs)
                       for jobs in (None, 2))
    assert np.array_equal(here, elsewhere)


@pytest.mark.parametrize("Estimator", ALL)
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy],  # noqa: S301
                         ids=["pickle", "deepcopy"])
def test_copies_predict_the_same(Estimator: Any, copied: Callable[[Any], Any]) -> None:
    X, y, X_test, _ = digits()
    estimator = brief(Estimator).fit(X, y)
    twin = copied(estimator)
    assert np.array_equal(twin.predict(X_test), estimator.predict(X_test))


@pytest.mark.parametrize("Estimator", TRAINED)
def test_a_pickled_estimator_trains_on_as_the_first_would(Estimator: Any) -> None:
    X, y, X_test, _ = digits()
    estimator = brief(Estimator).fit(X / 16, y)
    twin = pickle.loads(pickle.dumps(estimator))  # noqa: S301
    first, second = (e.partial_fit(X / 16, y).decision_function(X_test / 16) for e in (estimator, twin))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("Estimator", ALL)
def test_a_clone_has_the_parameters_alone(Estimator: Any) -> None:
    X, y, *_ = digits()
    estimator = brief(Estimator).fit(X, y)
    twin = clone(estimator)
    assert twin.get_params() == estimator.get_params()
    assert not hasattr(twin, "classes_")


@pytest.mark.parametrize("Estimator", TRAINED)
def test_random_state_decides_what_is_learned(Estimator: Any) -> None:
    X, y, X_test, _ = digits()

    def learned(random_state: Any) -> np.ndarray:
        return brief(Estimator, random_state=random_state, early_stopping=True).fit(X, y).decision_function(X_test)

    assert np.array_equal(learned(7), learned(7))
    assert np.array_equal(learned(np.random.RandomState(7)), learned(7))
    assert not np.array_equal(learned(8), learned(7))
    assert not np.array_equal(learned(None), learned(None))
    state = np.random.RandomState(7)
    assert not np.array_equal(learned(state), learned(state))       # which it has advanced


@pytest.mark.parametrize("Estimator", ALL)
def test_labels_may_be_text(Estimator: Any) -> None:
    X, y, X_test, _ = digits()
    names = np.array([f"digit {digit}" for digit in range(10)])
    by_text, by_number = brief(Estimator).fit(X, names[y]), brief(Estimator).fit(X, y)
    assert by_text.classes_.tolist() == names.tolist()
    assert np.array_equal(by_text.predict(X_test), names[by_number.predict(X_test)])


@pytest.mark.parametrize("Estimator", ALL)
def test_features_of_a_data_frame_have_names(Estimator: Any) -> None:
    pandas = pytest.importorskip("pandas")
    X, y, X_test, _ = digits()
    frame = partial(pandas.DataFrame, columns=[f"pixel {i}" for i in range(64)])
    estimator = brief(Estimator).fit(frame(X), pandas.Series(y))
    assert estimator.feature_names_in_[63] == "pixel 63"
    assert np.array_equal(estimator.predict(frame(X_test)), brief(Estimator).fit(X, y).predict(X_test))
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(frame(X_test)[estimator.feature_names_in_[::-1]])


@pytest.mark.parametrize("Estimator", ALL)
def test_wrong_data_is_refused(Estimator: Any) -> None:
    X, y = np.random.default_rng(0).standard_normal((20, 3)), np.arange(20) % 2
    estimator = brief(Estimator)
    for value in (np.nan, np.inf):
        spoilt = X.copy()
        spoilt[3, 1] = value
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            estimator.fit(spoilt, y)
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            brief(Estimator).fit(X, y).predict(spoilt)
    for wrong, labels, message in [
        ([[1.0, 2.0], [3.0]], [0, 1], "inhomogeneous"),
        (X, X[:, 0], "Unknown label type: continuous"),
        (X, y[:-1], "inconsistent numbers of samples"),
        (X, np.stack([y, y], 1), "y should be a 1d array"),
        (X[0], y[:1], "Expected 2D array"),
        (np.full((20, 3), "dear"), y, "could not convert string"),
    ]:
        with pytest.raises(ValueError, match=message):
            estimator.fit(wrong, labels)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        estimator.predict(X)
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3"):
        estimator.fit(X, y).predict(X[:, :2])
