"""A run with all that changes its images at random, interrupted in the middle of an epoch."""

import signal
import sys

import numpy as np
import pytest

from fastnn import data, nn, optim, random, training

DIGITS = data.digits()


def loaders(prefetch=True):
    normalize = data.Normalize(0.3, 0.4, DIGITS.scale)
    augment = data.Compose([
        data.AlternatingHorizontalFlip(seed=1), data.RandomCrop(2), data.ColorJitter(0.2, 0.2, scale=DIGITS.scale),
        data.RandomApply(data.RandomAffine(15, (0.1, 0.1)), 0.5), normalize, data.Cutout(2)])
    train = data.Split(DIGITS.train.images[:160], DIGITS.train.labels[:160])
    return (data.DataLoader(train, 32, seed=2, transform=augment, batch_transform=data.MixUp(10, 0.2),
                            prefetch=prefetch),
            data.DataLoader(DIGITS.test, 120, transform=normalize))


def trainer(run_dir, callbacks=(), progress=False):
    with random.seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return training.Trainer(model, nn.CrossEntropyLoss(label_smoothing=0.1), optim.Adam(model.parameters(), 0.01),
                            run_dir=run_dir, callbacks=[training.Lookahead(), *callbacks], progress=progress)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("signals_heard")
def test_it_ends_with_the_same_bits(tmp_path, capsys):
    class Stop(training.Callback):
        def on_step_end(self, trainer, loss):
            if trainer.optimizer._states[0]["step"] == 8:
                signal.raise_signal(signal.SIGINT)

    history = trainer(tmp_path / "whole", progress=True).fit(*loaders(), epochs=3)
    assert "3/3" in capsys.readouterr().out
    assert np.isnan(history["train_accuracy"]).all(), "labels that are mixed are neither right nor wrong"
    assert (np.diff(history["train_loss"]) < 0).all()
    with pytest.raises(training.Interrupted):
        trainer(tmp_path / "cut", [Stop()]).fit(*loaders(), epochs=3)
    trainer(tmp_path / "cut").fit(*loaders(prefetch=False), epochs=3, resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        whole, cut = (training.load(tmp_path / folder / name)[0] for folder in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        for key, array in whole.items():
            np.testing.assert_array_equal(array, cut[key], err_msg=key)
    assert (tmp_path / "cut" / "curves.png").exists()
