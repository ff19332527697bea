"""Batch normalization's running statistics, against torch and by hand."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from fastnn import nn, random
from fastnn.testing import assert_close, check_gradients


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("momentum", [0.1, 0.3, 1.0, 0.0, None])
@pytest.mark.parametrize(("name", "shape"), [
    ("BatchNorm1d", (5, 3)), ("BatchNorm1d", (2, 3, 4)), ("BatchNorm2d", (4, 3, 2, 5))])
def test_running_statistics_as_torch(name: str, shape: tuple[int, ...], momentum: float | None, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    layer = getattr(nn, name)(3, momentum=momentum, dtype=dtype)
    theirs = getattr(torch.nn, name)(3, momentum=momentum, dtype=getattr(torch, np.dtype(dtype).name))
    rng = random.generator(0, "test")
    for step in range(5):
        x = (rng.standard_normal(shape) * (step + 1) + step).astype(dtype)
        y, _ = layer.forward(x, training=True)
        assert_close(y, theirs.train()(torch.tensor(x)).detach().numpy())
        for buffer, array in layer.state_dict().items():
            assert_close(array, theirs.state_dict()[buffer].numpy(), what=f"{buffer} after step {step}")
        assert_close(layer(x), theirs.eval()(torch.tensor(x)).detach().numpy(), factor=2)
    assert layer.num_batches_tracked.shape == ()
    assert int(layer.num_batches_tracked) == 5


def test_inference_changes_nothing() -> None:
    layer = nn.BatchNorm1d(2)
    before = layer.state_dict()
    layer.forward(np.ones((3, 2), np.float32), training=False)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_untracked_uses_the_batch_in_inference() -> None:
    layer = nn.BatchNorm1d(1, affine=False, track_running_stats=False, dtype=np.float64)
    assert layer.state_dict() == {}
    np.testing.assert_allclose(layer(np.array([[1.0], [3.0]])), [[-1], [1]], atol=1e-5)


def test_large_mean_small_deviation() -> None:
    """Sums of squares less the squared mean would be noise here."""
    rng = random.generator(0, "test")
    x = (1e4 + 0.1 * rng.standard_normal((4000, 1))).astype(np.float32)
    layer = nn.BatchNorm1d(1, momentum=1.0)
    y, _ = layer.forward(x)
    assert abs(y.std() - 1) < 1e-3
    np.testing.assert_allclose(layer.running_var, x.astype(np.float64).var(ddof=1), rtol=1e-5)


@pytest.mark.usefixtures("restless_threads")
def test_several_threads_lose_no_batch() -> None:
    layer = nn.BatchNorm1d(2, momentum=None, dtype=np.float64)
    batches = random.generator(0, "test").standard_normal((200, 8, 2))

    def work(part: np.ndarray) -> None:
        for x in part:
            layer.forward(x, training=True)

    threads = [threading.Thread(target=work, args=(batches[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(layer.num_batches_tracked) == 200
    np.testing.assert_allclose(layer.running_mean, batches.mean((0, 1)), atol=1e-14)
    np.testing.assert_allclose(layer.running_var, batches.var(1, ddof=1).mean(0), rtol=1e-13)


def test_frozen_it_is_in_training_as_in_inference() -> None:
    rng = random.generator(0, "test")
    layer = nn.BatchNorm2d(3).to(np.float64)
    layer.forward(rng.standard_normal((4, 3, 2, 5)) + 1)
    layer.frozen = True
    before, x = layer.state_dict(), rng.standard_normal((2, 3, 2, 2))
    np.testing.assert_array_equal(layer.forward(x, training=True)[0], layer(x))
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert max(check.error for check in check_gradients(layer, x)) < 1e-7
