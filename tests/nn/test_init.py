"""Initial weights: their law, their seed, and how inputs and outputs are counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnn import nn, random
from fastnn.nn import init

LAWS: dict[str, tuple[Callable[..., np.ndarray], Callable[[int, int], float]]] = {
    "he_normal": (init.he_normal, lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
    "he_uniform": (init.he_uniform, lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
    "xavier_normal": (init.xavier_normal, lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out))),
    "xavier_uniform": (init.xavier_uniform, lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out))),
    "normal": (init.normal(0.25), lambda fan_in, fan_out: 0.25),
    "zeros": (init.zeros, lambda fan_in, fan_out: 0.0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(100, 80), (40, 10, 3, 5)])
@pytest.mark.parametrize("name", LAWS)
def test_deviation(name: str, shape: tuple[int, ...], dtype: Any) -> None:
    draw, deviation = LAWS[name]
    weight = draw(shape, random.generator(0, "test"), dtype)
    fan_in, fan_out = shape[1] * math.prod(shape[2:]), shape[0] * math.prod(shape[2:])
    assert weight.dtype == dtype
    assert weight.shape == shape
    assert weight.std() == pytest.approx(deviation(fan_in, fan_out), rel=0.05)
    assert abs(weight.mean()) <= 4 * weight.std() / math.sqrt(weight.size)
    if "uniform" in name:
        assert abs(weight).max() <= math.sqrt(3) * deviation(fan_in, fan_out)
        assert abs(weight).max() > 1.7 * deviation(fan_in, fan_out)


@pytest.mark.peers
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3, 2)])
def test_fans_as_torch(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    for ours, theirs in ((init.he_uniform, torch.nn.init.kaiming_uniform_),
                         (init.xavier_uniform, torch.nn.init.xavier_uniform_)):
        options = {"nonlinearity": "relu"} if "kaiming" in theirs.__name__ else {}
        bound = max(float(theirs(torch.empty(shape), **options).abs().max()) for _ in range(300))
        most = max(abs(ours(shape, random.generator(i, "test"))).max() for i in range(300))
        assert most == pytest.approx(bound, rel=0.01)


def test_one_dimension_has_no_fans() -> None:
    with pytest.raises(ValueError, match=r"shape: expected at least two dimensions .* got \(3,\)"):
        init.he_normal((3,), random.generator(0, "test"))


def test_seeds() -> None:
    def built(seed: int, dtype: Any = np.float32) -> list[np.ndarray]:
        with random.seeded(seed):
            model = nn.Sequential(nn.Linear(4, 4, dtype=dtype), nn.Linear(4, 4, dtype=dtype))
        return [layer.weight.data for layer in model]

    first, second = built(0)
    assert (first != second).any()
    for again, weight in zip(built(0), (first, second)):
        np.testing.assert_array_equal(again, weight)
    assert (built(1)[0] != first).any()
    np.testing.assert_array_equal(built(0, np.float64)[0].astype(np.float32), first)


def test_layers_take_an_initializer_and_start_without_bias() -> None:
    for layer in (nn.Linear(2, 3, init=init.zeros), nn.Conv2d(1, 3, 2, init=init.zeros),
                  nn.ConvTranspose2d(1, 3, 2, init=init.zeros)):
        assert not layer.weight.data.any()
        assert layer.bias.data.shape == (3,)
        assert not layer.bias.data.any()
    assert nn.Linear(1000, 2).weight.data.std() == pytest.approx(math.sqrt(2 / 1000), rel=0.1)
