"""Parameters, names, states, and the life of what forward keeps for backward."""

from __future__ import annotations

import copy
import pickle
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from fastnn import nn, random


class Branches(nn.Module):
    """One module twice, a list of modules, a parameter after them, and things that do not belong to the state."""

    def __init__(self) -> None:
        self.layers = [nn.Linear(3, 3), nn.BatchNorm1d(3)]
        self.again = self.layers[0]
        self.scale = nn.Parameter(np.ones(3, np.float32))
        self.constant = np.arange(3)
        self.options = ["a", "b"]


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def test_names() -> None:
    module = Branches()
    parameters = dict(module.named_parameters())
    assert list(parameters) == ["scale", "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    assert list(module.state_dict()) == [
        "scale", "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "layers.1.running_mean",
        "layers.1.running_var", "layers.1.num_batches_tracked", "again.weight", "again.bias"]
    assert [name for name, _ in module.named_modules()] == ["", "layers.0", "layers.1"]
    assert list(module.children()) == [*module.layers, module.again]


def test_state_dict_is_a_copy() -> None:
    model = small()
    state = model.state_dict()
    for array in state.values():
        array[...] = 7
    assert not any((array == 7).any() for array in model.state_dict().values())


def test_load_state_dict_goes_round() -> None:
    with random.seeded(1):
        model = small()
    with random.seeded(2):
        other = small()
    model.forward(np.arange(12, dtype=np.float32).reshape(4, 3) ** 2)
    weight = other[0].weight.data
    assert other.load_state_dict(model.state_dict()) == ([], [])
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)
    assert other[0].weight.data is weight
    assert weight is not model[0].weight.data


def test_load_state_dict_checks_before_it_writes() -> None:
    model = small()
    before = model.state_dict()
    state: dict[str, Any] = {name: np.full_like(array, 5) for name, array in before.items()}
    del state["0.bias"]
    state["4.weight"] = np.ones(3)
    state["3.weight"] = np.ones((4, 2), np.float32)
    state["3.bias"] = np.ones(2, np.complex64)
    with pytest.raises(ValueError, match="state does not fit Sequential") as error:
        model.load_state_dict(state)
    for part in ("missing: 0.bias", "unexpected: 4.weight",
                 "mismatched: 3.weight (expected float32 of shape (2, 4), got float32 of shape (4, 2)), "
                 "3.bias (expected float32 of shape (2,), got complex64 of shape (2,))"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="mismatched"):
        model.load_state_dict(state, strict=False)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])

    del state["3.weight"], state["3.bias"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["0.bias", "3.weight", "3.bias"], ["4.weight"])
    np.testing.assert_array_equal(model[0].weight.data, 5)
    np.testing.assert_array_equal(model[3].weight.data, before["3.weight"])


def test_long_lists_are_cut() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(10)))
    with pytest.raises(ValueError, match=r"missing: 0.weight, 0.bias, 1.weight, 1.bias, 2.weight and 15 more\."):
        model.load_state_dict({})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int8, np.uint64, bool])
@pytest.mark.parametrize("own", [np.float32, np.float64])
def test_real_numbers_of_any_dtype_are_turned_into_the_modules(dtype: Any, own: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 2, dtype=own), nn.BatchNorm1d(2, dtype=own))
    state = {name: np.ones_like(array, dtype) for name, array in model.state_dict().items()}
    model.load_state_dict(state)
    for name, array in model.state_dict().items():
        assert (array == 1).all(), name
        assert array.dtype == (np.int64 if name.endswith("tracked") else own)


def test_values_that_are_lost_are_refused_and_others_rounded() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    state = model.state_dict()
    fine = np.array([[1 / 3], [np.nan]]), np.array([np.inf, -1e-60])
    model.load_state_dict({**state, "0.weight": fine[0], "0.bias": fine[1], "1.num_batches_tracked": np.array(7.0)})
    np.testing.assert_array_equal(model[0].weight.data, fine[0].astype(np.float32))
    np.testing.assert_array_equal(model[0].bias.data, fine[1].astype(np.float32))
    assert model[1].num_batches_tracked == 7
    before = model.state_dict()
    for name, value, message in (("0.bias", np.array([1.0, 1e300]), "expected float32, got 1e.300 in float64, which"),
                                 ("1.num_batches_tracked", np.array(2.5), "expected int64, got 2.5 in float64"),
                                 ("1.num_batches_tracked", np.array(np.nan), "expected int64, got nan in float64"),
                                 ("1.num_batches_tracked", np.uint64(2**63 + 5), "expected int64, got"),
                                 ("0.bias", np.array(["a", "b"]), "expected float32 of shape .2,., got <U1 of shape"),
                                 ("0.bias", [[1], [2, 3]], "expected float32 of shape .2,., got list, which is"),
                                 ("0.bias", None, "expected float32 of shape .2,., got object of shape")):
        with pytest.raises(ValueError, match=f"nothing was loaded: mismatched: {name} .{message}"):
            model.load_state_dict({**state, "0.weight": np.ones((2, 1)), name: value})
        for key, array in model.state_dict().items():
            np.testing.assert_array_equal(array, before[key])


