"""Magnitude pruning: which weights go, when, and that they stay away."""

from __future__ import annotations

import signal
import sys

import numpy as np
import pytest

from fastnn import _device, data, nn, optim, random, training
from fastnn.training import pruning

DIGITS = data.digits()
TRAIN = data.Split(DIGITS.train.images[:96], DIGITS.train.labels[:96])


def loader():
    return data.DataLoader(TRAIN, 32, transform=data.Normalize(0.3, 0.4, 16))       # three steps an epoch


def network():
    with random.seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2),
                             nn.Linear(12, 10))


def trainer(*callbacks, run_dir=None, model=None, optimizer=None, **options):
    model = network() if model is None else model
    optimizer = optim.Adam(model.parameters(), 0.02) if optimizer is None else optimizer(model.parameters())
    return training.Trainer(model, nn.CrossEntropyLoss(), optimizer, callbacks=callbacks, run_dir=run_dir,
                            progress=False, **options)


def gradual():
    return training.Pruning(0.8, begin_step=1, end_step=7, frequency=2)


def zeros(model):
    return {name: parameter.data == 0 for name, parameter in pruning.prunable(model).items()}


class Watch(training.Callback):
    """Notes the sparsity after each step, and that what is 0 stays so."""

    def __init__(self):
        self.shares, self.zeros = [], {}

    def note(self, model):
        now = zeros(model)
        for name, before in self.zeros.items():
            assert now[name][before].all(), name
        self.zeros = now
        self.shares.append(round(pruning.sparsity(model), 6))

    def on_fit_begin(self, trainer):
        self.note(trainer.model)

    def on_step_end(self, trainer, loss):
        self.note(trainer.model)

    def on_epoch_end(self, trainer, record):
        self.note(trainer.model)
        self.shares.pop()


# --- masks ---


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.901, 0.999])
def test_the_smallest_weights_of_all_layers_together_go(share):
    model = network()
    masks = pruning.magnitude_masks(model, share)
    assert list(masks) == ["1.weight", "5.weight"]
    weights = [model[1].weight.data, model[5].weight.data]
    stay = np.concatenate([mask.ravel() for mask in masks.values()])
    sizes = np.concatenate([abs(weight).ravel() for weight in weights])
    assert np.count_nonzero(~stay) == round(share * sizes.size)
    assert share == 0 or sizes[~stay].max() <= sizes[stay].min()
    before = model.state_dict()
    pruning.apply_masks(model, masks)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, np.where(masks.get(name, True), before[name], 0), strict=True)
    assert not np.signbit(model[1].weight.data[~masks["1.weight"]]).any()


def test_of_equal_weights_the_first_go():
    layer = nn.Linear(3, 2)
    layer.weight.data[...] = [[1, -1, 2], [1, 0, -1]]
    assert pruning.magnitude_masks(layer, 0.5)["weight"].tolist() == [[False, False, True], [True, False, True]]


def test_frozen_weights_stay():
    model = network()
    model[1].weight.requires_grad = False
    assert list(pruning.magnitude_masks(model, 0.5)) == ["5.weight"]
    pruning.apply_masks(model, pruning.magnitude_masks(model, 0.5))
    assert pruning.sparsity(model) == 0.5
    assert np.count_nonzero(model[1].weight.data) == 12 * 64


@pytest.mark.peers
def test_masks_are_those_of_torch():
    torch = pytest.importorskip("torch")
    from torch.nn.utils import prune

    model = network()
    theirs = [(torch.nn.Linear(64, 12), model[1]), (torch.nn.Linear(12, 10), model[5])]
    for layer, ours in theirs:
        layer.weight.data = torch.from_numpy(ours.weight.data.copy())
    prune.global_unstructured([(layer, "weight") for layer, _ in theirs], prune.L1Unstructured, amount=0.7)
    for (layer, _), mask in zip(theirs, pruning.magnitude_masks(model, 0.7).values(), strict=True):
        np.testing.assert_array_equal(layer.weight_mask.numpy().astype(bool), mask)


