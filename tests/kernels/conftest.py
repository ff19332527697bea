from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import pytest
from numba import config

import fastnn
from fastnn.kernels._cpu import launch
from fastnn.kernels._plans import forget_plans
from fastnn.testing import Call, Kernel, assert_same_bits

# By the number of blocks.
ORDERS: dict[str, Callable[[int], Iterable[int]]] = {
    "forwards": range, "backwards": lambda blocks: reversed(range(blocks)),
    "every second one first": lambda blocks: (*range(1, blocks, 2), *range(0, blocks, 2)),
}


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ModuleType, str, Any], None]]:
    """A function that sets what plans follow from, by module and name, as long as the test runs."""
    def set_and_forget(module: ModuleType, name: str, value: Any) -> None:
        monkeypatch.setattr(module, name, value)
        forget_plans()

    yield set_and_forget
    forget_plans()


@pytest.fixture
def check_orders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Kernel, Call], int]]:
    """A function that sees that a call's bits do not depend on the order of blocks; it returns the most of a launch.

    So it finds a block that writes what another one owns, or reads what another one wrote.
    """
    if config.DISABLE_JIT or config.BOUNDSCHECK:
        pytest.skip("kernels run in a loop of their own with these settings")
    order: Callable[[int], Iterable[int]] = range
    most = 0

    def run_in_order(run: Callable[..., None], call_block: int, threads: int, blocks: int, args: tuple) -> None:
        nonlocal most
        most = max(most, blocks)
        for block in order(blocks):
            run(block, block + 1, 0, 0, call_block, args)

    def check(row: Kernel, call: Call) -> int:
        nonlocal order, most
        results, most = {}, 1
        for name in ORDERS:
            order = ORDERS[name]
            results[name] = row.run(call)
            assert_same_bits(results[name], results["forwards"], what=f"{row}{call.kwargs}, blocks {name}")
        return most

    monkeypatch.setattr(launch, "PARALLEL_WORK", 0)
    monkeypatch.setattr(launch, "run_parallel", run_in_order)
    fastnn.set_num_threads(2)
    yield check
    fastnn.set_num_threads(None)
