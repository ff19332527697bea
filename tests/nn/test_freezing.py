"""Frozen models: the same results as the model, which shares nothing with them."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import _device, nn, random
from fastnn.nn.freezing import Frozen

IMAGES = (2, 4, 6, 6)


def randomized(model: nn.Module, dtype: Any = np.float64) -> nn.Module:
    """The model with random parameters and running statistics."""
    rng = random.generator(0, "freezing")
    model.to(dtype)
    for parameter in model.parameters():
        parameter.data[...] = rng.standard_normal(parameter.data.shape)
    for _, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.track_running_stats:
            layer.running_mean[...] = rng.standard_normal(layer.num_features)
            layer.running_var[...] = rng.uniform(0.1, 2, layer.num_features)
    return model


def draw(shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
    return random.generator(1, "freezing").standard_normal(shape).astype(dtype)


def norms(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for _, layer in model.named_modules())


class Net(nn.Module):
    """A forward of its own, which uses a layer twice, a list, and another module."""

    def __init__(self) -> None:
        self.stem = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.features = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.blocks = [nn.Residual(self.features), self.features]
        self.scale = nn.Parameter(np.ones(1))

    def forward(self, x: Any, *, training: bool = True) -> tuple[Any, nn.Backward]:
        x, _ = self.norm.forward(self.stem.forward(x, training=training)[0], training=training)
        for block in self.blocks:
            x, _ = block.forward(x, training=training)
        return x * self.scale.data, lambda grad, *, input_grad=True: None


class Block(nn.Composed):
    def __init__(self) -> None:
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def composed(self) -> nn.Module:
        return nn.Residual(nn.Sequential(self.conv, self.bn, nn.ReLU()))


class Twice(nn.ReLU):
    """A known layer with a forward of its own."""

    def forward(self, x: Any, *, training: bool = True) -> tuple[Any, nn.Backward]:
        y, backward = super().forward(x, training=training)
        return 2 * y, backward


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 8, 3, **options)


# How to make it, the shape of an input, and how many batch normalizations are left.
MODELS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "convolution": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU()), IMAGES, 0),
    "without ReLU": (lambda: nn.Sequential(conv(bias=False), nn.BatchNorm2d(8)), IMAGES, 0),
    "strided, in groups": (lambda: nn.Sequential(conv(stride=2, padding=1, groups=2), nn.BatchNorm2d(8)), IMAGES, 0),
    "depthwise": (lambda: nn.Sequential(conv(groups=4, dilation=2), nn.BatchNorm2d(8), nn.ReLU()), IMAGES, 0),
    "without scale": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8, affine=False), nn.ReLU()), IMAGES, 0),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6), nn.ReLU()),
                   IMAGES, 0),
    "linear": (lambda: nn.Sequential(nn.Linear(5, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 3)), (4, 5), 0),
    "twice": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.BatchNorm2d(8)), IMAGES, 0),
    "nested": (lambda: nn.Sequential(nn.Sequential(nn.Sequential(conv()), nn.Identity()),
                                     nn.Sequential(nn.BatchNorm2d(8), nn.Dropout()), nn.ReLU()), IMAGES, 0),
    "residual": (lambda: nn.Residual(nn.Sequential(conv(padding=1), nn.BatchNorm2d(8), nn.ReLU()),
                                     nn.Sequential(conv(padding=1), nn.BatchNorm2d(8))), IMAGES, 0),
    "identity": (lambda: nn.Sequential(nn.Identity(), nn.Dropout(0.5)), IMAGES, 0),
    "composed": (lambda: nn.Sequential(Block(), Block()), IMAGES, 0),
    "one layer": (lambda: conv(), IMAGES, 0),
    "one norm": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), conv()), IMAGES, 1),
    "ReLU between": (lambda: nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(8)), IMAGES, 1),
    "after max pooling": (lambda: nn.Sequential(conv(), nn.MaxPool2d(2), nn.BatchNorm2d(8, affine=False)), IMAGES, 0),
    "after max pooling, some turned round": (lambda: nn.Sequential(conv(), nn.MaxPool2d(2), nn.BatchNorm2d(8)), IMAGES,
                                             1),
    "statistics of the batch": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8, track_running_stats=False)), IMAGES,
                                1),
    "along an axis": (lambda: nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(5), nn.ReLU()), (3, 5, 6), 1),
    "a forward of its own": (lambda: nn.Sequential(conv(), Twice()), IMAGES, 0),
    "Net": (Net, IMAGES, 1),
    "Net inside": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), Net(), nn.ReLU()), IMAGES, 1),
    "other layers": (lambda: nn.Sequential(
        conv(padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.GELU(), nn.AvgPool2d(2, 1), nn.Tanh(),
        nn.AdaptiveAvgPool2d(2), nn.Sigmoid(), nn.Flatten(), nn.Linear(32, 3), nn.Softmax(), nn.LogSoftmax()),
        IMAGES, 0),
    "and others": (lambda: nn.Sequential(conv(), nn.GroupNorm(2, 8), nn.SiLU(), nn.Upsample(scale_factor=2),
                                         nn.Softplus(), nn.AdaptiveMaxPool2d(3), nn.LayerNorm(3)), IMAGES, 0),
    "attention": (lambda: nn.Sequential(nn.LayerNorm(6), nn.MultiheadAttention(6, 2), nn.Linear(6, 3)), (3, 5, 6), 0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MODELS)
def test_it_gives_the_same(name: str, dtype: Any) -> None:
    make, shape, left = MODELS[name]
    model, x = randomized(make(), dtype), draw(shape, dtype)
    before, expected = model.state_dict(), model(x)
    frozen = fastnn.freeze(model)
    assert norms(frozen) == left
    rtol = 1e-4 if dtype == np.float32 else 1e-11
    for given in (x, x, np.asfortranarray(x), x[:1], x):
        y = frozen(given)
        np.testing.assert_allclose(y, expected[: len(given)] if name != "statistics of the batch" else model(given),
                                   rtol=rtol, atol=rtol * np.abs(expected).max())
        assert y.dtype == dtype
        if name != "statistics of the batch":
            np.testing.assert_array_equal(y, frozen(x)[: len(given)])       # the bits, in any batch
    after = model.state_dict()
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", MODELS)
def test_it_shares_nothing_with_the_model(name: str) -> None:
    make, shape, _ = MODELS[name]
    model, x = randomized(make()), draw(shape)
    frozen = fastnn.freeze(model)
    expected = frozen(x)
    for array in (*(parameter.data for parameter in model.parameters()), *(
            array for _, layer in model.named_modules() for _, array in layer._own_buffers())):
        array[...] = 7
    np.testing.assert_array_equal(frozen(x), expected)
    assert not {id(layer) for _, layer in model.named_modules()} & {id(layer) for _, layer in frozen.named_modules()}
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("make", [lambda: MODELS["convolution"][0](), Net])
def test_it_is_for_inference_alone(make: Any) -> None:
    frozen, x = fastnn.freeze(randomized(make())), draw(IMAGES)
    for options in ({}, {"training": True}):
        with pytest.raises(RuntimeError, match="training: expected False, as a frozen model is for inference"):
            frozen.forward(x, **options)
    y, backward = frozen.forward(x, training=False)
    np.testing.assert_array_equal(y, frozen(x))
    with pytest.raises(RuntimeError, match="backward was called on a frozen model"):
        backward(y, input_grad=False)
    with pytest.raises(RuntimeError, match="a frozen model takes no other weights"):
        frozen.load_state_dict(frozen.state_dict())


def test_its_weights_are_read_only() -> None:
    frozen = fastnn.freeze(randomized(MODELS["linear"][0]()))
    for _, parameter in frozen.named_parameters():
        with pytest.raises(ValueError, match="read-only"):
            parameter.data[...] = 0


def test_layers_are_few() -> None:
    frozen = fastnn.freeze(MODELS["nested"][0]())
    assert [type(layer).__name__ for layer in frozen.model] == ["Conv2d", "ReLU"]
    again = fastnn.freeze(frozen)
    assert [type(layer).__name__ for layer in again.model] == ["Conv2d", "ReLU"]


def test_containers_in_other_modules_are_frozen_once() -> None:
    model = Net()
    frozen = fastnn.freeze(model).model
    assert type(frozen) is Net
    assert isinstance(frozen.features, Frozen)
    assert frozen.blocks[1] is frozen.features
    assert isinstance(frozen.stem, nn.Conv2d)
    assert type(model.features) is nn.Sequential


def test_copies_pickles_and_moves_are_as_it_was() -> None:
    model, x = randomized(MODELS["residual"][0](), np.float32), draw(IMAGES, np.float32)
    frozen = fastnn.freeze(model)
    expected = frozen(x)
    for other in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):       # noqa: S301
        for _ in range(2):
            np.testing.assert_array_equal(other(x), expected)
        assert not any(parameter.data.flags.writeable for parameter in other.parameters())
    with pytest.raises(TypeError, match="float64"):
        frozen(x.astype(np.float64))
    frozen.to(np.float64)
    np.testing.assert_allclose(frozen(x.astype(np.float64)), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(frozen.to(np.float32)(x), expected)


def test_batch_norm_over_another_axis_is_not_taken_for_that_of_the_features() -> None:
    model = randomized(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)))
    frozen = fastnn.freeze(model)
    np.testing.assert_allclose(frozen(draw((3, 6))), model(draw((3, 6))), rtol=1e-11)
    with pytest.raises(ValueError, match=r"^x: expected shape \(N, 6\), as batch normalization became part of"):
        frozen(draw((3, 5, 6)))


@pytest.mark.parametrize("poison", ["weight", "scale", "variance"])
def test_nothing_is_folded_that_is_not_finite(poison: str) -> None:
    model = randomized(nn.Sequential(conv(), nn.BatchNorm2d(8)), np.float32)
    if poison == "weight":
        model[0].weight.data[0, 0, 0, 0] = np.nan
    elif poison == "scale":
        model[1].weight.data[0] = 1e38
        model[0].weight.data[0] = 100
    else:
        model[1].running_var[0] = -1
    with np.errstate(all="ignore"):
        frozen = fastnn.freeze(model)
        np.testing.assert_array_equal(frozen(draw(IMAGES, np.float32)), model(draw(IMAGES, np.float32)))
    assert norms(frozen) == 1


def test_what_is_not_finite_goes_through() -> None:
    model, x = randomized(MODELS["convolution"][0]()), draw(IMAGES)
    x[0, 0, 0, 0], x[1, 2, 3, 3] = np.nan, np.inf
    np.testing.assert_allclose(fastnn.freeze(model)(x), model(x), rtol=1e-11)


def test_wrong_inputs_are_reported_as_by_the_model() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    frozen = fastnn.freeze(model)
    for x in (draw((1, 3, 6, 6), np.float32), draw((1, 4, 7, 7), np.float32), draw(IMAGES), draw((4,), np.float32)):
        with pytest.raises((TypeError, ValueError)) as expected:
            model(x)
        with pytest.raises(type(expected.value)) as found:
            frozen(x)
        assert str(found.value) == str(expected.value)
        assert "in layer" in found.value.__notes__[0]
    with pytest.raises(TypeError, match="model: expected a Module, got int"):
        fastnn.freeze(3)


def test_targets_and_many_shapes() -> None:
    model = randomized(nn.Sequential(conv(padding=1), nn.BatchNorm2d(8), nn.ReLU()))
    frozen = fastnn.freeze(model)
    for size in range(1, 80):
        x = draw((1, 4, size, 1))
        np.testing.assert_allclose(frozen(x), model(x), rtol=1e-10, atol=1e-10)
    assert len(frozen._programs) < 70
    x = draw((1, 4, 2, 2))
    for target in ("naive", "cpu"):
        with fastnn.use_target(target):
            np.testing.assert_allclose(frozen(x), model(x), rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(frozen(x), model(x), rtol=1e-10, atol=1e-10)


def test_what_it_knows_runs_without_checks() -> None:
    """Every layer becomes a kernel's plan, and none looks for it again."""
    model, x = randomized(MODELS["other layers"][0]()), draw(IMAGES)
    frozen = fastnn.freeze(model)
    expected = frozen(x)
    for _, layer in frozen.named_modules():
        layer.forward = None
    np.testing.assert_array_equal(frozen(x), expected)


