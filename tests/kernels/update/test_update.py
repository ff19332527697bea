"""The updates of optimizers, which write to what they are given; rules are held against torch in tests/optim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import kernels, random
from fastnn.testing import assert_close

# kernel, how many states it takes, options
CALLS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "sgd": ("sgd_update", 0, {"lr": 0.1}),
    "sgd-decay": ("sgd_update", 0, {"lr": 0.1, "weight_decay": 0.2}),
    "sgd-momentum": ("sgd_update", 1, {"lr": 0.1, "momentum": 0.9}),
    "sgd-nesterov": ("sgd_update", 1, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.2}),
    "rmsprop": ("rmsprop_update", 1, {"lr": 0.1}),
    "rmsprop-momentum": ("rmsprop_update", 2, {"lr": 0.1, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.2,
                                               "momentum": 0.8}),
    "adam": ("adam_update", 2, {"lr": 0.1, "step": 1}),
    "adam-decay": ("adam_update", 2, {"lr": 0.1, "step": 7, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2}),
    "adam-decoupled": ("adam_update", 2, {"lr": 0.1, "step": 7, "weight_decay": 0.2, "decoupled": True}),
}


def arrays(shape: Any, states: int, dtype: Any = np.float64) -> list[np.ndarray]:
    """Parameter, gradient and states; the latter not negative, as mean squares are."""
    rng = random.generator(0, "test")
    draw = [np.asarray(rng.standard_normal(shape), dtype) for _ in range(2 + states)]
    return [*draw[:2], *(np.asarray(abs(state)) for state in draw[2:])]


def update(name: str, values: list[np.ndarray], **more: Any) -> list[np.ndarray]:
    kernel, _, options = CALLS[name]
    assert getattr(kernels, kernel)(*values, **{**options, **more}) is None
    return values


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (8191,), (8192,), (2, 8195)])
@pytest.mark.parametrize("name", CALLS)
def test_as_naive(name: str, shape: tuple[int, ...], dtype: Any) -> None:
    before = arrays(shape, CALLS[name][1], dtype)
    judged = update(name, [array.copy() for array in before], target="naive")
    fast = update(name, [array.copy() for array in before], target="cpu")
    for i, (array, expected) in enumerate(zip(fast, judged)):
        assert array.dtype == dtype
        assert_close(array, expected)
        assert (i == 1) == np.array_equal(array, before[i]) or array.size == 0


@pytest.mark.parametrize("name", CALLS)
def test_same_bits_for_any_number_of_threads(name: str) -> None:
    results = []
    for threads in (1, 2, 3):
        fastnn.set_num_threads(threads)
        results.append(update(name, arrays(100_000, CALLS[name][1], np.float32)))
    fastnn.set_num_threads(None)
    for result in results[1:]:
        for array, expected in zip(result, results[0]):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("name", CALLS)
def test_strided_arrays_are_updated_in_place(name: str) -> None:
    values = arrays((6, 4), CALLS[name][1])
    expected = update(name, [array.copy() for array in values])
    strided = [np.zeros((12, 4))[::2].T for _ in values]
    for array, value in zip(strided, values):
        array[...] = value.reshape(array.shape)
    strided[1].flags.writeable = False
    update(name, strided)
    for array, value in zip(strided, expected):
        np.testing.assert_array_equal(array.reshape(-1), value.reshape(-1))


@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_where_it_is(value: float, target: str) -> None:
    for name, (_, states, _) in CALLS.items():
        values = arrays(9, states)
        values[1][4] = value
        with np.errstate(all="ignore"):
            parameter = update(name, values, target=target)[0]
        assert np.isfinite(np.delete(parameter, 4)).all()
        assert not np.isfinite(parameter[4]), name


def test_no_decay_leaves_the_parameter_out_of_the_gradient() -> None:
    parameter = np.array([np.inf])
    momentum = np.zeros(1)
    kernels.sgd_update(parameter, np.ones(1), momentum, lr=0.1, momentum=0.5)
    assert momentum == 1


X, G = np.ones(4), np.ones(4)
FIXED = np.ones(4)
FIXED.flags.writeable = False


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: kernels.sgd_update(X, np.ones(3), lr=0.1), ValueError, r"grad: expected shape \(4,\), got \(3,\)"),
    (lambda: kernels.sgd_update(X, G, np.ones((4, 1)), lr=0.1, momentum=0.9), ValueError,
     r"momentum_buffer: expected shape \(4,\)"),
    (lambda: kernels.sgd_update(X, np.ones(4, np.float32), lr=0.1), TypeError,
     "grad: expected float64 as parameter has, got float32"),
    (lambda: kernels.sgd_update(np.ones(4, int), G, lr=0.1), TypeError, "parameter: expected float32 or float64"),
    (lambda: kernels.sgd_update(FIXED, G, lr=0.1), ValueError,
     "parameter: expected a writable array, got a read-only one"),
    (lambda: kernels.sgd_update([1.0], G, lr=0.1), TypeError, "parameter: expected a NumPy array, got list"),
    (lambda: kernels.sgd_update(np.float64(1), np.array(1.0), lr=0.1), TypeError,
     "parameter: expected a NumPy array, got float64"),
    (lambda: kernels.sgd_update(X, X[:], lr=0.1), ValueError, "parameter: .* but it overlaps with grad"),
    (lambda: kernels.sgd_update(X, G, X[::-1], lr=0.1, momentum=0.9), ValueError,
     "momentum_buffer: expected memory of its own, but it overlaps with parameter"),
    (lambda: kernels.sgd_update(X, G, lr=0.1, momentum=0.9), ValueError,
     "momentum_buffer: expected an array with momentum 0.9, got None"),
    (lambda: kernels.sgd_update(X, G, np.zeros(4), lr=0.1), ValueError,
     "momentum_buffer: expected no array with momentum 0, got one"),
    (lambda: kernels.sgd_update(X, G, lr=-0.1), ValueError, "lr: expected a number from 0"),
    (lambda: kernels.sgd_update(X, G, lr=0.1, nesterov=True), ValueError, "momentum: expected a positive number"),
    (lambda: kernels.rmsprop_update(X, G, np.zeros(4), lr=0.1, alpha=1.5), ValueError, "alpha: .* from 0 to 1"),
    (lambda: kernels.rmsprop_update(X, G, np.zeros(4), lr=0.1, eps=-1), ValueError, "eps: expected a number from 0"),
    (lambda: kernels.adam_update(X, G, np.zeros(4), np.zeros(4), lr=0.1, step=0), ValueError,
     "step: expected at least 1, got 0"),
    (lambda: kernels.adam_update(X, G, np.zeros(4), np.zeros(4), lr=0.1, step=1, betas=(1.0, 0.9)), ValueError,
     "betas: expected two numbers from 0 to below 1"),
    (lambda: kernels.adam_update(X, G, np.zeros(4), np.zeros(4), lr=0.1, step=1, weight_decay="1"), TypeError,
     "weight_decay: expected a number"),
])
def test_wrong_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
    for array in (X, G, FIXED):
        np.testing.assert_array_equal(array, 1)
