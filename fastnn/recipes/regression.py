"""How well a network learns a function that swings faster and faster, against the number of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastnn import data, kernels, models, nn, optim, random, training
from fastnn.recipes.base import Recipe

_Points: TypeAlias = NDArray[np.float32]
_INSIDE, _BEYOND = np.linspace(0, 1, 10_001), np.linspace(0, 1.5, 15_001)


def target(x: NDArray[Any]) -> NDArray[Any]:
    """sin(10 pi x^4)."""
    return np.sin(10 * np.pi * x**4)


def plain(x: NDArray[Any]) -> _Points:
    """x itself, shape (N, 1)."""
    return x[:, None].astype(np.float32)


def waves(x: NDArray[Any]) -> _Points:
    """Sines and cosines of pi k x, shape (N, 2 * 64): at x = 1 the function has k = 40.

    Tancik and others, "Fourier features let networks learn high frequency functions in low dimensional domains"
    (arXiv:2006.10739), section 4.
    """
    angles = np.pi * np.arange(1, 65) * x[:, None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


@dataclass
class Regression(Recipe):
    """A network of three layers learns sin(10 pi x^4) from n samples.

    Samples are drawn evenly from [0, 1]; the largest error is measured there and on [0, 1.5]. Trained twice: by
    gradient descent with momentum on x itself, as it was reported, and by Adam on waves of x, which cures it.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.Regression(points=3).numbers()
    [10, 100, 1000]
    """

    name: ClassVar[str] = "regression"
    needs: ClassVar[str] = "nothing"
    takes: ClassVar[str] = "8 min"
    headline: ClassVar[tuple[str, ...]] = ("largest error inside, n = 1000", "cured, n = 1000")
    reported: ClassVar[str] = "n = 32: 1.32 / 1.49; 128: 1.48 / 1.72; 256: 1.08 / 1.18"

    points: int = 20
    """How many numbers of samples, from 10 to 1,000 in equal ratios."""

    repeats: int = 5
    """Trainings for each number, each on samples and from weights of its own."""

    updates: int = 1000
    """Steps of each training, rounded up to whole passes through its samples."""

    batch_size: int = 64
    """Samples in an update, or all where there are fewer."""

    def check(self) -> None:
        super().check()
        for name, least in (("points", 2), ("repeats", 1), ("updates", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")

    def check_data_dir(self) -> None:
        super().check_data_dir()
        if self.data_dir is not None:
            raise ValueError(f"data_dir: expected none, since {self.name} reads no data set, got {self.data_dir}; "
                             "leave it out")

    def numbers(self) -> list[int]:
        """Return the numbers of samples."""
        return [int(n) for n in np.logspace(1, 3, self.points).round()]

    def experiment(self) -> None:
        self.check()
        run_dir = self.open_run_dir()
        self.write_config()
        print(f"{self.name}: sin(10 pi x^4) from {self.points} numbers of samples, {self.repeats} trials of "
              f"{self.updates:,} updates with {self.batch_size} samples each")
        print(f"run folder: {run_dir}", flush=True)
        names = ("momentum", "cured")
        errors = np.empty((len(names), self.points, self.repeats, 2))
        rows = [["n", "momentum: on [0, 1]", "on [0, 1.5]", "cured: on [0, 1]", "on [0, 1.5]"]]
        line = "{:>5} {:>20} {:>16} {:>18} {:>16}".format
        print(line(*rows[0]))
        for i, n in enumerate(self.numbers()):
            for j, _ in enumerate(names):
                for trial in range(self.repeats):
                    predict = self.learn(n, trial, cured=bool(j))
                    errors[j, i, trial] = [np.abs(predict(x) - target(x)).max() for x in (_INSIDE, _BEYOND)]
            each = [trials for part in errors[:, i] for trials in part.T]
            rows.append([str(n), *(f"{trials.mean():.2f} +- {trials.std():.2f}" for trials in each)])
            print(line(*rows[-1]), flush=True)

        mean, deviation = errors.mean(2), errors.std(2)
        curves = {f"{name}, on {where}": (self.numbers(), mean[j, :, k], deviation[j, :, k])
                  for j, name in enumerate(names) for k, where in enumerate(("[0, 1]", "[0, 1.5]"))}
        fits = {"sin(10 pi x^4)": (_INSIDE, target(_INSIDE)),
                **{name: (_INSIDE, self.learn(1000, 0, cured=bool(j))(_INSIDE)) for j, name in enumerate(names)}}
        report = training.write_report(
            run_dir, title=f"{self.name}: sin(10 pi x^4)",
            figures={"largest error inside, n = 1000": f"{mean[0, -1, 0]:.2f}",
                     "on [0, 1.5], n = 1000": f"{mean[0, -1, 1]:.2f}", "cured, n = 1000": f"{mean[1, -1, 0]:.3f}"},
            pictures={"Largest error against the number of samples": training.plots.lines(
                          curves, "samples n", "largest error", log_x=True, log_y=True),
                      "What is learned from 1,000 samples": training.plots.lines(fits, "x", "f(x)")},
            tables={"Largest error, its mean and deviation over the trials": rows})
        print(f"report: {report}")
        print(f"largest error on [0, 1] from 1,000 samples: {mean[0, -1, 0]:.2f}, cured {mean[1, -1, 0]:.3f}")

    def learn(self, n: int, trial: int, *, cured: bool) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Train on n samples; return the function that was learned."""
        seed = self.seed * 1000 + trial
        features = waves if cured else plain
        x = random.generator(seed, "samples", n).random(n)
        size = min(n, self.batch_size)
        loader = data.DataLoader((features(x), plain(target(x))), size, seed=seed, drop_last=True, prefetch=False)
        epochs = -(-self.updates // len(loader))
        width = features(x).shape[1]
        model = models.FullyConnectedNet(width, (256, 256, 256), 1, activation="tanh" if cured else "relu",
                                         init="xavier_normal", loss="mse", seed=seed)
        if not cured:
            _draw_parameters(model, seed)
        optimizer: optim.Optimizer = (optim.Adam(model.parameters(), 0.001) if cured else
                                      optim.SGD(model.parameters(), 0.01, momentum=0.9))
        trainer = training.Trainer(model, nn.MSELoss(), optimizer, seed=seed, device=self.device, progress=False,
                                   schedule=optim.CosineLR(epochs) if cured else None)
        trainer.fit(loader, epochs=epochs)
        return lambda points: kernels.to_host(model(self.placed(features(points))))[:, 0]


def _draw_parameters(model: nn.Module, seed: int) -> None:
    """Draw weights and biases from U(-b, b) with b = 1 / sqrt(inputs), torch's defaults.

    Without biases of its own each unit of a network on one number bends at 0, and nowhere else.
    """
    rng = random.generator(seed, "spread")
    layers = [layer for _, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    for layer in layers:
        for parameter in layer.parameters():
            parameter.data[...] = rng.uniform(-1, 1, parameter.data.shape) / np.sqrt(layer.in_features)
