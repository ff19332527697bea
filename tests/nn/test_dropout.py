"""What dropout's mask depends on."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastnn
from fastnn import nn, random

X = np.ones((50, 40), np.float32)


def mask_of(layer: nn.Dropout, *counters: int) -> np.ndarray:
    with random.at_step(*counters):
        return layer.forward(X, training=True)[0] != 0


def built(seed: int) -> nn.Dropout:
    with random.seeded(seed):
        return nn.Dropout(0.4)


def test_keeps_the_expectation() -> None:
    y, backward = built(0).forward(X)
    kept = y != 0
    assert abs(kept.mean() - 0.6) < 0.03
    np.testing.assert_allclose(y[kept], 1 / 0.6, rtol=1e-6)
    np.testing.assert_array_equal(backward(X), y)


def test_same_step_same_mask() -> None:
    layer = built(0)
    first = mask_of(layer, 7, 2, 5)
    np.testing.assert_array_equal(mask_of(layer, 7, 2, 5), first)
    np.testing.assert_array_equal(mask_of(built(1), 7, 2, 5), first)       # the run's seed counts, not the model's
    for counters in ((7, 2, 6), (7, 3, 5), (8, 2, 5)):
        assert (mask_of(layer, *counters) != first).any()


def test_draws_within_a_step_differ_and_a_model_built_later_repeats_them() -> None:
    one = built(0)
    draws = []
    for layers in ((one, copy.deepcopy(one), one), (nn.Dropout(0.4), nn.Dropout(0.4), nn.Dropout(0.4))):
        with random.at_step(0, 0):
            draws.append([layer.forward(X)[0] for layer in layers])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (draws[0][i] != draws[0][j]).any()
    np.testing.assert_array_equal(draws[0], draws[1])


def test_layers_differ_without_steps() -> None:
    with random.seeded(0):
        one, other = nn.Dropout(0.4), nn.Dropout(0.4)
    assert (one.forward(X)[0] != other.forward(X)[0]).any()


def test_without_steps_each_call_differs_and_a_seed_repeats_them() -> None:
    layer, again = built(3), built(3)
    first, second = layer.forward(X)[0], layer.forward(X)[0]
    assert (first != second).any()
    np.testing.assert_array_equal(again.forward(X)[0], first)
    assert (built(4).forward(X)[0] != first).any()


def test_same_bits_for_any_number_of_threads() -> None:
    layer = built(0)
    x = np.ones((100, 1000), np.float32)
    results = []
    for threads in (1, 2, 3):
        fastnn.set_num_threads(threads)
        with random.at_step(0, 1):
            results.append(layer.forward(x)[0])
    fastnn.set_num_threads(None)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_threads_have_their_own_step() -> None:
    layer = built(0)
    expected = [mask_of(layer, 0, i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for mask, other in zip(pool.map(lambda i: mask_of(layer, 0, i), range(8)), expected):
            np.testing.assert_array_equal(mask, other)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.4, False)])
def test_passes_on_what_it_does_not_change(p: float, training: bool) -> None:
    y, backward = nn.Dropout(p).forward(X, training=training)
    assert y is X
    assert backward(X) is X


def test_drops_everything() -> None:
    y, backward = nn.Dropout(1.0).forward(X)
    assert not y.any()
    assert not backward(X).any()
