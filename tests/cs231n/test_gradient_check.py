"""Numeric gradients of functions whose gradients are known."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from fastnn.cs231n import gradient_check


def test_of_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.array([[1.0, -2.0], [3.0, 0.5]])
    before = x.copy()
    grad = gradient_check.eval_numerical_gradient(lambda x: np.sum(x**3), x)
    np.testing.assert_allclose(grad, 3 * x**2, rtol=1e-9)
    assert (x == before).all()
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(")")[0] + ")" for line in printed] == ["(0, 0)", "(0, 1)", "(1, 0)", "(1, 1)"]
    gradient_check.eval_numerical_gradient(np.sum, x, verbose=False)
    assert capsys.readouterr().out == ""


def test_of_an_array_even_if_the_function_returns_its_argument() -> None:
    x, df = np.array([1.0, 2.0]), np.array([3.0, -5.0])
    np.testing.assert_allclose(gradient_check.eval_numerical_gradient_array(lambda x: x, x, df), df, rtol=1e-9)
    np.testing.assert_allclose(gradient_check.eval_numerical_gradient_array(lambda x: x**2, x, df, h=1e-3), 2 * x * df,
                               rtol=1e-9)


def test_sparse_check_shows_a_wrong_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.array([[1.0, 2.0, 3.0]])
    random.seed(0)
    gradient_check.grad_check_sparse(lambda x: np.sum(x**2), x, 2 * x)
    gradient_check.grad_check_sparse(lambda x: np.sum(x**2), x, 3 * x, num_checks=2)
    lines = capsys.readouterr().out.splitlines()
    errors = [float(line.rpartition("relative error: ")[2]) for line in lines]
    assert len(errors) == 12
    assert max(errors[:10]) < 1e-8
    assert min(errors[10:]) > 0.19
    assert lines[0].startswith("numerical: ")
    assert " analytic: " in lines[0]


def test_x_is_put_back_when_the_function_fails() -> None:
    x = np.ones(2)

    def fails(x: np.ndarray) -> float:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        gradient_check.eval_numerical_gradient(fails, x)
    assert (x == 1).all()


@pytest.mark.parametrize(("x", "got"), [(np.ones(2, int), "int64"), ([1.0], "list")])
def test_what_takes_no_small_step_is_refused(x: Any, got: str) -> None:
    sentence = f"^x: expected an array of floats, to which a small step can be added, got {got}"
    with pytest.raises(TypeError, match=sentence):
        gradient_check.eval_numerical_gradient(np.sum, x)
    with pytest.raises(TypeError, match=sentence):
        gradient_check.eval_numerical_gradient_array(np.sum, x, np.ones(2))
    with pytest.raises(TypeError, match=sentence):
        gradient_check.grad_check_sparse(np.sum, x, np.ones(2))


def test_analytic_gradient_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^analytic_grad: expected shape \(2,\), got \(3,\)"):
        gradient_check.grad_check_sparse(np.sum, np.ones(2), np.ones(3))