def test_what_torch_loads_is_loaded() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = {name: np.full_like(array, 3) for name, array in model.state_dict().items()}
    del state["1.num_batches_tracked"]                          # as of torch before 1.0
    assert model.load_state_dict(state) == ([], [])
    np.testing.assert_array_equal(model[1].running_var, 3)
    assert model[1].num_batches_tracked == 0
    model.load_state_dict({**state, "1.num_batches_tracked": np.array([4])})        # of 0.3
    assert model[1].num_batches_tracked == 4
    other = nn.Sequential(nn.Linear(3, 2))
    assert other.load_state_dict(dict(model[:1].named_parameters())) == ([], [])
    np.testing.assert_array_equal(other[0].weight.data, 3)


@pytest.mark.peers
def test_torch_tensors_of_any_dtype_are_loaded() -> None:
    torch = pytest.importorskip("torch")
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        theirs = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to(dtype)
        for state in (theirs.state_dict(), theirs.state_dict(keep_vars=True)):
            model.load_state_dict(state)
            for name, array in model.state_dict().items():
                np.testing.assert_array_equal(array, state[name].detach().double().numpy().astype(array.dtype))


@pytest.mark.parametrize(("change", "message"), [
    (lambda state: {f"module.{name}": array for name, array in state.items()},
     "begin with 'module.', which those of the module do not: take it away, as load_model does with prefix='module.'"),
    (lambda state: {name.removeprefix("layers."): array for name, array in state.items()},
     "Names of the module begin with 'layers.', which those of the state do not: add it"),
    (lambda state: {"epoch": np.array(1), "state_dict": state}, "What is under 'state_dict' is a mapping itself: give"),
    (lambda state: {name.replace("weight", "wieght"): array for name, array in state.items()},
     r"Rename what is meant \(layers.0.weight for layers.0.wieght, layers.1.weight for layers.1.wieght\)"),
    (lambda state: {**state, "layers.0.bias": np.ones(1)}, "of shape .1,.*. Build it with the options of the one that"),
    (lambda state: {**state, 3: np.ones(1)}, "unexpected: 3"),
])
def test_a_message_says_what_is_the_matter(change: Any, message: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            self.layers = [nn.Linear(3, 2), nn.Linear(2, 2)]

    model = Model()
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(change(model.state_dict()))


@pytest.mark.parametrize("state", [({}, {}), None, "weights.safetensors", [("0.weight", 1)]])
def test_a_state_that_is_no_mapping(state: Any) -> None:
    with pytest.raises(TypeError, match="state: expected a mapping of names to arrays, as state_dict returns, got"):
        small().load_state_dict(state)


def test_to_changes_dtypes_in_place() -> None:
    model = small()
    y, backward = model.forward(np.arange(6, dtype=np.float32).reshape(2, 3))
    backward(np.ones_like(y))
    assert model.to(np.float64) is model
    dtypes = {name: array.dtype for name, array in model.state_dict().items()}
    assert dtypes.pop("1.num_batches_tracked") == np.int64
    assert set(dtypes.values()) == {np.dtype(np.float64)}
    assert all(p.grad is not None and p.grad.dtype == np.float64 for p in model.parameters())
    assert model.to("cpu") is model
    for wrong, got in ((np.float16, "float16"), ("gpu", "'gpu'")):
        with pytest.raises(TypeError, match=f"dtype: expected 'cpu', 'cuda', float32 or float64, got {got}"):
            model.to(wrong)


def test_parameter() -> None:
    data = np.zeros((2, 3))
    parameter = nn.Parameter(data)
    assert parameter.data is data
    grad = np.ones((2, 3))
    parameter.accumulate(grad)
    parameter.accumulate(grad)
    np.testing.assert_array_equal(parameter.grad, 2)
    np.testing.assert_array_equal(grad, 1)
    parameter.accumulate(None)
    for wrong in (np.ones(3), np.ones((2, 3), np.float32)):
        with pytest.raises(ValueError, match=r"grad: expected shape \(2, 3\) and float64 as data has, got"):
            parameter.accumulate(wrong)
    parameter.requires_grad = False
    parameter.accumulate(grad)
    np.testing.assert_array_equal(parameter.grad, 2)
    assert repr(parameter) == "Parameter(shape=(2, 3), dtype=float64, requires_grad=False)"
    for wrong_data in ([1.0], np.arange(3), np.ones(3, np.complex64)):
        with pytest.raises(TypeError, match="data: expected a NumPy or CuPy array of float32 or float64, got"):
            nn.Parameter(wrong_data)


def test_parameter_can_be_updated_in_place() -> None:
    fixed = np.zeros((2, 3))
    fixed.flags.writeable = False
    for data in (fixed, np.zeros((3, 2)).T):
        flags = nn.Parameter(data).data.flags
        assert flags.writeable
        assert flags.c_contiguous


def test_copies() -> None:
    model = nn.Sequential(small(), nn.Dropout(0.5), nn.Residual(nn.Linear(2, 2)), nn.MaxPool2d(2))
    other = copy.deepcopy(model)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)
    assert not {id(p) for p in other.parameters()} & {id(p) for p in model.parameters()}
    assert pickle.dumps(model)                     # as joblib needs