# --- the callback ---


def test_sparsity_rises_as_the_formula_says_and_what_is_0_stays_so():
    watch = Watch()
    callback = training.Pruning(0.8, begin_step=1, end_step=7, frequency=2, initial_sparsity=0.2)
    run = trainer(callback, watch)
    run.fit(loader(), epochs=3)
    total = 12 * 64 + 12 * 10
    at = {t: round(total * (0.8 + (0.2 - 0.8) * (1 - (t - 1) / 6) ** 3)) / total for t in (1, 3, 5, 7)}
    assert at[1] == round(0.2 * total) / total
    expected = [0, at[1], at[1], at[3], at[3], at[5], at[5], at[7], at[7], at[7]]
    assert watch.shares == [round(share, 6) for share in expected]
    assert [callback.sparsity_at(t) for t in (1, 7, 99)] == [pytest.approx(0.2), 0.8, 0.8]


def test_by_default_all_go_before_the_first_step():
    watch = Watch()
    trainer(training.Pruning(0.75), watch, optimizer=lambda params: optim.SGD(
        params, 0.5, momentum=0.9, weight_decay=0.1)).fit(loader(), epochs=1)
    assert watch.shares == [0.75] * 4


def test_without_an_end_all_go_at_the_first_time():
    watch = Watch()
    trainer(training.Pruning(0.75, begin_step=2), watch).fit(loader(), epochs=1)
    assert watch.shares == [0, 0, 0.75, 0.75]


def test_a_model_without_weights_has_no_zeros():
    assert pruning.sparsity(nn.ReLU()) == 0.0


@pytest.mark.parametrize(("options", "share"), [
    ({"sparsity": 0.75, "end_step": 2}, 0.75),      # it is past
    ({"sparsity": 0.75, "end_step": 6, "frequency": 9}, 0.5),
    ({"sparsity": 0.25, "end_step": 5}, 0.5),       # nothing comes back
])
def test_a_resumed_run_may_have_other_options(tmp_path, options, share):
    trainer(training.Pruning(0.5), run_dir=tmp_path).fit(loader(), epochs=1)
    watch = Watch()
    run = trainer(training.Pruning(**options), watch, run_dir=tmp_path)
    run.fit(loader(), epochs=2, resume=True)
    assert watch.shares[0] == share
    assert watch.shares[-1] == max(0.5, options["sparsity"])


def test_gradients_by_what_is_0_do_not_count():
    class Norm(training.Callback):
        def on_gradients(self, trainer):
            for name, parameter in pruning.prunable(trainer.model).items():
                assert not parameter.grad[~pruned.masks[name]].any()
                assert parameter.grad[pruned.masks[name]].any()

    pruned = training.Pruning(0.5)
    trainer(pruned, Norm()).fit(loader(), epochs=1)


@pytest.mark.parametrize("average", [lambda: training.ExponentialMovingAverage(0.9), lambda: training.Lookahead(2)])
def test_averages_of_weights_are_pruned_too(average):
    class Validated(training.Callback):
        def on_validation_end(self, trainer, evaluation):
            assert pruning.sparsity(trainer.model) == 0.75

    run = trainer(average(), training.Pruning(0.75), Validated())
    run.fit(loader(), loader(), epochs=2)
    assert pruning.sparsity(run.model) == 0.75