def test_results_are_new_each_time() -> None:
    frozen, x = fastnn.freeze(randomized(MODELS["residual"][0]())), draw(IMAGES)
    frozen(x)
    first, second = frozen(x), frozen(-x)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, frozen(x))


@pytest.mark.usefixtures("restless_threads")
def test_threads_may_share_it() -> None:
    model, inputs = randomized(MODELS["residual"][0]()), [draw((n, *IMAGES[1:])) for n in (1, 2, 3, 4)]
    expected = [fastnn.freeze(model)(x) for x in inputs]
    frozen, wrong = fastnn.freeze(model), []

    def call(start: int) -> None:
        for i in range(start, start + 40):
            if not np.array_equal(frozen(inputs[i % 4]), expected[i % 4]):
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["convolution", "transposed", "linear", "residual", "composed", "Net", "one norm"])
def test_on_a_gpu(name: str) -> None:
    make, shape, left = MODELS[name]
    shape = (1, *shape[1:2], *[min(size, 4) for size in shape[2:]])
    model, x = randomized(make()), draw(shape)
    expected = model(x)
    moved = fastnn.freeze(model).to("cuda")
    np.testing.assert_allclose(fastnn.to_host(moved(fastnn.to_device(x))), expected, rtol=1e-10, atol=1e-10)
    frozen = fastnn.freeze(model.to("cuda"))                    # where the model lies
    assert norms(frozen) == left
    assert all(map(_device.is_device, (parameter.data for parameter in frozen.parameters())))
    np.testing.assert_allclose(fastnn.to_host(frozen(fastnn.to_device(x))), expected, rtol=1e-10, atol=1e-10)
