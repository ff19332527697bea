"""Arguments of the wrong kind, given in Python: each is named, with what was expected and what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import data, kernels, models, nn, optim, recipes, training

X, IMAGE, PAIR = np.ones((2, 3)), np.ones((1, 1, 4, 4)), np.array(["auto", "auto"])
LINEAR = nn.Linear(3, 2)


def trainer(**options: Any) -> training.Trainer:
    model = nn.Linear(3, 2)
    return training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1), progress=False, **options)


def fit(callback: training.Callback) -> None:
    trainer(callbacks=[callback]).fit(data.DataLoader((np.ones((4, 3), np.float32), np.zeros(4, int)), 2), epochs=1)


class Forgets(training.Callback):
    def on_epoch_end(self, trainer: Any, record: training.Record) -> None:
        del record["train_loss"]


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: kernels.conv2d(IMAGE, IMAGE, algorithm=PAIR), r"algorithm: expected one of 'auto', 'direct', 'winograd'"),
    (lambda: kernels.conv2d(IMAGE, IMAGE, activation=np.array(["relu"])), "activation: expected None or 'relu', got"),
    (lambda: kernels.pairwise_l2(X, X, algorithm=PAIR), "algorithm: expected one of 'direct', 'gemm', got array"),
    (lambda: kernels.knn(X, X, 1, algorithm=3), "algorithm: expected one of 'auto', 'direct', 'filter', got 3"),
    (lambda: kernels.mse_loss(X, X, reduction=PAIR), "reduction: expected one of .*, got array"),
    (lambda: kernels.gelu(X, PAIR), "approximate: expected one of 'none', 'tanh', got array"),
    (lambda: kernels.linear_backward(X, X, np.ones((3, 3)), needs="abc"), "needs: expected three bools.* got 'abc'"),
    (lambda: kernels.linear_backward(X, X, np.ones((3, 3)), needs=(X, 1, 1)), "needs: expected three bools"),
    (lambda: kernels.adam_update(X.copy(), X, X.copy(), X.copy(), step=1, lr=1, betas=0.9), "betas: expected two"),
    (lambda: kernels.leaky_relu(X, 10**400), "negative_slope: expected a number from -inf to inf, got 1000"),
    (lambda: fastnn.set_num_threads(10**6), "n: expected an integer from 1 to 1024, or None, got 1000000"),
    (lambda: LINEAR.to(None), "device_or_dtype: expected 'cpu', 'cuda', float32 or float64, got None"),
    (lambda: nn.Flatten("x"), "start_dim: expected an integer, got 'x'"),
    (lambda: nn.Softmax("x"), "dim: expected an integer, got 'x'"),
    (lambda: nn.LogSoftmax(0.5), r"dim: expected an integer, got 0\.5"),
    (lambda: optim.SGD(None, 0.1), "params: expected a list of Parameters, or of groups, got NoneType"),
    (lambda: optim.SGD(LINEAR.weight, 0.1), "params: expected a list of Parameters, or of groups, got Parameter"),
    (lambda: optim.SGD([{"params": LINEAR}], 0.1), "params: expected a list of Parameters in a group, got Linear"),
    (lambda: optim.SGD(LINEAR.parameters(), 0.1).load_state_dict(None), "state: expected a mapping .* got NoneType"),
    (lambda: optim.Adam(LINEAR.parameters(), betas=0.9), r"betas: expected two numbers from 0 to below 1, got 0\.9"),
    (lambda: optim.clip_grad_norm_(LINEAR, 1), "parameters: expected a list of Parameters, got Linear; give"),
    (lambda: optim.clip_grad_value_([3], 1), "parameters: expected a list of Parameters, got int"),
    (lambda: optim.MultiStepLR(3), "milestones: expected a sequence of numbers, got 3"),
    (lambda: trainer(callbacks=None), "callbacks: expected a list of them, got a NoneType"),
    (lambda: trainer(clip_norm=True), "clip_norm: expected a number above 0 or None, got True"),
    (lambda: trainer(schedule=3), "schedule: expected a function of the epochs done, or None, got 3"),
    (lambda: fit(Forgets()), "Forgets gave the record of epoch 1 without train_loss: expected figures"),
    (lambda: training.load_model("nothing", LINEAR, prefix=3), "prefix: expected text, got 3"),
    (lambda: training.load_model("nothing", LINEAR, skip=[3]), r"skip: expected names of arrays or layers, got \[3\]"),
    (lambda: training.save("nothing", 3), "tensors: expected a mapping of names to arrays, got 3"),
    (lambda: training.save("nothing", {3: X}), "tensors: expected a mapping of names to arrays, got {3: "),
    (lambda: training.save("nothing", {}, {"a": X}), "metadata: expected a mapping of values that JSON holds"),
    (lambda: data.DataLoader((X,), 1, seed="a"), "seed: expected an integer, got 'a'"),
    (lambda: data.DataLoader((X,), 1, transform=3), "transform: expected a function of images and a random generator"),
    (lambda: data.DataLoader((X,), 1).epoch("a"), "epoch: expected an integer, got 'a'"),
    (lambda: data.SequenceLoader([[1.5, 2]], 1), r"sequences: expected integers of shape \(T,\), two or more, got fl"),
    (lambda: data.SequenceLoader([X], 1), "sequences: expected integers of shape .*, got float64 of shape"),
    (lambda: models.sampling_probabilities([1.0]), "scores: expected an array, got list"),
    (lambda: data.passages([X], 1, begin=0, end=1), "length: expected at least 2, got 1"),
    (lambda: data.Rounds(None, 0), "batches: expected at least 1, got 0"),
    (lambda: models.DecoderTransformerConfig(dropout=2), "dropout: expected a number from 0 to 1, got 2"),
    (lambda: models.sampling_probabilities(X), r"scores: expected 1 dimensions \(V,\), got shape"),
    (lambda: data.split(data.digits(), 0.1), "part: expected a Split, got Dataset"),
    (lambda: data.split(data.digits().train, "a"), "size: expected an integer, got 'a'"),
    (lambda: data.split(data.digits().train, np.nan), "size: expected a number of samples from 1 to"),
    (lambda: data.Normalize(np.nan, 1), "mean: expected finite numbers, got nan"),
    (lambda: data.Normalize(0, "a"), "std: expected finite numbers, got 'a'"),
    (lambda: data.RandomCrop("a"), "padding: expected an integer, got 'a'"),
    (lambda: data.RandomHorizontalFlip("a"), "p: expected a number, got 'a'"),
    (lambda: data.RandomAffine(degrees="a"), "degrees: expected a number, got 'a'"),
    (lambda: data.RandomAffine(1, translate=3), "translate: expected two fractions of at least 0, got 3"),
    (lambda: data.ColorJitter("a"), "brightness: expected a number, got 'a'"),
    (lambda: data.Cutout(1.5), r"size: expected an integer, got 1\.5"),
    (lambda: data.Cutout(1, fill="a"), "fill: expected finite numbers, got 'a'"),
    (lambda: data.MixUp("a"), "num_classes: expected an integer, got 'a'"),
    (lambda: data.MixUp(2, alpha="a"), "alpha: expected a number, got 'a'"),
    (lambda: recipes.load(None), "run_dir: expected a path, got NoneType"),
    (lambda: recipes.load("runs/cnn-1", "cnn"), "recipe: expected the class of a recipe, got 'cnn'"),
    (lambda: recipes.read_image(X, 1, 8, 8), "path: expected a path, got ndarray"),
    (lambda: recipes.read_image("a.png", 2, 8, 8), "channels: expected 1 or 3, got 2"),
    (lambda: recipes.read_image("a.png", 1, 0, 8), "height: expected at least 1, got 0"),
    (lambda: recipes.read_image("a.png", 1, 1 << 16, 1 << 16), "height, width: expected at most 67108864 pixels"),
    (lambda: recipes.read_image("a.png", 1, 8, 8, scale=1000), "scale: expected a number from 0 to 255, got 1000"),
    (lambda: recipes.read_image("a.png", 1, 8, 8, max_pixels="a"), "max_pixels: expected an integer, got 'a'"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message for _, message in WRONG])
def test_it_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        call()


def test_a_schedule_that_goes_wrong_is_named() -> None:
    run = trainer(schedule=lambda t: 1 - 2 * t)
    with pytest.raises(ValueError, match=r"^schedule: expected a number from 0 to inf, got -"):
        run.fit(data.DataLoader((np.ones((4, 3), np.float32), np.zeros(4, int)), 2), epochs=2)


def test_figures_of_numpy_are_taken_in_a_configuration() -> None:
    assert trainer(config={"lr": np.float32(0.5), "n": np.int64(3)}).config == {"lr": 0.5, "n": 3}


def test_a_run_folder_that_cannot_be_made_is_said_at_once(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.png"
    file.write_text("")
    for run_dir in (file, file / "x"):
        with pytest.raises(OSError, match=r"run_dir: the folder .* cannot be made .*a\.png is no folder.; give"):
            recipes.CNN(run_dir=run_dir).check()
