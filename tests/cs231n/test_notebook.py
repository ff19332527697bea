"""A student's notebook as a script of its own: star imports, a two-layer net and a small convolutional one."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from fastnn import cs231n

NOTEBOOK = """
import numpy as np
from fastnn.cs231n.layers import *
from fastnn.cs231n.fast_layers import *
from fastnn.cs231n.layer_utils import *
from fastnn.cs231n.gradient_check import eval_numerical_gradient
from fastnn.cs231n import optim

np.random.seed(231)
X, y = np.random.randn(40, 2, 8, 8), np.random.randint(3, size=40)
X[np.arange(40), 0, y, y] += 12                       # something to learn

params = {'W1': 0.3 * np.random.randn(4, 2, 3, 3), 'b1': np.zeros(4), 'gamma': np.ones(10), 'beta': np.zeros(10),
          'W2': 0.1 * np.random.randn(64, 10), 'b2': np.zeros(10), 'W3': 0.1 * np.random.randn(10, 3),
          'b3': np.zeros(3)}
conv_param, pool_param = {'stride': 1, 'pad': 1}, {'pool_height': 2, 'pool_width': 2, 'stride': 2}
bn_param, dropout_param = {'mode': 'train'}, {'mode': 'train', 'p': 0.9, 'seed': 123}

def scores_of(X):
    h, c1 = conv_relu_pool_forward(X, params['W1'], params['b1'], conv_param, pool_param)
    a, c2 = affine_forward(h, params['W2'], params['b2'])
    n, c3 = batchnorm_forward(a, params['gamma'], params['beta'], bn_param)
    r, c4 = relu_forward(n)
    d, c5 = dropout_forward(r, dropout_param)
    scores, c6 = affine_forward(d, params['W3'], params['b3'])
    return scores, (c1, c2, c3, c4, c5, c6)

def loss_of(X, y, reg=0.01):
    scores, (c1, c2, c3, c4, c5, c6) = scores_of(X)
    grads = {}
    loss, dscores = softmax_loss(scores, y)
    dd, grads['W3'], grads['b3'] = affine_backward(dscores, c6)
    dn = relu_backward(dropout_backward(dd, c5), c4)
    da, grads['gamma'], grads['beta'] = batchnorm_backward_alt(dn, c3)
    dh, grads['W2'], grads['b2'] = affine_backward(da, c2)
    dx, grads['W1'], grads['b1'] = conv_relu_pool_backward(dh, c1)
    for name in ('W1', 'W2', 'W3'):
        loss += 0.5 * reg * np.sum(params[name]**2)
        grads[name] += reg * params[name]
    return loss, grads

loss, grads = loss_of(X, y)
for name in sorted(params):
    if name != 'b2':                                  # batch norm takes it away: its gradient is rounding
        numeric = eval_numerical_gradient(lambda _: loss_of(X, y)[0], params[name], verbose=False)
        error = np.max(np.abs(numeric - grads[name])) / np.max(np.abs(numeric) + np.abs(grads[name]))
        assert error < 1e-6, (name, error)

configs = {name: {'learning_rate': 1e-2} for name in params}
losses = []
for step in range(60):
    loss, grads = loss_of(X, y)
    losses.append(loss)
    for name in params:
        params[name], configs[name] = optim.adam(params[name], grads[name], configs[name])
bn_param['mode'] = dropout_param['mode'] = 'test'
print(losses[0] > 3 * losses[-1], (scores_of(X)[0].argmax(axis=1) == y).mean() > 0.95)
"""


def test_a_notebook_runs(tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text(NOTEBOOK)
    done = subprocess.run([sys.executable, "-W", "error", str(script)], capture_output=True, text=True, cwd=tmp_path,
                          check=False)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


@pytest.mark.parametrize("module", ["layers", "fast_layers", "layer_utils", "optim", "gradient_check", "classifiers",
                                    "classifiers.k_nearest_neighbor", "classifiers.linear_classifier",
                                    "classifiers.linear_svm", "classifiers.softmax"])
def test_a_star_import_brings_the_courses_names_alone(module: str) -> None:
    loaded = importlib.import_module(f"fastnn.cs231n.{module}")
    brought: dict[str, object] = {}
    exec(f"from fastnn.cs231n.{module} import *", brought)
    del brought["__builtins__"]
    assert set(brought) == set(loaded.__all__)
    assert set(brought) <= set(cs231n.__all__)
    defined = {name for name, value in vars(loaded).items() if not name.startswith("_")
               and (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == loaded.__name__}
    assert defined <= set(brought)
