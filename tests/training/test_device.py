"""Training on a GPU, or in the simulator: the host's result, without waiting for a step."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn import _device, data, nn, optim, random, training
from fastnn.training import _sums
from fastnn.training._loader import placed

# The simulator's threads know nothing of numpy.errstate.
pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

RNG = random.generator(0, "samples")
X, LABELS = RNG.standard_normal((8, 3)), RNG.integers(0, 2, 8)


def loader(x: np.ndarray = X, batch_size: int = 4, **options: Any) -> data.DataLoader:
    return data.DataLoader((x, LABELS[: len(x)]), batch_size, **options)


def trainer(device: str, run_dir: Path | None = None, **options: Any) -> training.Trainer:
    with random.seeded(0):
        model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.3),
                              nn.Linear(4, 2))
    model.to(np.float64)
    return training.Trainer(model, nn.CrossEntropyLoss(), optim.AdamW(model.parameters(), 0.05), device=device,
                            run_dir=run_dir, progress=False, seed=3, **options)


def assert_same_model(ours: nn.Module, theirs: nn.Module, rtol: float) -> None:
    expected = theirs.state_dict()
    for name, array in ours.state_dict().items():
        np.testing.assert_allclose(array, expected[name], rtol=rtol, atol=rtol, err_msg=name, strict=True)


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("seconds", "images_per_second")}


def test_it_learns_what_it_learns_on_the_host() -> None:
    runs = [trainer(device, clip_norm=0.5, clip_value=0.2) for device in ("cpu", "cuda")]
    host, device = [run.fit(loader(), loader(shuffle=False), epochs=3) for run in runs]
    assert_same_model(runs[1].model, runs[0].model, 1e-10)
    for ours, theirs in zip(device.records, host.records, strict=True):
        assert timeless(ours) == pytest.approx(timeless(theirs), rel=1e-10)
        assert all(isinstance(value, int | float) for value in ours.values())
    assert all(_device.is_device(parameter.data) for parameter in runs[1].model.parameters())


def test_a_step_does_not_wait(nothing_waits: Any) -> None:
    run = trainer("cuda", clip_norm=0.5, clip_value=0.2, schedule=optim.CosineLR(1))
    run.fit(loader(), epochs=1)
    run._steps_per_epoch = 2
    batch = next(loader().epoch(0))

    def step() -> None:
        *inputs, targets = placed(batch, "cuda")
        assert _device.is_device(run._step(inputs, targets))
        assert _device.is_device(run._state.sums.correct)

    nothing_waits(step)


@pytest.mark.skipif(not _device.SIMULATED, reason="the simulator counts copies to the host")
def test_copies_do_not_grow_with_the_number_of_steps() -> None:
    copies = []
    for batch_size in (4, 2, 1):
        model = nn.Sequential(nn.Linear(3, 2)).to(np.float64)
        run = training.Trainer(model, nn.CrossEntropyLoss(), optim.AdamW(model.parameters(), 0.05), device="cuda",
                               progress=False)
        before = _device.xp.copies_to_host
        run.fit(loader(X[:4], batch_size), loader(X[:4], batch_size), epochs=1)
        copies.append(_device.xp.copies_to_host - before)
    assert copies[0] == copies[1] == copies[2] < 10


def test_callbacks_get_arrays_of_the_gpu() -> None:
    class Losses(training.Callback):
        def __init__(self) -> None:
            self.losses: list[Any] = []

        def on_step_end(self, trainer: training.Trainer, loss: Any) -> None:
            self.losses.append(loss)

    losses, histograms = Losses(), training.WeightHistograms(bins=3)
    run = trainer("cuda", callbacks=[losses, histograms, training.EarlyStopping(1, restore_best=True)])
    history = run.fit(loader(), loader(), epochs=2)
    assert all(_device.is_device(loss) and loss.shape == () for loss in losses.losses)
    assert np.mean([float(loss) for loss in losses.losses[:2]]) == pytest.approx(history["train_loss"][0], rel=1e-12)
    assert [counts.sum(1).tolist() for counts in histograms.counts] == [[12, 8]] * (1 + len(history))


@pytest.mark.parametrize("make", [lambda: training.ExponentialMovingAverage(0.9), lambda: training.Lookahead(3)])
def test_averages_of_weights_are_the_hosts(make: Any, tmp_path: Path, nothing_waits: Any) -> None:
    runs = [trainer(device, callbacks=[make()]) for device in ("cpu", "cuda")]
    host, device = [run.fit(loader(), loader(), epochs=3) for run in runs]
    assert_same_model(runs[1].model, runs[0].model, 1e-10)
    np.testing.assert_allclose(device["val_loss"], host["val_loss"], rtol=1e-10)
    nothing_waits(lambda: runs[1].callbacks[0].on_step_end(runs[1], 0.0))

    trainer("cuda", tmp_path, callbacks=[make()]).fit(loader(), epochs=1)
    run = trainer("cuda", tmp_path, callbacks=[make()])
    run.fit(loader(), epochs=3, resume=True)
    assert_same_model(run.model, runs[0].model, 1e-10)


def test_attacks_are_the_hosts(nothing_waits: Any) -> None:
    normalize, images, results = data.Normalize(0.5, [0.1, 0.2, 0.1]), X.reshape(8, 3, 1, 1), []
    for device in ("cpu", "cuda"):
        with random.seeded(0):
            model = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        run = training.Trainer(model.to(np.float64), nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1),
                               device=device, progress=False)
        attacked = training.AdversarialLoader(loader(images), model, 0.3, steps=2, normalize=normalize,
                                              random_start=True)
        run.fit(attacked, epochs=2)
        attack = training.attacks.fgsm(model, images, LABELS, 0.1, steps=2, normalize=normalize, batch_size=3)
        assert isinstance(attack.images, np.ndarray)
        results.append((run, attack, training.attacks.input_gradient(model, images, LABELS)))
    (host, host_attack, host_gradient), (run, attack, gradient) = results
    assert_same_model(run.model, host.model, 1e-10)
    np.testing.assert_allclose(gradient, host_gradient, rtol=1e-8, atol=1e-12)
    for name in ("images", "losses", "scores"):
        np.testing.assert_allclose(getattr(attack, name), getattr(host_attack, name), rtol=1e-10)
    nothing_waits(lambda: list(attacked.epoch(0)))


def test_an_evaluation_has_the_loaders_order() -> None:
    host, device = (trainer(device).evaluate(loader(seed=3)) for device in ("cpu", "cuda"))
    assert device.loss == pytest.approx(host.loss, rel=1e-10)
    assert device.accuracy == host.accuracy
    for name in ("labels", "predictions", "confusion"):
        np.testing.assert_array_equal(getattr(device, name), getattr(host, name), strict=True)


def test_a_regression() -> None:
    results = []
    for device in ("cpu", "cuda"):
        with random.seeded(0):
            model = nn.Linear(3, 1).to(np.float64)
        run = training.Trainer(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1), device=device, progress=False)
        history = run.fit(data.DataLoader((X, X[:, :1]), 4), epochs=2)
        assert history.records[-1]["train_accuracy"] is None
        results.append(run.evaluate(data.DataLoader((X, X[:, :1]), 3)).loss)
    assert results[1] == pytest.approx(results[0], rel=1e-10)


class Temperature(nn.Module):
    """Cross-entropy of scores times a learned factor."""

    def __init__(self) -> None:
        self.factor = nn.Parameter(np.array([2.0]))

    def forward(self, scores: Any, labels: Any, *, training: bool = True) -> Any:
        factor = self.factor.data
        loss, loss_backward = nn.CrossEntropyLoss().forward(factor * scores, labels)

        def backward(grad: float = 1.0) -> Any:
            grad = loss_backward(grad)
            self.factor.accumulate((grad * scores).sum().reshape(1))
            return factor * grad

        return loss, backward


def test_a_loss_with_parameters(tmp_path: Path) -> None:
    runs = []
    for device in ("cpu", "cuda"):
        with random.seeded(0):
            model, loss = nn.Linear(3, 2).to(np.float64), Temperature()
        optimizer = optim.Adam([*model.parameters(), *loss.parameters()], 0.05)
        runs.append(training.Trainer(model, loss, optimizer, device=device, progress=False, run_dir=tmp_path / device))
        runs[-1].fit(loader(), loader(), epochs=2)
    assert _device.is_device(runs[1].loss.factor.data)
    assert_same_model(runs[1].model, runs[0].model, 1e-10)
    assert_same_model(runs[1].loss, runs[0].loss, 1e-10)
    saved = training.load(tmp_path / "cuda" / "last.safetensors")[0]["loss.factor"]
    np.testing.assert_array_equal(saved, runs[1].loss.state_dict()["factor"])


def test_labels_out_of_range_are_refused_before_the_first_step() -> None:
    for label in (-1, 2):
        wrong = data.DataLoader((X, np.where(np.arange(8) == 0, label, LABELS)), 4, shuffle=False)
        for loaders in ((wrong, None), (loader(), wrong)):
            with pytest.raises(ValueError, match=f"labels: expected those that .* for 2 scores, got .*{label}"):
                trainer("cuda").fit(*loaders, epochs=1)


def test_data_that_are_not_finite_are_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sums, "_LOOK", 2)
    x = X.copy()
    x[5, 1] = np.nan
    with pytest.raises(training.DivergedError, match=r"in epoch 1 within steps 3 to 4 of 4 .*: the inputs of batch 3 "
                                                     r"are not finite themselves: mend the data \(sample 5 of the"):
        trainer("cuda").fit(loader(x, 2, shuffle=False), epochs=1)
    with pytest.raises(training.DivergedError, match=r"the inputs of validation batch 2 .* \(sample 5 of the loader's"):
        trainer("cuda").fit(loader(), loader(x), epochs=1)


@pytest.mark.parametrize(("what", "message"), [
    (lambda run: run.model[0].weight.data.fill(np.nan), r"0\.weight is not finite"),
    (lambda run: run.model[1].running_var.fill(np.inf), r"1\.running_var is not finite"),
    (lambda run: run.optimizer._states[0]["exp_avg"].fill(np.nan), r"the optimizer's exp_avg for 0\.weight is not fin"),
    (lambda run: run.model[4].weight.data.fill(1e308), r"the loss of the last batch is (nan|inf) after its update,"),
])
def test_what_a_last_step_breaks_is_not_saved(what: Any, message: str, tmp_path: Path) -> None:
    class Spoil(training.Callback):
        def on_step_end(self, trainer: training.Trainer, loss: Any) -> None:
            if trainer._state.updates == 4:
                what(trainer)

    trainer("cuda", tmp_path).fit(loader(), epochs=1)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(training.DivergedError, match=f"^{message}.* in epoch 2 after 2 of 2 steps"):
        trainer("cuda", tmp_path, callbacks=[Spoil()]).fit(loader(), epochs=2, resume=True)
    assert (tmp_path / "last.safetensors").read_bytes() == before


# --- checkpoints ---


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_on_the_other_device(first: str, second: str, tmp_path: Path) -> None:
    whole = trainer("cpu")
    whole.fit(loader(), loader(), epochs=3)
    trainer(first, tmp_path).fit(loader(), loader(), epochs=2)
    resumed = trainer(second, tmp_path)
    resumed.fit(loader(), loader(), epochs=3, resume=True)
    assert_same_model(resumed.model, whole.model, 1e-10)
    other = trainer(first)
    training.load_model(tmp_path / "last.safetensors", other.model)
    assert_same_model(other.model, resumed.model, 0)


@pytest.mark.usefixtures("signals_heard")
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    class Press(training.Callback):
        def on_step_end(self, trainer: training.Trainer, loss: Any) -> None:
            if trainer._state.updates == 3:
                signal.raise_signal(signal.SIGINT)

    whole, options = trainer("cuda"), {"batch_size": 3}
    history = whole.fit(loader(**options), loader(), epochs=2)
    with pytest.raises(training.Interrupted, match="interrupted in epoch 1 after step 3"):
        trainer("cuda", tmp_path, callbacks=[Press()]).fit(loader(**options), loader(), epochs=2)
    resumed = trainer("cuda", tmp_path)
    again = resumed.fit(loader(**options), loader(), epochs=2, resume=True)
    assert_same_model(resumed.model, whole.model, 0)
    assert [timeless(record) for record in again.records] == [timeless(record) for record in history.records]


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1.0}])
def test_what_is_not_finite_ends_the_run_before_a_checkpoint(clip: dict[str, float], tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sums, "_LOOK", 2)

    class Spoil(training.Callback):
        def on_gradients(self, trainer: training.Trainer) -> None:
            if trainer._state.updates == 6:
                trainer.model[0].weight.grad[0, 0] = np.nan

    run = trainer("cuda", tmp_path, callbacks=[Spoil()], **clip)
    with pytest.raises(training.DivergedError) as caught:
        run.fit(loader(batch_size=2), loader(), epochs=3)
    assert str(caught.value).startswith("a loss or a gradient is not finite in epoch 2 within steps 3 to 4 of 4 (learn")
    assert str(caught.value).endswith(f"{tmp_path / 'last.safetensors'} is as it was")
    saved = trainer("cpu")
    training.load_model(tmp_path / "last.safetensors", saved.model)
    fine = trainer("cuda", **clip)
    fine.fit(loader(batch_size=2), loader(), epochs=1)
    assert_same_model(saved.model, fine.model, 0)


def test_an_infinite_gradient_is_seen_though_it_is_clipped() -> None:
    x = X.copy()
    x[5] = np.inf
    with pytest.raises(training.DivergedError, match="in epoch 1 within steps 1 to 2 of 2"):
        trainer("cuda", clip_value=0.1).fit(loader(x), epochs=1)


def test_a_validation_loss_that_is_not_finite() -> None:
    with pytest.raises(training.DivergedError, match="the validation loss is nan in epoch 1 after 2 of 2 steps"):
        trainer("cuda").fit(loader(), loader(np.full_like(X, np.nan)), epochs=1)