class Signals(training.Callback):
    def __init__(self, at_step):
        self.steps, self.at_step = 0, at_step

    def on_step_end(self, trainer, loss):
        self.steps += 1
        if self.steps == self.at_step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize("at_step", [1, 4, 6, 8])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, at_step):
    trainer(gradual(), run_dir=tmp_path / "whole").fit(loader(), loader(), epochs=3)
    with pytest.raises(training.Interrupted):
        trainer(gradual(), Signals(at_step), run_dir=tmp_path / "cut").fit(loader(), loader(), epochs=3)
    trainer(gradual(), run_dir=tmp_path / "cut").fit(loader(), loader(), epochs=3, resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        whole, cut = (training.load(tmp_path / folder / name)[0] for folder in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        for key, array in whole.items():
            np.testing.assert_array_equal(array, cut[key], err_msg=key, strict=True)


def test_a_callback_begins_anew_with_another_run():
    callback = gradual()
    runs = [trainer(callback) for _ in range(2)]
    for run in runs:
        run.fit(loader(), epochs=3)
    for name, array in runs[0].model.state_dict().items():
        np.testing.assert_array_equal(array, runs[1].model.state_dict()[name], err_msg=name)


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_on_a_gpu(tmp_path):
    x, labels = random.generator(0, "samples").standard_normal((8, 3)), np.arange(8) % 2
    small = data.DataLoader((x, labels), 4)
    weights = []
    for device in ("cpu", "cuda"):
        with random.seeded(0):
            model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to(np.float64)
        for epochs in (1, 2):
            run = trainer(training.Pruning(0.5, end_step=3, frequency=1), model=model, device=device,
                          run_dir=tmp_path / device)
            run.fit(small, epochs=epochs, resume=epochs == 2)
        assert all(_device.is_device(mask) == (device == "cuda") for mask in run.callbacks[0].masks.values())
        assert pruning.sparsity(model) == 0.5
        weights.append(model.state_dict())
    for name, array in weights[0].items():
        np.testing.assert_allclose(weights[1][name], array, rtol=1e-10, err_msg=name)


# --- what is refused ---


@pytest.mark.parametrize(("make", "message"), [
    (lambda: training.Pruning(1), "sparsity: expected a number from 0 to below 1, got 1"),
    (lambda: training.Pruning(-0.1), "sparsity: expected a number from 0 to below 1, got -0.1"),
    (lambda: training.Pruning("0.5"), "sparsity: expected a number, got '0.5'"),
    (lambda: training.Pruning(0.5, initial_sparsity=0.6), "initial_sparsity: expected at most the sparsity, 0.5, got"),
    (lambda: training.Pruning(0.5, begin_step=-1), "begin_step: expected at least 0, got -1"),
    (lambda: training.Pruning(0.5, begin_step=3, end_step=2), "end_step: expected at least 3, got 2"),
    (lambda: training.Pruning(0.5, frequency=0), "frequency: expected at least 1, got 0"),
    (lambda: pruning.magnitude_masks(network(), 1.0), "sparsity: expected a number from 0 to below 1, got 1.0"),
    (lambda: pruning.magnitude_masks(nn.ReLU(), 0.5), "model: expected weights to prune, .* this ReLU has none"),
    (lambda: pruning.apply_masks(network(), {"2.nobody": np.ones(2, bool)}), "unexpected: 2.nobody"),
    (lambda: pruning.apply_masks(network(), {"1.weight": np.ones((2, 2), bool)}), "mismatched: 1.weight"),
    (lambda: pruning.apply_masks(network(), {"1.weight": np.full((12, 64), 0.5)}), "mismatched: 1.weight"),
])
def test_wrong_arguments(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_weight_that_is_not_finite_is_named():
    model = network()
    model[5].weight.data[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"model: expected finite weights, but 5\.weight is not finite"):
        pruning.magnitude_masks(model, 0.5)


def test_averages_behind_pruning_are_refused_before_anything_is_written(tmp_path):
    run = trainer(gradual(), training.Lookahead(), run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="callbacks: expected Lookahead, which averages weights, before Pruning, got"):
        run.fit(loader(), epochs=1)
    assert not (tmp_path / "run").exists()


def test_masks_of_another_model_are_refused(tmp_path):
    trainer(gradual(), run_dir=tmp_path).fit(loader(), epochs=1)
    tensors, metadata = training.load(tmp_path / "last.safetensors")
    name = "callbacks.0.Pruning.masks.1.weight"
    training.save(tmp_path / "last.safetensors", {**tensors, name: tensors[name][:2]}, metadata)
    with pytest.raises(ValueError, match=r"mismatched: 1\.weight"):
        trainer(gradual(), run_dir=tmp_path).fit(loader(), epochs=2, resume=True)
