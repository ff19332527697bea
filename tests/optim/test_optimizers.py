"""Optimizers against torch's over several steps, and their groups, states and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnn import nn, optim, random
from fastnn.testing import assert_close

SHAPES = ((3, 4), (5,), ())

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-decay": ("SGD", {"lr": 0.1, "weight_decay": 0.3}),
    "sgd-momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "sgd-nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "rmsprop": ("RMSProp", {}),
    "rmsprop-options": ("RMSProp", {"lr": 0.1, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.8}),
    "adam": ("Adam", {}),
    "adam-options": ("Adam", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "adamw": ("AdamW", {}),
    "adamw-options": ("AdamW", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}),
}
OURS: dict[str, Callable[..., optim.Optimizer]] = {
    "SGD": optim.SGD, "RMSProp": optim.RMSProp, "Adam": optim.Adam, "AdamW": optim.AdamW}


def parameters(dtype: Any = np.float64) -> list[nn.Parameter]:
    rng = random.generator(0, "parameters")
    return [nn.Parameter(np.asarray(rng.standard_normal(shape), dtype)) for shape in SHAPES]


def gradients(step: int, dtype: Any = np.float64) -> list[np.ndarray]:
    rng = random.generator(0, "gradients", step)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES]


def steps(optimizer: optim.Optimizer, params: list[nn.Parameter], numbers: range, factor: float = 1.0) -> None:
    for number in numbers:
        for parameter, grad in zip(params, gradients(number, params[0].data.dtype)):
            parameter.grad = grad
        optimizer.step(factor)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_as_torch(name: str, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    kind, options = CASES[name]
    params = parameters(dtype)
    tensors = [torch.tensor(parameter.data, requires_grad=True) for parameter in params]
    ours = OURS[kind](params, **options)
    theirs = getattr(torch.optim, {"RMSProp": "RMSprop"}.get(kind, kind))(tensors, **options)
    for step in range(6):
        if step == 4:      # rates may be changed between steps
            ours.param_groups[0]["lr"] *= 0.5
            theirs.param_groups[0]["lr"] *= 0.5
        for tensor, grad in zip(tensors, gradients(step, dtype)):
            tensor.grad = torch.tensor(grad)
        steps(ours, params, range(step, step + 1))
        theirs.step()
        for parameter, tensor in zip(params, tensors):
            assert_close(parameter.data, tensor.detach().numpy(), what=f"step {step}")
    for place, tensor in enumerate(tensors):
        for key, value in theirs.state[tensor].items():
            if value is not None and (kind, key) != ("RMSProp", "step"):      # which its rule does not use
                expected = np.asarray(value, np.int64 if key == "step" else dtype)
                assert_close(ours.state_dict()[f"{place}.{key}"], expected, what=key)


@pytest.mark.peers
def test_groups_as_torch() -> None:
    torch = pytest.importorskip("torch")
    params = parameters()
    tensors = [torch.tensor(parameter.data, requires_grad=True) for parameter in params]
    ours = optim.SGD([{"params": params[:2], "lr": 0.5, "momentum": 0.0}, {"params": params[2:], "weight_decay": 0.2}],
                     lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD([{"params": tensors[:2], "lr": 0.5, "momentum": 0.0},
                              {"params": tensors[2:], "weight_decay": 0.2}], lr=0.1, momentum=0.9)
    for step in range(3):
        for tensor, grad in zip(tensors, gradients(step)):
            tensor.grad = torch.tensor(grad)
        steps(ours, params, range(step, step + 1))
        theirs.step()
    for parameter, tensor in zip(params, tensors):
        assert_close(parameter.data, tensor.detach().numpy())


@pytest.mark.parametrize("name", CASES)
def test_factor_scales_the_rate_of_each_group(name: str) -> None:
    kind, options = CASES[name]
    params, others = parameters(), parameters()
    lr = options.get("lr", 0.01)
    options = {**options, "lr": lr}
    steps(OURS[kind]([{"params": params[:1], "lr": 2 * lr}, {"params": params[1:]}], **options), params, range(3), 0.25)
    steps(OURS[kind]([{"params": others[:1], "lr": lr / 2}, {"params": others[1:]}], **{**options, "lr": lr / 4}),
          others, range(3))
    for parameter, other in zip(params, others):
        np.testing.assert_array_equal(parameter.data, other.data)


@pytest.mark.parametrize("name", CASES)
def test_goes_on_from_a_state_to_the_bit(name: str) -> None:
    kind, options = CASES[name]
    params = parameters(np.float32)
    optimizer = OURS[kind](params, **options)
    steps(optimizer, params, range(3))
    state = optimizer.state_dict()
    others = [nn.Parameter(parameter.data.copy()) for parameter in params]
    other = OURS[kind](others, **options)
    other.load_state_dict(state)
    for array in state.values():
        array[...] = 0                  # copies went in and out
    steps(optimizer, params, range(3, 6))
    steps(other, others, range(3, 6))
    for parameter, again in zip(params, others):
        np.testing.assert_array_equal(parameter.data, again.data)
    assert other.state_dict().keys() == optimizer.state_dict().keys()


@pytest.mark.parametrize("kind", ["SGD", "RMSProp"])
def test_momentum_may_be_changed_between_steps(kind: str) -> None:
    params = parameters()
    optimizer = OURS[kind](params, lr=0.1)
    for step, momentum in enumerate((0.0, 0.9, 0.9, 0.0)):
        optimizer.param_groups[0]["momentum"] = momentum
        steps(optimizer, params, range(step, step + 1))
        state = optimizer.state_dict()
        assert ("0.momentum_buffer" in state) == (momentum > 0)
        optimizer.load_state_dict(state)
    plain = parameters()
    other = OURS[kind](plain, lr=0.1)
    steps(other, plain, range(1))
    other.param_groups[0]["momentum"] = 0.9             # its buffer starts at 0: the first step is one without
    steps(other, plain, range(1, 2))
    without = parameters()
    steps(OURS[kind](without, lr=0.1), without, range(2))
    for parameter, expected in zip(plain, without):
        np.testing.assert_array_equal(parameter.data, expected.data)


def test_state_is_flat_and_counts_in_int64() -> None:
    params = parameters()
    optimizer = optim.Adam(params)
    assert optimizer.state_dict() == {}
    steps(optimizer, params, range(2))
    state = optimizer.state_dict()
    assert sorted(state) == sorted(f"{i}.{name}" for i in range(3) for name in ("step", "exp_avg", "exp_avg_sq"))
    assert state["0.step"].dtype == np.int64
    assert state["0.step"].shape == ()
    assert int(state["0.step"]) == 2


def test_passes_over_frozen_parameters_and_those_without_gradient() -> None:
    params = parameters()
    params[0].requires_grad = False
    optimizer = optim.AdamW(params)
    for parameter, grad in zip(params[:2], gradients(0)):
        parameter.grad = grad
    optimizer.step()
    first, second, third = parameters()
    np.testing.assert_array_equal(params[0].data, first.data)
    assert (params[1].data != second.data).all()
    np.testing.assert_array_equal(params[2].data, third.data)
    assert {name.split(".")[0] for name in optimizer.state_dict()} == {"1"}

    other = optim.AdamW(parameters())
    other.load_state_dict(optimizer.state_dict())
    assert other.state_dict().keys() == optimizer.state_dict().keys()
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in params)


def test_load_state_dict_checks_before_it_writes() -> None:
    params = parameters()
    optimizer = optim.Adam(params)
    steps(optimizer, params, range(1))
    before = optimizer.state_dict()
    wrong = optimizer.state_dict()
    wrong["0.exp_avg"] = wrong["0.exp_avg"].T
    wrong["3.exp_avg"] = wrong.pop("1.exp_avg_sq")
    with pytest.raises(ValueError, match="state does not fit Adam") as error:
        optimizer.load_state_dict(wrong)
    for part in ("missing: 1.exp_avg_sq", "unexpected: 3.exp_avg",
                 "mismatched: 0.exp_avg (expected float64 of shape (3, 4), got float64 of shape (4, 3))"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"unexpected: 0\.momentum_buffer"):
        optimizer.load_state_dict({"0.momentum_buffer": np.zeros((3, 4))})
    for name, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_parameter_groups() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    decay, rest = optim.parameter_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(p)] for p in decay["params"]] == ["0.weight", "3.weight"]
    assert [names[id(p)] for p in rest["params"]] == ["0.bias", "1.weight", "1.bias", "3.bias"]
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    optimizer = optim.SGD(optim.parameter_groups(nn.BatchNorm1d(2), 0.1), lr=0.1)
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, 2]


def test_learns() -> None:
    """Least squares have one minimum, and every rule comes near it."""
    rng = random.generator(0, "test")
    x = rng.standard_normal((50, 3))
    y = x @ np.array([[1.0], [-2.0], [3.0]]) + 0.5
    for name, (kind, options) in CASES.items():
        model = nn.Linear(3, 1, dtype=np.float64)
        optimizer = OURS[kind](model.parameters(), **{**options, "lr": 0.03, "weight_decay": 0.0})
        for _ in range(300):
            scores, backward = model.forward(x)
            _, loss_backward = nn.MSELoss().forward(scores, y)
            backward(loss_backward(), input_grad=False)
            optimizer.step()
            optimizer.zero_grad()
        assert nn.MSELoss()(model(x), y) < 0.05, name


P = nn.Parameter(np.zeros(2))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: optim.SGD([P], lr=-1.0), "lr: expected a number from 0 to inf, got -1"),
    (lambda: optim.SGD([P], lr=float("nan")), "lr: expected a number from 0 to inf, got nan"),
    (lambda: optim.SGD([P], lr=0.1, momentum=-0.9), "momentum: expected a number from 0"),
    (lambda: optim.SGD([P], lr=0.1, nesterov=True), "momentum: expected a positive number with nesterov=True"),
    (lambda: optim.SGD([P], lr=0.1, weight_decay=-1), "weight_decay: expected a number from 0"),
    (lambda: optim.Adam([P], betas=(0.9, 1.0)), r"betas: expected two numbers from 0 to below 1, got \(0.9, 1.0\)"),
    (lambda: optim.AdamW([{"params": [P], "eps": -1.0}]), "eps: expected a number from 0"),
    (lambda: optim.RMSProp([P], alpha=2.0), "alpha: expected a number from 0 to 1, got 2"),
    (lambda: optim.SGD([], lr=0.1), "params: expected each parameter once, got none"),
    (lambda: optim.SGD([P, P], lr=0.1), "params: expected each parameter once, got one in two places"),
    (lambda: optim.SGD([{"params": [P]}, {"params": [P]}], lr=0.1), "got one in two places"),
    (lambda: optim.SGD([{"params": [P], "betas": 1}], lr=0.1),
     r"params: expected groups of 'params' and options out of \['lr', 'momentum', 'nesterov', 'weight_decay'\], "
     r"got one of \['betas', 'params'\]"),
    (lambda: optim.SGD([{"lr": 0.1}], lr=0.1), "params: expected groups of 'params'"),
])
def test_wrong_values(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: optim.SGD(nn.Sequential(nn.Linear(1, 1)), lr=0.1), "got the Sequential itself; give its .parameters()"),
    (lambda: optim.SGD([nn.Linear(1, 1)], lr=0.1), "params: expected Parameters, got Linear; give model.parameters()"),
    (lambda: optim.SGD([P.data], lr=0.1), "params: expected Parameters, got ndarray"),
    (lambda: optim.SGD([P], lr="0.1"), "lr: expected a number, got '0.1'"),
])
def test_wrong_types(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_parameters_that_share_memory_are_refused() -> None:
    memory = np.zeros(6)
    with pytest.raises(ValueError, match=r"^params\[1\].data: .* but it overlaps with params\[0\].data$"):
        optim.SGD([nn.Parameter(memory[:4]), nn.Parameter(memory[3:])], lr=0.1)
    optim.SGD([nn.Parameter(memory[:3]), nn.Parameter(memory[3:])], lr=0.1)


def test_a_gradient_that_is_the_parameter_is_refused() -> None:
    for view in (lambda data: data, lambda data: data[::-1]):
        parameter = nn.Parameter(np.arange(4.0))
        parameter.accumulate(view(parameter.data))
        for optimizer in (optim.SGD([parameter], lr=0.1, momentum=0.9), optim.Adam([parameter]),
                          optim.RMSProp([parameter])):
            with pytest.raises(ValueError, match=r"^parameter: expected memory of its own, but it overlaps with grad$"):
                optimizer.step()
        np.testing.assert_array_equal(parameter.data, np.arange(4.0))
