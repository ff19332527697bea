"""Update rules: the examples of CS231n's FullyConnectedNets notebook (assignment 2, 2018), and each wrong input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnn.cs231n import optim

Array = np.ndarray
RULES = (optim.sgd, optim.sgd_momentum, optim.rmsprop, optim.adam)


def ramp(start: float, stop: float) -> Array:
    return np.linspace(start, stop, 20).reshape(4, 5)


def rel_error(x: Array, y: Any) -> float:
    return float(np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y))))


# Bounds are what the notebooks print, rounded up: the expected values are given to 8 places.
def test_sgd_momentum() -> None:
    config = {"learning_rate": 1e-3, "velocity": ramp(0.6, 0.9)}
    next_w, same = optim.sgd_momentum(ramp(-0.4, 0.6), ramp(-0.6, 0.4), config)
    assert same is config
    assert rel_error(next_w, [[0.1406, 0.20738947, 0.27417895, 0.34096842, 0.40775789],
                              [0.47454737, 0.54133684, 0.60812632, 0.67491579, 0.74170526],
                              [0.80849474, 0.87528421, 0.94207368, 1.00886316, 1.07565263],
                              [1.14244211, 1.20923158, 1.27602105, 1.34281053, 1.4096]]) < 1e-8
    assert rel_error(config["velocity"], [[0.5406, 0.55475789, 0.56891579, 0.58307368, 0.59723158],
                                          [0.61138947, 0.62554737, 0.63970526, 0.65386316, 0.66802105],
                                          [0.68217895, 0.69633684, 0.71049474, 0.72465263, 0.73881053],
                                          [0.75296842, 0.76712632, 0.78128421, 0.79544211, 0.8096]]) < 5e-9


def test_rmsprop() -> None:
    config = {"learning_rate": 1e-2, "cache": ramp(0.6, 0.9)}
    next_w, _ = optim.rmsprop(ramp(-0.4, 0.6), ramp(-0.6, 0.4), config)
    assert rel_error(next_w, [[-0.39223849, -0.34037513, -0.28849239, -0.23659121, -0.18467247],
                              [-0.132737, -0.08078555, -0.02881884, 0.02316247, 0.07515774],
                              [0.12716641, 0.17918792, 0.23122175, 0.28326742, 0.33532447],
                              [0.38739248, 0.43947102, 0.49155973, 0.54365823, 0.59576619]]) < 1e-7
    assert rel_error(config["cache"], [[0.5976, 0.6126277, 0.6277108, 0.64284931, 0.65804321],
                                       [0.67329252, 0.68859723, 0.70395734, 0.71937285, 0.73484377],
                                       [0.75037008, 0.7659518, 0.78158892, 0.79728144, 0.81302936],
                                       [0.82883269, 0.84469141, 0.86060554, 0.87657507, 0.8926]]) < 5e-9


def test_adam() -> None:
    config = {"learning_rate": 1e-2, "m": ramp(0.6, 0.9), "v": ramp(0.7, 0.5), "t": 5}
    next_w, _ = optim.adam(ramp(-0.4, 0.6), ramp(-0.6, 0.4), config)
    assert rel_error(next_w, [[-0.40094747, -0.34836187, -0.29577703, -0.24319299, -0.19060977],
                              [-0.1380274, -0.08544591, -0.03286534, 0.01971428, 0.0722929],
                              [0.1248705, 0.17744702, 0.23002243, 0.28259667, 0.33516969],
                              [0.38774145, 0.44031188, 0.49288093, 0.54544852, 0.59801459]]) < 2e-7
    assert rel_error(config["v"], [[0.69966, 0.68908382, 0.67851319, 0.66794809, 0.65738853],
                                   [0.64683452, 0.63628604, 0.6257431, 0.61520571, 0.60467385],
                                   [0.59414753, 0.58362676, 0.57311152, 0.56260183, 0.55209767],
                                   [0.54159906, 0.53110598, 0.52061845, 0.51013645, 0.49966]]) < 5e-9
    assert rel_error(config["m"], [[0.48, 0.49947368, 0.51894737, 0.53842105, 0.55789474],
                                   [0.57736842, 0.59684211, 0.61631579, 0.63578947, 0.65526316],
                                   [0.67473684, 0.69421053, 0.71368421, 0.73315789, 0.75263158],
                                   [0.77210526, 0.79157895, 0.81105263, 0.83052632, 0.85]]) < 5e-9
    assert config["t"] == 6


def test_velocity_keeps_the_rate_that_each_step_had() -> None:
    w, config = np.zeros(1), {"learning_rate": 1.0, "momentum": 0.5}
    w, config = optim.sgd_momentum(w, np.ones(1), config)
    config["learning_rate"] = 0.1
    w, config = optim.sgd_momentum(w, np.ones(1), config)
    assert config["velocity"].round(12) == -0.6
    assert w.round(12) == -1.6


@pytest.mark.parametrize(("rule", "defaults"), list(zip(RULES, (
    {"learning_rate": 1e-2}, {"learning_rate": 1e-2, "momentum": 0.9},
    {"learning_rate": 1e-2, "decay_rate": 0.99, "epsilon": 1e-8},
    {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "t": 1}))))
def test_defaults_and_what_is_written(rule: Callable[..., Any], defaults: dict[str, float]) -> None:
    w, dw = np.array([1.0, -2.0]), np.array([0.5, 0.25])
    next_w, config = rule(w, dw)
    assert {name: config[name] for name in defaults} == defaults
    assert (next_w is w) == (rule is optim.sgd)             # in place, as in the course
    assert (next_w < [1.0, -2.0]).all()
    assert (dw == [0.5, 0.25]).all()
    state = {name: config[name].copy() for name in config.keys() - defaults.keys()}
    rule(next_w, dw, config)
    assert all((config[name] != before).all() for name, before in state.items())


@pytest.mark.parametrize("rule", RULES)
def test_dtypes(rule: Callable[..., Any]) -> None:
    assert rule(np.ones(2, np.float32), np.ones(2, np.float32))[0].dtype == np.float32
    assert rule(np.ones(2), np.ones(2, int))[0].dtype == np.float64
    with pytest.raises(ValueError, match=r"^dw: expected shape \(2,\), got \(3,\)"):
        rule(np.ones(2), np.ones(3))
    with pytest.raises(TypeError, match=r"^w: expected an array, got list"):
        rule([1.0], np.ones(1))
    with pytest.raises(ValueError, match=r"^config\['learning_rate'\]: expected a number from 0"):
        rule(np.ones(2), np.ones(2), {"learning_rate": -1.0})


def test_each_wrong_entry_of_a_config() -> None:
    w = np.ones(2)
    with pytest.raises(TypeError, match=r"^w: expected float32 or float64, got int64"):
        optim.sgd(np.ones(2, int), w)
    with pytest.raises(ValueError, match=r"^config\['momentum'\]: expected a number from 0"):
        optim.sgd_momentum(w, w, {"momentum": -0.5})
    with pytest.raises(ValueError, match=r"^config\['velocity'\]: expected shape \(2,\), got \(3,\)"):
        optim.sgd_momentum(w, w, {"velocity": np.ones(3)})
    with pytest.raises(ValueError, match=r"^config\['decay_rate'\]: expected a number from 0 to 1, got 2"):
        optim.rmsprop(w, w, {"decay_rate": 2})
    with pytest.raises(ValueError, match=r"^config\['epsilon'\]: expected a number from 0"):
        optim.rmsprop(w, w, {"epsilon": -1})
    with pytest.raises(ValueError, match=r"^config\['beta1'\] and config\['beta2'\]: expected two numbers"):
        optim.adam(w, w, {"beta1": 1.0})
    with pytest.raises(TypeError, match=r"^config\['t'\]: expected an integer, got 0.5"):
        optim.adam(w, w, {"t": 0.5})


def test_sgd_refuses_a_gradient_in_the_memory_of_w() -> None:
    w = np.arange(4.0)
    for dw in (w, w[::-1]):
        with pytest.raises(ValueError, match=r"^w: expected memory of its own, but it overlaps with dw$"):
            optim.sgd(w, dw)
    np.testing.assert_array_equal(w, np.arange(4.0))
