"""Layers against torch's of the same construction, and their gradients against differences."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnn import kernels, nn, random
from fastnn.testing import assert_close, check_gradients

IMAGES = (2, 4, 6, 5)

# Each is built by the same expression in fastnn.nn and in torch.nn.
LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "linear": (lambda nn: nn.Linear(4, 5), (3, 4)),
    "linear-1d": (lambda nn: nn.Linear(4, 5), (4,)),
    "linear-3d": (lambda nn: nn.Linear(4, 5, False), (2, 3, 4)),
    "conv": (lambda nn: nn.Conv2d(4, 6, 3), IMAGES),
    "conv-options": (lambda nn: nn.Conv2d(4, 6, (3, 2), (2, 1), (2, 1), (1, 2), 2, False), IMAGES),
    "conv-sequences": (lambda nn: nn.Conv2d(4, 6, 3, [2], (1,), [1]), IMAGES),
    "conv-same": (lambda nn: nn.Conv2d(4, 4, 3, padding="same", groups=4), IMAGES),
    "transpose": (lambda nn: nn.ConvTranspose2d(4, 6, 3), IMAGES),
    "transpose-options": (lambda nn: nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2, False), IMAGES),
    "transpose-dilation": (lambda nn: nn.ConvTranspose2d(4, 2, 2, dilation=2), IMAGES),
    "max-pool": (lambda nn: nn.MaxPool2d(2), IMAGES),
    "max-pool-options": (lambda nn: nn.MaxPool2d((3, 2), 2, 1, (1, 2), ceil_mode=True), IMAGES),
    "max-pool-sequences": (lambda nn: nn.MaxPool2d([2], (), (1,), [1]), IMAGES),
    "avg-pool-sequences": (lambda nn: nn.AvgPool2d((3,), [], [1]), IMAGES),
    "avg-pool": (lambda nn: nn.AvgPool2d(2), IMAGES),
    "avg-pool-options": (lambda nn: nn.AvgPool2d(3, 2, 1, True, False), IMAGES),
    "avg-pool-divisor": (lambda nn: nn.AvgPool2d((3, 2), divisor_override=5), IMAGES),
    "adaptive": (lambda nn: nn.AdaptiveAvgPool2d((3, None)), IMAGES),
    "global": (lambda nn: nn.AdaptiveAvgPool2d(1), IMAGES),
    "adaptive-max": (lambda nn: nn.AdaptiveMaxPool2d((4, None)), IMAGES),
    "upsample": (lambda nn: nn.Upsample(scale_factor=2), IMAGES),
    "upsample-size": (lambda nn: nn.Upsample((9, 4)), IMAGES),
    "upsample-bilinear": (lambda nn: nn.Upsample(None, (2, 0.7), "bilinear"), IMAGES),
    "upsample-corners": (lambda nn: nn.Upsample(7, mode="bilinear", align_corners=True), IMAGES),
    "batch-norm-1d": (lambda nn: nn.BatchNorm1d(4), (6, 4)),
    "batch-norm-1d-length": (lambda nn: nn.BatchNorm1d(4, eps=1e-3), (3, 4, 5)),
    "batch-norm-2d": (lambda nn: nn.BatchNorm2d(4), IMAGES),
    "batch-norm-plain": (lambda nn: nn.BatchNorm2d(4, 1e-5, 0.1, False), IMAGES),
    "batch-norm-untracked": (lambda nn: nn.BatchNorm2d(4, 1e-5, 0.1, True, False), IMAGES),
    "layer-norm": (lambda nn: nn.LayerNorm(5), (3, 4, 5)),
    "layer-norm-options": (lambda nn: nn.LayerNorm((4, 5), 1e-3, bias=False), (3, 4, 5)),
    "layer-norm-plain": (lambda nn: nn.LayerNorm([5], elementwise_affine=False), (3, 4, 5)),
    "group-norm": (lambda nn: nn.GroupNorm(2, 4), IMAGES),
    "group-norm-plain": (lambda nn: nn.GroupNorm(1, 4, 1e-3, False), (3, 4)),
    "relu": (lambda nn: nn.ReLU(), IMAGES),
    "leaky-relu": (lambda nn: nn.LeakyReLU(0.2), IMAGES),
    "sigmoid": (lambda nn: nn.Sigmoid(), IMAGES),
    "tanh": (lambda nn: nn.Tanh(), IMAGES),
    "gelu": (lambda nn: nn.GELU(), IMAGES),
    "gelu-tanh": (lambda nn: nn.GELU("tanh"), IMAGES),
    "silu": (lambda nn: nn.SiLU(), IMAGES),
    "softplus": (lambda nn: nn.Softplus(), IMAGES),
    "softplus-options": (lambda nn: nn.Softplus(2.0, 3.0), IMAGES),
    "softmax": (lambda nn: nn.Softmax(-1), (3, 5)),
    "softmax-channels": (lambda nn: nn.Softmax(dim=1), IMAGES),
    "log-softmax": (lambda nn: nn.LogSoftmax(dim=1), IMAGES),
    "flatten": (lambda nn: nn.Flatten(), IMAGES),
    "flatten-some": (lambda nn: nn.Flatten(-3, 2), IMAGES),
    "identity": (lambda nn: nn.Identity(), IMAGES),
    "dropout-none": (lambda nn: nn.Dropout(0.0), IMAGES),
    "sequential": (lambda nn: nn.Sequential(
        nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Sequential(nn.MaxPool2d(2), nn.Flatten()),
        nn.Linear(6, 2)), IMAGES),
}

# What torch has under another name or not at all.
MORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dropout": (lambda: nn.Dropout(0.4), (3, 5)),
    "residual": (lambda: nn.Residual(nn.Sequential(nn.Linear(4, 4), nn.Tanh())), (3, 4)),
    "residual-shortcut": (lambda: nn.Residual(nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(4, 2, 1)), IMAGES),
}


def values(shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    """Numbers that all differ, so that pooling has one maximum, and none of which lies near a kink."""
    rng = random.generator(seed, "values")
    n = int(np.prod(shape))
    return ((rng.permutation(n) - n / 2 + 0.25) * (6 / n)).reshape(shape).astype(dtype)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_as_torch(name: str, training: bool, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    theirs = make(torch.nn).to(getattr(torch, np.dtype(dtype).name)).train(training)
    layer = make(nn).to(dtype)

    state = theirs.state_dict()
    assert list(layer.state_dict()) == list(state)
    assert [name for name, _ in layer.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert [name for name, _ in layer.named_modules()] == [name for name, _ in theirs.named_modules()]
    layer.load_state_dict(state)

    x = values(shape, dtype)
    x.flags.writeable = False
    tensor = torch.tensor(x, requires_grad=True)
    expected = theirs(tensor)
    grad_y = values(tuple(expected.shape), dtype, seed=1)
    grad_y.flags.writeable = False
    expected.backward(torch.tensor(grad_y))

    y, backward = layer.forward(x, training=training)
    assert y.dtype == dtype
    assert_close(y, expected.detach().numpy(), dtype=dtype)
    assert_close(backward(grad_y), tensor.grad.numpy(), dtype=dtype, gradient=True, factor=4)
    for (name, parameter), other in zip(layer.named_parameters(), theirs.parameters()):
        assert_close(parameter.grad, other.grad.numpy(), dtype=dtype, gradient=True, factor=4, what=name)
    for name, array in layer.state_dict().items():
        assert_close(array, theirs.state_dict()[name].numpy(), what=name)
    if not training:
        np.testing.assert_array_equal(layer(x), y)


@pytest.mark.parametrize("name", [*LAYERS, *MORE])
def test_gradients(name: str) -> None:
    make, shape = MORE[name] if name in MORE else (lambda: LAYERS[name][0](nn), LAYERS[name][1])
    for check in check_gradients(make().to(np.float64), values(shape)):
        assert check.error <= 1e-7, check


@pytest.mark.parametrize("name", [*LAYERS, *MORE])
def test_a_gradient_of_another_shape_is_refused(name: str) -> None:
    make, shape = MORE[name] if name in MORE else (lambda: LAYERS[name][0](nn), LAYERS[name][1])
    layer = make().to(np.float64)
    for change in (lambda y: y[1:], lambda y: np.stack([y, y])):
        y, backward = layer.forward(values(shape))
        with pytest.raises(ValueError, match="expected"):
            backward(change(y))


class Inference(nn.Module):
    """A layer as it is in inference, whatever is asked for."""

    def __init__(self, inner: nn.Module) -> None:
        self.inner = inner

    def forward(self, x: np.ndarray, *, training: bool = True) -> tuple[np.ndarray, nn.Backward]:
        return self.inner.forward(x, training=False)


@pytest.mark.parametrize("tracked", [True, False])
def test_gradients_of_batch_norm_in_inference(tracked: bool) -> None:
    layer = nn.BatchNorm1d(3, track_running_stats=tracked, dtype=np.float64)
    layer.forward(values((5, 3), seed=1) + 1)
    for check in check_gradients(Inference(layer), values((5, 3))):
        assert check.error <= 1e-7, check


@pytest.mark.parametrize("name", [*LAYERS, *MORE])
def test_keeps_nothing(name: str) -> None:
    make, shape = MORE[name] if name in MORE else (lambda: LAYERS[name][0](nn), LAYERS[name][1])
    layer = make()
    before = pickle.dumps(layer)
    layer.forward(values(shape, np.float32), training=False)
    layer(values(shape, np.float32))
    assert pickle.dumps(layer) == before


@pytest.mark.parametrize("name", [*LAYERS, *MORE])
def test_gradient_by_input_on_request(name: str) -> None:
    make, shape = MORE[name] if name in MORE else (lambda: LAYERS[name][0](nn), LAYERS[name][1])
    layer = make()
    x = values(shape, np.float32)
    grads = []
    for wanted in (True, False):
        layer.zero_grad()
        with random.at_step(0, 0):
            y, backward = layer.forward(x)
        grad_x = backward(np.ones_like(y), input_grad=wanted)
        assert (grad_x is not None) == wanted
        grads.append([parameter.grad for parameter in layer.parameters()])
        with pytest.raises(RuntimeError, match="called before"):
            backward(np.ones_like(y))
    for grad, without in zip(*grads):
        np.testing.assert_array_equal(grad, without)


@pytest.mark.parametrize("name", [name for name, (make, _) in LAYERS.items() if list(make(nn).parameters())])
@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_parameters_get_no_gradient(name: str, frozen: int) -> None:
    make, shape = LAYERS[name]
    layer = make(nn)
    x = values(shape, np.float32)
    results = []
    for freeze in (False, True):
        layer.zero_grad()
        for i, parameter in enumerate(layer.parameters()):
            parameter.requires_grad = not (freeze and i % 2 == frozen)
        y, backward = layer.forward(x)
        results.append((backward(np.ones_like(y)), [parameter.grad for parameter in layer.parameters()]))
    (grad_x, grads), (grad_x_frozen, some) = results
    np.testing.assert_array_equal(grad_x, grad_x_frozen)
    for i, (grad, other) in enumerate(zip(grads, some)):
        if i % 2 == frozen:
            assert other is None
        else:
            np.testing.assert_array_equal(grad, other)


def test_max_pool_makes_indices_for_backward_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    pool = kernels.max_pool2d

    def spy(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["return_indices"])
        return pool(*args, **kwargs)

    monkeypatch.setattr(kernels, "max_pool2d", spy)
    layer = nn.MaxPool2d(2)
    x = values(IMAGES, np.float32)
    np.testing.assert_array_equal(layer(x), layer.forward(x, training=False)[0])
    assert asked == [False, True]


@pytest.mark.parametrize("name", ["linear", "linear-3d", "conv", "transpose", "max-pool", "avg-pool", "adaptive",
                                  "adaptive-max", "upsample", "upsample-bilinear", "relu", "silu", "softmax", "flatten",
                                  "sequential"])
def test_empty_batch(name: str) -> None:
    make, shape = LAYERS[name]
    layer = make(nn)
    x = np.empty((0, *shape[1:]), np.float32)
    y, backward = layer.forward(x, training=False)
    assert y.shape == (0, *layer(values(shape, np.float32)).shape[1:])
    assert backward(np.empty_like(y)).shape == x.shape


def test_options_may_be_sequences_of_one() -> None:
    layer = nn.ConvTranspose2d(2, 3, (3,), [2], (1,), np.array([1]), dilation=(1,))
    assert layer.weight.data.shape == (2, 3, 3, 3)
    assert layer(np.ones((1, 2, 4, 5), np.float32)).shape == (1, 3, 8, 10)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: nn.Linear(0, 1), "in_features: expected at least 1, got 0"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups: expected a divisor of the 3 input and 4 output channels, got 2"),
    (lambda: nn.Conv2d(3, 4, 0), "kernel_size: expected at least 1"),
    (lambda: nn.Conv2d(3, 4, 3, padding="full"), "padding: expected an integer, a pair, 'valid' or 'same', got 'full'"),
    (lambda: nn.Conv2d(3, 4, 3, padding=-1), "padding: expected at least 0"),
    (lambda: nn.ConvTranspose2d(4, 3, 3, groups=2), "groups: expected a divisor of the 4 input and 3 output channels"),
    (lambda: nn.BatchNorm2d(3, momentum=2.0), "momentum: expected a number from 0 to 1, got 2"),
    (lambda: nn.MaxPool2d(0), "kernel_size: expected at least 1"),
    (lambda: nn.MaxPool2d(2, dilation=0), "dilation: expected at least 1"),
    (lambda: nn.AvgPool2d(2, stride=(1, 2, 3)), "stride: expected an integer or a pair of them"),
    (lambda: nn.AvgPool2d(2, divisor_override=0), "divisor_override: expected at least 1"),
    (lambda: nn.AdaptiveAvgPool2d((1, 2, 3)), "output_size: expected an integer or a pair"),
    (lambda: nn.AdaptiveAvgPool2d((None, -1)), "output_size: expected at least 0"),
    (lambda: nn.GELU("erf"), "approximate: expected 'none' or 'tanh', got 'erf'"),
    (lambda: nn.Softplus(0), "beta: expected a number from 1e-30 to 1e30, or the negative of one, got 0.0"),
    (lambda: nn.Upsample(), "size: expected either size or scale_factor, got neither"),
    (lambda: nn.Upsample(2, 2), "size: expected either size or scale_factor, got both"),
    (lambda: nn.Upsample(scale_factor=-1), "scale_factor: expected finite numbers above 0, got -1"),
    (lambda: nn.Upsample(2, mode="linear"), "mode: expected one of 'nearest', 'bilinear', got 'linear'"),
    (lambda: nn.Upsample(2, align_corners=True), "align_corners: expected False for mode 'nearest'"),
    (lambda: nn.Dropout(1.5), "p: expected a number from 0 to 1, got 1.5"),
    (lambda: nn.Linear(4, 5)(np.ones((2, 3), np.float32)), r"x: expected 4 features along the last axis, got shape"),
    (lambda: nn.BatchNorm2d(3)(np.ones((2, 4, 5, 5), np.float32)), r"x: expected 3 channels, got shape \(2, .* 5\)$"),
    (lambda: nn.BatchNorm2d(3)(np.ones((2, 4, 5, 3), np.float32)), r"x: expected 3 channels.* like N x H x W x C"),
    (lambda: nn.BatchNorm1d(3)(np.ones((2, 4, 3), np.float32)), r"x: expected 3 channels.* looks like N x L x C"),
    (lambda: nn.Conv2d(3, 4, 3)(np.ones((2, 8, 8, 3), np.float32)), r"give numpy.moveaxis\(x, -1, 1\)"),
    (lambda: nn.Conv2d(1, 4, 3)(np.ones((2, 8, 8, 1), np.float32)), r"give numpy.moveaxis\(x, -1, 1\)"),
    (lambda: nn.ConvTranspose2d(3, 4, 3)(np.ones((2, 8, 8, 3), np.float32)), r"give numpy.moveaxis\(x, -1, 1\)"),
    (lambda: nn.MaxPool2d(4)(np.ones((2, 8, 8, 3), np.float32)), r"give numpy.moveaxis\(x, -1, 1\)"),
    (lambda: nn.Linear(1 << 31, 1 << 30), "in_features: expected a result of at most .* elements"),
    (lambda: nn.Conv2d(3, 4, 1 << 31), "kernel_size: expected a result of at most .* elements"),
    (lambda: nn.ConvTranspose2d(1 << 30, 1 << 31, 3), "out_channels: expected a result of at most .* elements"),
    (lambda: nn.Conv2d(3, 4, 3, padding=1 << 31)(np.ones((2, 3, 8, 8), np.float32)), "padding: expected a result of"),
    (lambda: nn.BatchNorm2d(3)(np.ones((2, 3), np.float32)), r"x: expected 4 dimensions \(N, C, H, W\)"),
    (lambda: nn.BatchNorm1d(3)(np.ones((2, 3, 5, 5), np.float32)), "x: expected 2 or 3 dimensions"),
    (lambda: nn.BatchNorm1d(3).forward(np.ones((1, 3), np.float32)), "x: expected more than one value a channel"),
    (lambda: nn.Flatten(2)(np.ones((2, 3))), r"x: expected axes from 2 to -1, got shape \(2, 3\)"),
    (lambda: nn.Flatten(1, 0)(np.ones((2, 3))), "x: expected axes from 1 to 0"),
])
def test_wrong_values(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: nn.Linear(4, 5, dtype=np.int64), "expected a NumPy or CuPy array of float32 or float64, got int64"),
    (lambda: nn.Linear(4, 5)(np.ones((2, 4))), "expected float64 as x has, got float32"),
    (lambda: nn.Linear(4, 5)([[1.0]]), "x: expected an array, got list"),
    (lambda: nn.AvgPool2d(2)([[1.0]]), "x: expected an array, got list"),
    (lambda: nn.Conv2d(2.5, 4, 3), "in_channels: expected an integer, got 2.5"),
    (lambda: nn.AdaptiveMaxPool2d("3"), "output_size: expected an integer, got '3'"),
])
def test_wrong_types(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_backward_never_writes_what_it_is_given() -> None:
    for make, shape in [*LAYERS.values(), *MORE.values()]:
        layer = make(nn) if (make, shape) in LAYERS.values() else make()
        x = values(shape, np.float32)
        y, backward = layer.forward(x)
        grad_y = np.ones_like(y)
        backward(grad_y)
        np.testing.assert_array_equal(grad_y, 1)
        np.testing.assert_array_equal(x, values(shape, np.float32))


def test_inference_keeps_transformed_filters_until_they_change() -> None:
    layer = nn.Conv2d(32, 32, 3, padding=1)
    size = len(pickle.dumps(layer))
    x = np.random.default_rng(0).standard_normal((1, 32, 8, 8)).astype(np.float32)
    first = layer(x)
    kept = layer._kept.last
    assert kept is not None
    assert layer(x).tobytes() == first.tobytes()
    assert layer._kept.last is kept
    assert len(pickle.dumps(layer)) == size             # what is kept fits this machine alone
    layer.weight.data[0, 0, 1, 1] += 1
    changed, _ = layer.forward(x)                       # in training, where nothing is kept
    assert layer._kept.last is None
    assert layer(x).tobytes() == changed.tobytes() != first.tobytes()
