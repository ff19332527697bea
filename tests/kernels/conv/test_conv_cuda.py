"""What the table's samples do not reach of convolutions on a GPU: every tile, split sums, depthwise filters."""

from __future__ import annotations

import numpy as np
import pytest

import fastnn
from fastnn import kernels
from fastnn.kernels._gpu import gemm
from fastnn.testing import assert_close

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def on_device(function: object, *args: np.ndarray | None, **options: object) -> tuple[np.ndarray, ...]:
    found = function(*[None if a is None else fastnn.to_device(a) for a in args], **options)
    return tuple([fastnn.to_host(a) for a in (found if isinstance(found, tuple) else (found,))])


def in_float64(function: object, *args: np.ndarray | None, **options: object) -> tuple[np.ndarray, ...]:
    found = function(*[None if a is None else a.astype(np.float64) for a in args], target="naive", **options)
    return found if isinstance(found, tuple) else (found,)


def test_bits_are_the_same_for_every_tile_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tails of tiles in each direction, and k in several segments, by one block and by several."""
    x, weight, bias = draw(1, 5, 4, 5), draw(9, 5, 3, 3), draw(9)
    options = {"padding": 1, "activation": "relu"}
    truth = in_float64(kernels.conv2d, x, weight, bias, **options)
    bits = set()
    for tile in gemm._tiles(np.dtype(np.float32)):
        for run in (1, 1 << 20):
            monkeypatch.setattr(gemm, "_plan", lambda *args, chosen=(tile, run): chosen)
            found = on_device(kernels.conv2d, x, weight, bias, **options)
            assert_close(found, truth)
            bits.add(found[0].tobytes())
    assert len(bits) == 1


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_by_every_tile(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = draw(2, 3, 4, 5), draw(5, 3, 3, 3)
    grad = draw(2, 5, 4 // stride, -(-5 // stride))
    truth = in_float64(kernels.conv2d_backward, grad, x, weight, stride=stride, padding=1)
    for tile in gemm._tiles(np.dtype(np.float32)):
        for run in (1, 2):
            monkeypatch.setattr(gemm, "_plan", lambda *args, chosen=(tile, run): chosen)
            found = on_device(kernels.conv2d_backward, grad, x, weight, stride=stride, padding=1)
            assert_close(found, truth, gradient=True)


def test_an_image_has_the_same_bits_in_any_batch() -> None:
    x, weight = draw(4, 5, 5, 4), draw(6, 5, 3, 3)
    one, = on_device(kernels.conv2d, x[2:3], weight, padding=1)
    four, = on_device(kernels.conv2d, x, weight, padding=1)
    assert one.tobytes() == four[2:3].tobytes()


@pytest.mark.parametrize("size", [(1, 3, 7, 4), (2, 2, 5, 1), (3, 2, 1, 9)])
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "padding": (2, 1)}, {"padding": 2, "dilation": 2},
                                     {"stride": (1, 3), "padding": 1}])
def test_depthwise(size: tuple[int, ...], options: dict[str, object]) -> None:
    """Two filters a channel."""
    x, weight, bias = draw(*size), draw(2 * size[1], 1, 3, 3), draw(2 * size[1])
    options = {**options, "groups": size[1]}
    truth, = in_float64(kernels.conv2d, x, weight, bias, **options)
    assert_close(on_device(kernels.conv2d, x, weight, bias, **options), (truth,))
    grad = draw(*truth.shape)
    assert_close(on_device(kernels.conv2d_backward, grad, x, weight, **options),
                 in_float64(kernels.conv2d_backward, grad, x, weight, **options), gradient=True)


@pytest.mark.parametrize("groups", [1, 2])
def test_wide_offsets(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for arrays of more than two billion numbers."""
    monkeypatch.setattr(gemm, "SMALL", 0)
    x, weight = draw(2, 2, 4, 3), draw(4, 2 // groups, 3, 2)
    truth, = in_float64(kernels.conv2d, x, weight, padding=1, groups=groups)
    assert_close(on_device(kernels.conv2d, x, weight, padding=1, groups=groups), (truth,))
    grad = draw(*truth.shape)
    assert_close(on_device(kernels.conv2d_backward, grad, x, weight, padding=1, groups=groups),
                 in_float64(kernels.conv2d_backward, grad, x, weight, padding=1, groups=groups), gradient=True)


def test_a_stride_beyond_the_filter_leaves_zeros() -> None:
    x, weight = draw(1, 2, 5, 4), draw(3, 2, 1, 2)
    grad = draw(1, 3, 2, 1)
    assert_close(on_device(kernels.conv2d_backward, grad, x, weight, stride=3),
                 in_float64(kernels.conv2d_backward, grad, x, weight, stride=3), gradient=True)


@pytest.mark.parametrize("far", [50, 10**9])
@pytest.mark.parametrize("filters", [(3, 2, 2, 3), (2, 1, 2, 3)])
def test_costs_do_not_grow_with_a_number(far: int, filters: tuple[int, ...]) -> None:
    """A stride has no more phases than there are rows and columns."""
    x, weight = draw(1, 2, 3, 4), draw(*filters)
    for options in ({"stride": far}, {"stride": far, "padding": far}, {"dilation": far, "padding": (far // 2, far)}):
        options = {"groups": 2 // filters[1], **options}
        truth, = in_float64(kernels.conv2d, x, weight, **options)
        assert_close(on_device(kernels.conv2d, x, weight, **options), (truth,))
        grad = draw(*truth.shape)
        assert_close(on_device(kernels.conv2d_backward, grad, x, weight, **options),
                     in_float64(kernels.conv2d_backward, grad, x, weight, **options), gradient=True)


def test_winograd_is_refused() -> None:
    x, weight = fastnn.to_device(draw(1, 2, 5, 4)), fastnn.to_device(draw(3, 2, 3, 3))
    with pytest.raises(ValueError, match="target 'cuda' has 'auto' and 'direct', got 'winograd'; take 'auto'"):
        kernels.conv2d(x, weight, algorithm="winograd")
    with pytest.raises(ValueError, match="target 'cuda' has 'auto' and 'direct'"):
        kernels.conv2d_backward(fastnn.to_device(draw(1, 3, 3, 2)), x, weight, algorithm="winograd")
