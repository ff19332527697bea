"""Every kernel of the table, on every target, held to every promise of the contract."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

import fastnn
from fastnn import kernels
from fastnn.kernels._cpu import launch
from fastnn.testing import KERNELS, Call, Kernel, assert_close, assert_same_bits, numeric_gradient
from fastnn.testing.table import CASES, as_tuple

ROWS = list(KERNELS.values())


def test_every_public_kernel_is_in_the_table() -> None:
    others = {"use_target", "get_num_threads", "set_num_threads", "clear_pool", "set_pool_limit", "KeptWeight",
              "to_device", "to_host", "explain"}
    assert set(KERNELS) == set(kernels.__all__) - others


def test_there_is_one_function_of_a_name() -> None:
    for name in KERNELS:
        kernel = getattr(kernels, name)
        assert kernel.__code__.co_name == name
        assert getattr(sys.modules[kernel.__module__], name) is kernel


@pytest.mark.parametrize(("row", "dtype"), CASES, ids=str)
def test_cpu_agrees_with_naive(row: Kernel, dtype: np.dtype) -> None:
    """float64 to rounding; float32 within its bound of the float64 truth."""
    for call in row.calls(dtype):
        row.assert_close(row.run(call), row.run(call.astype(np.float64), "naive"), dtype=dtype, what=call.kwargs)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_naive_float32_agrees_with_its_float64_self(row: Kernel) -> None:
    float32 = np.dtype(np.float32)
    for call in row.calls(float32):
        row.assert_close(row.run(call, "naive"), row.run(call.astype(np.float64), "naive"), dtype=float32, factor=4,
                         what=call.kwargs)


@pytest.mark.peers
@pytest.mark.parametrize("row", [row for row in ROWS if row.torch], ids=str)
def test_agrees_with_torch(row: Kernel) -> None:
    """Results, and gradients by torch's autograd."""
    torch = pytest.importorskip("torch")
    for call in row.calls(np.dtype(np.float64)):
        same = call.copy().map(torch.from_numpy)
        same.kwargs.pop("algorithm", None)
        for i in row.inputs:
            if same.args[i] is not None:
                same.args[i].requires_grad_()
        expected = row.torch(*same.args, **same.kwargs)
        result = row(call)
        outputs, truths = as_tuple(result), as_tuple(expected)
        for output, truth in zip(outputs, truths):         # torch keeps some results to itself
            assert_close(output, truth.detach().numpy(), factor=10 * row.factor, what=f"{row.name}{call.kwargs}")
        if row.backward is None:
            continue
        grad = np.random.default_rng(1).standard_normal(np.shape(outputs[0]))
        truths[0].backward(torch.from_numpy(np.asarray(grad)))
        grads = KERNELS[f"{row.name}_backward"](row.backward(call, result, grad))
        for i, got in zip(row.inputs, as_tuple(grads), strict=True):
            if same.args[i] is not None:
                assert_close(got, same.args[i].grad.numpy(), factor=10 * row.factor, gradient=True,
                             what=f"{row.name}_backward{call.kwargs}[{i}]")


@pytest.mark.parametrize("row", [row for row in ROWS if row.backward], ids=str)
def test_gradients_agree_with_differences(row: Kernel) -> None:
    for call in row.calls(np.dtype(np.float64)):
        if sum(a.size for a in call.arrays()) > 1000:      # two calls an element
            continue
        result = row(call)
        weights = np.asarray(np.random.default_rng(2).standard_normal(np.shape(as_tuple(result)[0])))
        grads = KERNELS[f"{row.name}_backward"](row.backward(call, result, weights))

        def value(call: Call = call, weights: np.ndarray = weights) -> float:
            return float(np.sum(weights * row.run(call)[0]))

        for i, grad in zip(row.inputs, as_tuple(grads), strict=True):
            if call.args[i] is not None:
                numeric = numeric_gradient(value, call.args[i])
                scale = max(np.linalg.norm(grad) + np.linalg.norm(numeric), 1e-3 * np.sqrt(np.size(grad)))
                assert np.linalg.norm(grad - numeric) <= 1e-7 * scale, f"{row.name}{call.kwargs} by argument {i}"


