"""Every kernel of the table on a GPU, or in Numba's simulator of one, where large samples are left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import _device, kernels
from fastnn.testing import KERNELS, Call, Kernel, assert_close, assert_same_bits
from fastnn.testing.table import CASES, as_tuple

# The simulator's threads know nothing of numpy.errstate.
pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

ROWS = list(KERNELS.values())
MOST = 1500 if _device.SIMULATED else 1 << 30     # numbers in the arguments of a call


def samples(row: Kernel, dtype: np.dtype) -> Iterator[Call]:
    """The row's calls on the host, by the name of each algorithm that runs on a GPU."""
    return (call for call in row.calls(dtype, "cuda") if sum(array.size for array in call.arrays()) <= MOST)


@pytest.mark.parametrize(("row", "dtype"), CASES, ids=str)
def test_cuda_agrees_with_naive(row: Kernel, dtype: np.dtype) -> None:
    """float64 to rounding; float32 within its bound of the float64 truth; the same bits each time."""
    for call in samples(row, dtype):
        found, truth = row.run(call, "cuda"), row.run(call.astype(np.float64), "naive")
        row.assert_close(found, truth, dtype=dtype, what=call.kwargs)
        for ours, naive in zip(found, truth):
            assert ours is None or dtype != np.float64 or ours.dtype == np.asarray(naive).dtype
        if not _device.SIMULATED:
            for _ in range(3):
                assert_same_bits(row.run(call, "cuda"), found)


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_travel_as_in_naive(row: Kernel, value: float) -> None:
    for call in samples(row, np.dtype(np.float32)):
        if _device.SIMULATED and sum(array.size for array in call.arrays()) > 200:
            continue
        for position, planted in row.planted(call, value):
            with np.errstate(all="ignore"):
                naive, found = row.run(planted, "naive"), row.run(planted, "cuda")
            assert_close(found, naive, dtype=np.float32, factor=10 * row.factor, gradient=True,
                         what=f"{row.name}{call.kwargs} with {value} in argument {position}")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_arrays_on_both_sides_are_refused(row: Kernel) -> None:
    """Nothing moves by itself, and a target moves nothing."""
    call = next(samples(row, row.dtypes[-1]))
    placed = call.map(fastnn.to_device)
    places = [i for i, value in enumerate(call.args) if isinstance(value, np.ndarray)]
    for i in places if len(places) > 1 else ():
        mixed = Call(tuple(call.args[j] if i == j else value for j, value in enumerate(placed.args)), call.kwargs)
        with pytest.raises(TypeError, match=r"expected an? .*(fastnn.to_device|a NumPy array)"):
            row(mixed)
    for target in ("naive", "cpu"):
        with pytest.raises(TypeError, match=r"got arrays on a GPU; move them with fastnn.to_host"):
            row(placed, target=target)
    with pytest.raises(TypeError, match=r"target 'cuda': expected arrays on a GPU, got NumPy arrays"):
        row(call.copy(), target="cuda")
    with fastnn.use_target("cuda"):
        assert all(array is None or _device.is_device(array) for array in row.results(placed))


@pytest.mark.parametrize("row", [row for row in ROWS if row.has_out], ids=str)
def test_out(row: Kernel) -> None:
    call = next(samples(row, row.dtypes[0]))
    expected = row.run(call, "cuda")[0]
    for strided in (False, True):
        wide = fastnn.to_device(np.full((*expected.shape, 2), 7, expected.dtype))
        out = wide[..., 0] if strided else fastnn.to_device(np.full_like(expected, 7))
        assert as_tuple(row(call.copy().map(fastnn.to_device), out=out))[0] is out
        assert_same_bits(fastnn.to_host(out), expected)
    with pytest.raises(ValueError, match="out: expected shape"):
        row(call.copy().map(fastnn.to_device), out=fastnn.to_device(np.empty((1, 2, 3, 4, 5), expected.dtype)))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_refused_inputs(row: Kernel) -> None:
    """The sentences are those of the host, but for values: looking at them would wait for the GPU."""
    for refused in row.refused():
        unseen = re.search("labels: expected labels|indices: expected values|input: expected indices", refused.match)
        if not unseen and "target" not in refused.call.kwargs:
            placed: dict[int, Any] = {}                 # an array that is given twice stays one
            for array in refused.call.arrays():
                placed[id(array)] = fastnn.to_device(array)
            with pytest.raises(refused.error, match=refused.match):
                row(refused.call.map(lambda array, placed=placed: placed[id(array)]))


def test_no_samples_give_gradients_of_zero_by_the_weights() -> None:
    grad, image = (fastnn.to_device(np.ones((0, 3, 4, 4))) for _ in range(2))
    weight = fastnn.to_device(np.ones((3, 3, 1, 1)))
    for grads in (kernels.conv2d_backward(grad, image, weight),
                  kernels.linear_backward(grad[:, :, 0, 0], image[:, :, 0, 0], weight[:, :, 0, 0])):
        assert len(grads[0]) == 0
        for found in grads[1:]:
            assert found.size > 0
            assert not fastnn.to_host(found).any()


def test_other_libraries_arrays_come_back_as_they_came() -> None:
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    theirs = _device.cuda.to_device(x), _device.cuda.to_device(y)
    result = kernels.add(*theirs)
    assert type(result) is type(theirs[0])
    np.testing.assert_array_equal(result.copy_to_host(), x + y)
    np.testing.assert_array_equal(fastnn.to_host(result), x + y)
    out = _device.cuda.to_device(y)
    assert kernels.add(*theirs, out=out) is out
    np.testing.assert_array_equal(out.copy_to_host(), x + y)
    ours = kernels.add(fastnn.to_device(x), theirs[1])          # of both kinds: as the one that had to be viewed
    np.testing.assert_array_equal(fastnn.to_host(ours), x + y)


@pytest.mark.gpu
def test_torch_tensors_come_back_as_tensors_on_their_stream() -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(6, dtype=torch.float32, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        y = kernels.add(x, x)
        assert isinstance(y, torch.Tensor)
        assert y.is_cuda
        np.testing.assert_array_equal(y.cpu().numpy(), 2 * np.arange(6))
    with pytest.raises(TypeError, match="detach"):
        kernels.relu(x.requires_grad_())


@pytest.mark.gpu
@pytest.mark.parametrize("row", [row for row in ROWS if row.benchmarks], ids=str)
def test_large_calls_agree_with_the_cpu_in_float64(row: Kernel) -> None:
    for benchmark in row.benchmarks:
        call = benchmark.call(benchmark.n)
        truth, found = row.run(call.astype(np.float64)), row.run(call, "cuda")
        if row.name == "knn":
            np.testing.assert_allclose(found[0], truth[0], rtol=1e-5)
            continue
        row.assert_close(found, truth, dtype=np.dtype(np.float32), factor=10, what=f": {benchmark.label}")
