"""Schedules against torch's where it has them, and at their edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnn import optim

EPOCHS = 25


def torch_factors(torch: Any, make: Callable[[Any, Any], Any], count: int = EPOCHS) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    factors = []
    for _ in range(count):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@pytest.mark.parametrize(("schedule", "make"), [
    (optim.StepLR(4, 0.5), lambda s, o: s.StepLR(o, 4, 0.5)),
    (optim.StepLR(30), lambda s, o: s.StepLR(o, 30)),
    (optim.MultiStepLR((3, 9, 9), 0.3), lambda s, o: s.MultiStepLR(o, [3, 9, 9], 0.3)),
    (optim.CosineLR(EPOCHS, 0.1), lambda s, o: s.CosineAnnealingLR(o, EPOCHS, 0.1)),
    (optim.Warmup(5, start=0.2), lambda s, o: s.LinearLR(o, 0.2, 1.0, 5)),
    (optim.Warmup(5, optim.CosineLR(20), start=0.2), lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.2, 1.0, 5), s.CosineAnnealingLR(o, 20)], [5])),
    # torch counts from 0 to total_steps - 1, and its peak lies at pct_start total_steps - 1
    (optim.OneCycleLR(EPOCHS - 1, 9 / 24, start=0.1, final=0.01),
     lambda s, o: s.OneCycleLR(o, 1.0, EPOCHS, pct_start=10 / 25, div_factor=10, final_div_factor=10)),
])
def test_as_torch(schedule: Callable[[float], float], make: Callable[[Any, Any], Any]) -> None:
    torch = pytest.importorskip("torch")
    np.testing.assert_allclose([schedule(t) for t in range(EPOCHS)], torch_factors(torch, make), rtol=1e-12, atol=1e-14)


def test_steps_within_an_epoch() -> None:
    for steps_per_epoch in (1, 3, 7, 10, 469):
        factors = optim.simulate(optim.StepLR(1, 0.5), 4, steps_per_epoch)
        np.testing.assert_array_equal(factors, np.repeat([1, 0.5, 0.25, 0.125], steps_per_epoch))


def test_one_cycle_is_smooth_and_peaks_once() -> None:
    factors = optim.simulate(optim.OneCycleLR(10), 12, 50)
    peak = factors.argmax()
    assert peak == 150
    assert factors[peak] == 1
    assert (np.diff(factors[:peak + 1]) > 0).all()
    assert (np.diff(factors[peak:501]) < 0).all()
    assert abs(np.diff(factors)).max() < 0.02
    assert factors[0] == pytest.approx(0.04)
    np.testing.assert_allclose(factors[500:], 1e-4)


@pytest.mark.parametrize("peak_at", [0.0, 1.0])
def test_one_cycle_of_one_half(peak_at: float) -> None:
    schedule = optim.OneCycleLR(4, peak_at, final=0.5)
    assert schedule(0) == pytest.approx(1.0 if peak_at == 0 else 0.04)
    assert schedule(4 - 1e-9) == pytest.approx(0.5 if peak_at == 0 else 1.0)
    assert schedule(4) == 0.5


def test_is_a_function_of_time_alone() -> None:
    for schedule in (optim.StepLR(2), optim.MultiStepLR((2, 3)), optim.CosineLR(5), optim.Warmup(2, optim.StepLR(1)),
                     optim.OneCycleLR(5)):
        times = np.linspace(0, 6, 13)
        forwards = [schedule(t) for t in times]
        assert [schedule(t) for t in times[::-1]] == forwards[::-1]
        assert all(type(factor) is float for factor in map(schedule, times.tolist()))


def test_simulate_takes_any_function() -> None:
    np.testing.assert_array_equal(optim.simulate(lambda t: 2 * t, 2, 4), np.arange(8) / 2)
    assert optim.simulate(lambda t: 1.0, 0, 4).shape == (0,)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: optim.StepLR(0), "step_size: expected a positive number of epochs, got 0"),
    (lambda: optim.StepLR(1, -0.5), "gamma: expected a number from 0"),
    (lambda: optim.MultiStepLR((-1,)), "milestones: expected a number from 0"),
    (lambda: optim.CosineLR(-1), "total: expected a positive number of epochs, got -1"),
    (lambda: optim.Warmup(0), "length: expected a positive number of epochs, got 0"),
    (lambda: optim.OneCycleLR(5, 1.5), "peak_at: expected a number from 0 to 1, got 1.5"),
    (lambda: optim.simulate(optim.CosineLR(1), 1, 0), "steps_per_epoch: expected at least 1"),
])
def test_wrong_values(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