@pytest.mark.parametrize(("row", "dtype"), [case for case in CASES if case[1].kind == "f"], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_travel_as_in_naive(row: Kernel, dtype: np.dtype, value: float) -> None:
    for call in row.calls(dtype):
        for position, planted in row.planted(call, value):
            with np.errstate(all="ignore"):
                naive, cpu = row.run(planted, "naive"), row.run(planted)
            assert_close(cpu, naive, dtype=dtype, factor=10 * row.factor, gradient=True,
                         what=f"{row.name}{call.kwargs} with {value} in argument {position}")


@pytest.mark.parametrize(("row", "dtype"), CASES, ids=str)
def test_other_layouts_give_the_same_bits(row: Kernel, dtype: np.dtype) -> None:
    """Read-only, strided, Fortran-ordered and unaligned inputs, and rows that lie apart."""
    def strided(array: np.ndarray) -> np.ndarray:
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype) if array.ndim else array
        wide[..., ::2] = array
        return wide[..., ::2]

    def apart(array: np.ndarray) -> np.ndarray:
        wide = np.full((*array.shape[:-1], array.shape[-1] + 3), array.flat[0] if array.size else 0, array.dtype)
        wide[..., :-3] = array
        return wide[..., :-3]

    def unaligned(array: np.ndarray) -> np.ndarray:
        raw = np.empty(array.nbytes + 1, np.uint8)[1:]
        view = raw.view(array.dtype).reshape(array.shape)
        view[...] = array
        return view

    def read_only(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flags.writeable = False
        return array

    for call in row.calls(dtype):
        if any(a.ndim == 0 for a in call.arrays()):
            continue
        expected = row.run(call)
        for change in (strided, apart, unaligned, np.asfortranarray, read_only):
            changed = Call(tuple(a if i in row.writes or not isinstance(a, np.ndarray) else change(a)
                                 for i, a in enumerate(call.copy().args)),
                           {k: change(v) if isinstance(v, np.ndarray) else v for k, v in call.kwargs.items()})
            assert_same_bits(row.results(changed), expected)


@pytest.mark.parametrize(("row", "dtype"), CASES, ids=str)
@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_dtype_and_inputs_are_kept(row: Kernel, dtype: np.dtype, target: str) -> None:
    for call in row.calls(dtype):
        kept = call.copy()
        for output in as_tuple(row(call, target=target)):
            if output is not None and dtype.kind == "f" and np.asarray(output).dtype.kind == "f":
                assert np.asarray(output).dtype == dtype or row.name.endswith("_norm")      # its statistics
                assert np.ndim(output) == 0 or output.flags.c_contiguous
        for i, (before, after) in enumerate(zip(kept.args, call.args)):
            if isinstance(before, np.ndarray) and i not in row.writes:
                np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(("row", "dtype"), [case for case in CASES if case[0].has_out], ids=str)
@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_out(row: Kernel, dtype: np.dtype, target: str) -> None:
    for call in row.calls(dtype):
        expected = row.run(call, target)[0]
        out = np.full_like(expected, 7)
        assert row.run(call, target, out=out)[0] is out
        assert_same_bits(out, expected)
        wide = np.full((*expected.shape, 2), 7, expected.dtype)
        row.run(call, target, out=wide[..., 0])
        assert_same_bits(wide[..., 0], expected)
        assert (wide[..., 1] == 7).all()
        if np.ndim(expected) == 2:
            matrix = np.full_like(expected, 7).view(np.matrix)
            row.run(call, target, out=matrix)
            assert_same_bits(matrix, expected)
        locked = np.full_like(expected, 7)
        locked.flags.writeable = False
        with pytest.raises(ValueError, match="out: expected a writable array"):
            row.run(call, target, out=locked)


@pytest.mark.parametrize("row", [row for row in ROWS if not row.writes or row.name == "batch_norm"], ids=str)
@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_empty_batch(row: Kernel, target: str) -> None:
    """No images give no images; where a mean over them is asked for, an error."""
    call = next(row.calls(np.dtype(np.float64)))
    first = next(i for i, a in enumerate(call.args) if isinstance(a, np.ndarray)) if call.args else 0
    n = call.args[first].shape[0]
    shared = [i for i, a in enumerate(call.args) if isinstance(a, np.ndarray) and a.shape[:1] == (n,) and a.ndim]
    if row.name.startswith(("pairwise_l2", "knn", "conv_transpose2d", "linear", "conv2d")):
        shared = shared[: 2 if row.name.endswith("_backward") else 1]
    args = [a[:0] if i in shared else (0, *a[1:]) if isinstance(a, tuple) and len(a) == 4 else a
            for i, a in enumerate(call.args)]
    refuses = row.name.startswith(("batch_norm", "binary_cross", "cross_entropy", "hinge_loss", "mse_loss"))
    if refuses:
        with pytest.raises(ValueError, match="x: expected"):
            row(Call(tuple(args), call.kwargs), target=target)
        return
    for output in as_tuple(row(Call(tuple(args), call.kwargs), target=target)):
        assert output is None or output.shape[0] == 0 or not output.any()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_refused_inputs(row: Kernel) -> None:
    """Each is one sentence, and nothing is written."""
    for refused in row.refused():
        kept = refused.call.copy()
        for target in ({},) if "target" in kept.kwargs else ({"target": "naive"}, {"target": "cpu"}):
            with pytest.raises(refused.error, match=refused.match):
                row(refused.call, **target)
        for before, after in zip(kept.arrays(), refused.call.arrays()):
            np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(("row", "dtype"), CASES, ids=str)
def test_bits_do_not_depend_on_threads(row: Kernel, dtype: np.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in row.calls(dtype):
        fastnn.set_num_threads(1)
        expected = row.run(call)
        monkeypatch.setattr(launch, "PARALLEL_WORK", 0)
        for threads in (2, 3, 8):
            fastnn.set_num_threads(threads)
            assert_same_bits(row.run(call), expected)
        monkeypatch.undo()
        fastnn.set_num_threads(None)


@pytest.mark.parametrize(("row", "dtype"), CASES, ids=str)
def test_concurrent_callers(row: Kernel, dtype: np.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PARALLEL_WORK", 0)
    calls = list(row.calls(dtype))
    expected = [row.run(call) for call in calls]
    results: list[list[tuple]] = [[] for _ in range(4)]

    def work(mine: list[tuple]) -> None:
        for _ in range(3):
            mine[:] = [row.run(call) for call in calls]

    threads = [threading.Thread(target=work, args=(mine,)) for mine in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in results:
        for got, should in zip(mine, expected, strict=True):
            assert_same_bits(got, should)
