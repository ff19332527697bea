"""A model's scores averaged over views: against the views by np.pad, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnn import data, models, nn, optim, random, testing, training


def net() -> nn.Module:
    with random.seeded(0):
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4)).to(np.float64)


X = random.generator(0, "images").standard_normal((3, 2, 5, 6))


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shift", [0, 1, 2, 4])
def test_it_is_the_mean_of_the_views(flip: bool, shift: int) -> None:
    model, padded = net(), np.pad(X, ((0, 0), (0, 0), (shift, shift), (shift, shift)), "reflect")

    def scores(offset: int) -> Any:
        view = padded[:, :, offset : offset + 5, offset : offset + 6]
        return (model(view) + model(view[..., ::-1])) / 2 if flip else model(view)

    expected = scores(shift) / 2 + scores(0) / 4 + scores(2 * shift) / 4
    found = models.MultiCrop(model, flip=flip, shift=shift)(X)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert models.MultiCrop(model.to(np.float32), flip=flip, shift=shift)(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(("flip", "shift"), [(True, 1), (True, 4), (False, 2), (True, 0)])
def test_gradients(flip: bool, shift: int) -> None:
    checks = testing.check_gradients(models.MultiCrop(net(), flip=flip, shift=shift), X, whole=False)
    assert len(checks) == 5
    assert max(check.error for check in checks) <= 1e-7


def test_a_trainer_measures_with_it_and_an_attack_takes_it() -> None:
    digits, normalize = data.digits(), data.Normalize(0.3, 0.4, 16)
    model = models.CNN()
    run = training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01), progress=False)
    run.fit(data.DataLoader(digits.train, 64, transform=normalize), epochs=1)
    several = models.MultiCrop(model, flip=False, shift=1)
    loader = data.DataLoader(digits.test, 100, transform=normalize)
    evaluation = training.Trainer(several, nn.CrossEntropyLoss(), run.optimizer, progress=False).evaluate(loader)
    assert evaluation.accuracy is not None
    assert abs(evaluation.accuracy - (run.evaluate(loader).accuracy or 0)) < 0.1
    images = normalize(digits.test.images[:50], random.generator(0, "none"))
    attack = training.attacks.fgsm(several, images, digits.test.labels[:50], 0.1, normalize=normalize)
    assert attack.losses[1] > attack.losses[0]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: models.MultiCrop(3), "model: expected a Module, got int"),
    (lambda: models.MultiCrop(net(), shift=-1), "shift: expected at least 0, got -1"),
    (lambda: models.MultiCrop(net(), shift=5)(X), r"x: expected images larger than the shift of 5, got shape"),
    (lambda: models.MultiCrop(net())(X[0]), r"x: expected 4 dimensions \(N, C, H, W\), got shape"),
    (lambda: models.MultiCrop(net())(X.astype(np.uint8)), "x: expected float32 or float64, got uint8"),
])
def test_wrong_arguments(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        call()
