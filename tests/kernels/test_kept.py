"""Weights that are kept as algorithms read them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from fastnn import kernels

RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


CALLS: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "winograd": (kernels.conv2d, (2, 32, 9, 9), (32, 32, 3, 3), {"padding": 1, "algorithm": "winograd"}),
    "direct": (kernels.conv2d, (2, 32, 9, 9), (48, 32, 1, 1), {"algorithm": "direct"}),
    "groups": (kernels.conv2d, (2, 32, 9, 9), (48, 16, 3, 3), {"groups": 2, "stride": 2}),
    "linear": (kernels.linear, (5, 70), (50, 70), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_constant_weight_is_made_ready_once(name: str) -> None:
    kernel, x_shape, shape, options = CALLS[name]
    x, weight = draw(*x_shape), draw(*shape)
    expected = kernel(x, weight, **options).tobytes()
    kept = kernels.KeptWeight(constant=True)
    assert kernel(x, weight, kept=kept, **options).tobytes() == expected
    own, made = kept.last
    assert own is weight                                # no copy
    (array,) = made.values()
    assert not array.flags.writeable
    weight.flags.writeable = False
    assert kernel(x, weight, kept=kept, **options).tobytes() == expected
    assert next(iter(kept.last[1].values())) is array
    assert kernel(x, weight, kept=kept, target="naive", **options) == pytest.approx(
        kernel(x, weight, **options), abs=1e-3)
    other = draw(*shape)
    assert kernel(x, other, kept=kept, **options).tobytes() == kernel(x, other, **options).tobytes()
    assert kept.last[0] is other


@pytest.mark.parametrize("name", ["direct", "groups", "linear"])
def test_packed_weights_are_kept_by_promise_alone(name: str) -> None:
    kernel, x_shape, shape, options = CALLS[name]
    kept = kernels.KeptWeight()
    kernel(draw(*x_shape), draw(*shape), kept=kept, **options)
    assert kept.last is None


def test_each_form_is_kept() -> None:
    """How many filters a tile takes depends on the images, too."""
    weight, kept = draw(48, 32, 1, 1), kernels.KeptWeight(constant=True)
    for size in (1, 2, 3, 5, 9, 20, 2):
        x = draw(1, 32, size, size)
        assert kernels.conv2d(x, weight, kept=kept).tobytes() == kernels.conv2d(x, weight).tobytes()
    assert 1 < len(kept.last[1]) < 6


def test_copies_are_empty_and_keep_the_promise() -> None:
    kept = kernels.KeptWeight(constant=True)
    kernels.linear(draw(5, 70), draw(50, 70), kept=kept)
    for other in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):     # noqa: S301
        assert other.constant
        assert other.last is None


@pytest.mark.parametrize("name", ["direct", "linear"])
def test_what_keeps_nothing_is_refused(name: str) -> None:
    kernel, x_shape, shape, options = CALLS[name]
    with pytest.raises(TypeError, match="kept: expected KeptWeight or None, got dict"):
        kernel(draw(*x_shape), draw(*shape), kept={}, **options)
