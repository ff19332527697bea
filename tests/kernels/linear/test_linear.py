"""What the table cannot say of linear maps: every shape of the tile, the float32 bound, bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

from fastnn import kernels
from fastnn.kernels._cpu import gemm
from fastnn.kernels._plans import forget_plans

RNG = np.random.default_rng(0)

SHAPES = [(1, 700, 33), (3, 17, 1), (9, 40, 100), (64, 530, 10), (65, 33, 65), (300, 1100, 47), (1000, 8, 31),
          (7, 9, 14), (200, 12, 10)]


@contextmanager
def best_tiles() -> Iterator[None]:
    """Small products by the tiles that fit them best, not by the one that most have, in a launch for each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("FEW_CYCLES", 0), ("CYCLES_A_TILE", 0), ("MOST_FOR_ONE_TILE", 1.0)):
            patch.setattr(gemm, name, value)
        forget_plans()
        yield
    forget_plans()


@pytest.fixture(params=["the usual tile", "the best tiles"])
def tiles(request: pytest.FixtureRequest) -> Iterator[None]:
    with best_tiles() if request.param == "the best tiles" else nullcontext():
        yield


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(("n", "inputs", "outputs"), SHAPES)
def test_float32_keeps_its_bound(n: int, inputs: int, outputs: int) -> None:
    """|error| <= (min(I, 512) + I / 512 + 1) eps sum |x weight|, and the same of the gradients."""
    rng = np.random.default_rng(0)
    x, weight, grad = (rng.standard_normal(shape).astype(np.float32) * 10 ** rng.uniform(-3, 3, (shape[0], 1))
                       for shape in ((n, inputs), (outputs, inputs), (n, outputs)))
    x, weight, grad = (array.astype(np.float32) for array in (x, weight, grad))
    bias = rng.standard_normal(outputs).astype(np.float32)
    x64, weight64, grad64 = (array.astype(np.float64) for array in (x, weight, grad))
    grad_x, grad_weight, _ = kernels.linear_backward(grad, x, weight)
    for got, a, b, extra in [(kernels.linear(x, weight, bias), x64, weight64.T, bias), (grad_x, grad64, weight64, 0),
                             (grad_weight, grad64.T, x64, 0)]:
        assert got is not None
        depth = a.shape[1]
        bound = (min(depth, 512) + depth / 512 + 1) * np.finfo(np.float32).eps
        assert (np.abs(got - (a @ b + extra)) <= bound * (np.abs(a) @ np.abs(b) + np.abs(extra))).all()


def test_a_row_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((70, 600)).astype(np.float32), rng.standard_normal((90, 600)).astype(np.float32)
    whole = kernels.linear(x, weight)
    for rows in (1, 2, 7, 15, 40):
        assert kernels.linear(x[:rows], weight).tobytes() == whole[:rows].tobytes()
    x, weight = x[:, :13].copy(), weight[:9, :13].copy()                # few weights
    grad = rng.standard_normal((70, 9)).astype(np.float32)
    whole, grads = kernels.linear(x, weight), kernels.linear_backward(grad, x, weight)[0]
    for rows in (1, 2, 7, 40, 64):
        assert kernels.linear(x[:rows], weight).tobytes() == whole[:rows].tobytes()
        assert kernels.linear_backward(grad[:rows], x[:rows], weight)[0].tobytes() == grads[:rows].tobytes()


@pytest.mark.parametrize("shape", [(3, 8, 12), (5, 129, 17), (40, 600, 33), (64, 128, 128), (1, 784, 128)])
def test_a_relu_in_the_same_pass_has_the_bits_of_one_after(shape: tuple[int, int, int]) -> None:
    n, i, o = shape
    for dtype in (np.float32, np.float64):
        x, weight, bias = (RNG.standard_normal(size).astype(dtype) for size in ((n, i), (o, i), o))
        x[0, 0] = np.nan
        y = kernels.linear(x, weight, bias, activation="relu")
        np.testing.assert_array_equal(y, kernels.relu(kernels.linear(x, weight, bias)))
        assert np.isnan(y[0]).all()


@pytest.mark.parametrize("shape", [(64, 784, 128), (64, 256, 10), (1, 784, 300), (2, 300, 4000), (40, 9, 13)])
def test_gradients_alone_and_by_other_tiles_have_the_same_bits(shape: tuple[int, int, int]) -> None:
    n, i, o = shape
    grad, x, weight = (RNG.standard_normal(size).astype(np.float32) for size in ((n, o), (n, i), (o, i)))
    everything = kernels.linear_backward(grad, x, weight)
    for place in (nullcontext(), best_tiles()):
        with place:
            for needs in itertools.product((False, True), repeat=3):
                results = kernels.linear_backward(grad, x, weight, needs=needs)
                for need, ours, expected in zip(needs, results, everything):
                    assert need == (ours is not None)
                    if need:
                        np.testing.assert_array_equal(ours, expected)