def test_repr_shows_options_and_layers() -> None:
    assert repr(nn.Sequential(nn.MaxPool2d((2, 3)), nn.Sequential(nn.ReLU()))) == """Sequential(
  (0): MaxPool2d(kernel_size=(2, 3), stride=(2, 3), padding=(0, 0), dilation=(1, 1), ceil_mode=False)
  (1): Sequential(
    (0): ReLU()
  )
)"""


def test_forward_must_be_defined() -> None:
    with pytest.raises(NotImplementedError, match="Branches defines no forward"):
        Branches()(np.ones(3))


def test_zero_grad() -> None:
    model = small()
    y, backward = model.forward(np.arange(6, dtype=np.float32).reshape(2, 3))
    backward(np.ones_like(y))
    model.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


# --- what forward keeps ------------------------------------------------------------------------------------


class Probe(nn.Module):
    """Passes on a copy, and remembers weakly each copy it made."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[np.ndarray]] = []
        self.alive_in_backward = -1
        self.later: Probe | None = None

    def forward(self, x: np.ndarray, *, training: bool = True) -> tuple[np.ndarray, nn.Backward]:
        y = x.copy()
        self.made.append(weakref.ref(y))

        @nn.once
        def backward(grad_y: np.ndarray, *, input_grad: bool = True) -> np.ndarray | None:
            if self.later is not None:
                self.alive_in_backward = self.later.alive()
            return grad_y * y if input_grad else None

        return y, backward

    def alive(self) -> int:
        return sum(array() is not None for array in self.made)


X = np.linspace(1, 2, 6).reshape(2, 3)


def test_backward_frees_as_it_goes() -> None:
    first, last = Probe(), Probe()
    first.later = last
    model = nn.Sequential(first, nn.Sequential(nn.Tanh(), last), nn.Flatten())
    y, backward = model.forward(X)
    del y
    assert (first.alive(), last.alive()) == (1, 1)
    backward(np.ones((2, 3)))
    assert first.alive_in_backward == 0
    assert first.alive() == 0        # though the function itself is still there


def test_inference_keeps_nothing_in_between() -> None:
    probes = [Probe() for _ in range(4)]

    class Watch(nn.Module):
        def forward(self, x: np.ndarray, *, training: bool = True) -> tuple[np.ndarray, nn.Backward]:
            assert not training
            alive.append([probe.alive() for probe in probes])
            return x, nn.once(lambda grad_y, *, input_grad=True: grad_y)

    alive: list[list[int]] = []
    model = nn.Sequential(*probes, Watch())
    model(X)
    assert alive == [[0, 0, 0, 1]]
    _, backward = model.forward(X, training=False)
    assert alive[1] == [1, 1, 1, 1]
    assert backward(np.ones((2, 3))).shape == X.shape


def test_backward_inside_inference_says_so() -> None:
    class Attack(nn.Module):
        def forward(self, x: np.ndarray, *, training: bool = True) -> tuple[np.ndarray, nn.Backward]:
            _, backward = nn.Tanh().forward(x, training=training)
            return backward(x), backward

    with pytest.raises(RuntimeError, match=r"backward was called inside module\(x\), which keeps nothing for it"):
        Attack()(X)
    Attack().forward(X, training=False)


def test_a_layer_may_be_used_twice() -> None:
    layer = nn.Linear(3, 3, dtype=np.float64)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    y, backward = model.forward(X)
    grad_x = backward(np.ones_like(y))
    first, first_backward = layer.forward(X)
    h, tanh_backward = nn.Tanh().forward(first)
    _, second_backward = layer.forward(h)
    twice = layer.weight.grad
    layer.zero_grad()
    np.testing.assert_array_equal(first_backward(tanh_backward(second_backward(np.ones_like(y)))), grad_x)
    np.testing.assert_array_equal(layer.weight.grad, twice)


@pytest.mark.usefixtures("restless_threads")
def test_threads_accumulate_into_one_layer() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)).to(np.float64)
    xs = random.generator(0, "test").standard_normal((32, 4, 2, 5, 5))

    def work(part: np.ndarray) -> None:
        for x in part:
            y, backward = model.forward(x)
            backward(np.ones_like(y), input_grad=False)

    work(xs)
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    threads = [threading.Thread(target=work, args=(xs[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for parameter, grad in zip(model.parameters(), expected):
        np.testing.assert_allclose(parameter.grad, grad, rtol=1e-12, atol=1e-12)


def test_a_state_of_views_of_the_module_is_loaded_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    first, second = (layer.weight.data.copy() for layer in model.children())
    a, b = (layer.weight.data for layer in model.children())
    state = {**model.state_dict(), "0.weight": b.T, "1.weight": a[::-1]}
    model.load_state_dict(state)
    np.testing.assert_array_equal(model.state_dict()["0.weight"], second.T)
    np.testing.assert_array_equal(model.state_dict()["1.weight"], first[::-1])
