"""Embedded patches of digits, with and without a hidden layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastnn import data, models, nn, optim, training
from fastnn.recipes.base import Recipe, check_above_0
from fastnn.training.metrics import percent


@dataclass
class EmbeddingNetMnist(Recipe):
    """Patches of 4x4 pixels, embedded and classified, on MNIST.

    Two networks, both by gradient descent with the same number of updates: one without a hidden layer, which is linear
    up to the ReLU on its scores, and one with one.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.EmbeddingNetMnist(hidden=64).updates
    10000
    """

    name: ClassVar[str] = "embedding-net-mnist"
    needs: ClassVar[str] = "MNIST (11 MB)"
    takes: ClassVar[str] = "1 min"
    headline: ClassVar[tuple[str, ...]] = ("without a hidden layer", "with a hidden layer")
    reported: ClassVar[str] = "40 to 60 %, PyTorch about 65 %"

    updates: int = 10_000
    """Steps of each network."""

    every: int = 250
    """Updates between two validations."""

    batch_size: int = 32
    """Images in an update."""

    lr: float = 0.1
    """The first learning rate, which falls to 0 along half a cosine."""

    hidden: int = 128
    """Units of the hidden layer that the second network has."""

    def check(self) -> None:
        super().check()
        for name in ("every", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.updates < 1 or self.updates % self.every:
            raise ValueError(f"updates: expected a multiple of every = {self.every}, got {self.updates}")
        check_above_0("lr", self.lr)

    def experiment(self) -> None:
        self.check()
        dataset = data.mnist(self.data_dir)
        train, validation = data.split(dataset.train, 1 / 12, self.seed)
        normalize = data.Normalize(*data.channel_statistics(train.images))
        rounds = data.Rounds(data.DataLoader(train, self.batch_size, seed=self.seed, transform=normalize), self.every)
        held, test = (data.DataLoader(part, 500, shuffle=False, transform=normalize)
                      for part in (validation, dataset.test))
        run_dir = self.open_run_dir()
        self.write_config()
        print(f"{self.name}: {len(train):,} images of mnist; {len(validation):,} for validation, {len(dataset.test):,} "
              "for the test")
        print(f"run folder: {run_dir}", flush=True)
        histories, evaluations = {}, {}
        count = self.updates // self.every
        for title, hidden in (("without a hidden layer", 0), ("with a hidden layer", self.hidden)):
            model = models.EmbeddingNet(hidden, seed=self.seed)
            trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), self.lr),
                                       schedule=optim.CosineLR(count), run_dir=run_dir / title.replace(" ", "-"),
                                       seed=self.seed, device=self.device, config=self.config(), progress=False)
            histories[title] = trainer.fit(rounds, held, epochs=count)
            evaluations[title] = trainer.evaluate(test)
            print(f"{title}: validation {percent(histories[title]['val_accuracy'][-1])}, test "
                  f"{percent(evaluations[title].accuracy)}", flush=True)
        steps = {title: history["step"] for title, history in histories.items()}
        pictures = {
            "Validation loss against updates": training.plots.lines(
                {title: (steps[title], history["val_loss"]) for title, history in histories.items()}, "updates",
                "validation loss"),
            "Validation error against updates": training.plots.lines(
                {title: (steps[title], 100 * (1 - np.array(history["val_accuracy"])))
                 for title, history in histories.items()}, "updates", "validation error (%)", log_y=True)}
        report = training.write_report(
            run_dir, evaluations["with a hidden layer"], images=dataset.test.images,
            title=f"{self.name}: {self.updates:,} updates",
            figures={title: percent(evaluation.accuracy) for title, evaluation in evaluations.items()},
            pictures=pictures,
            tables={"Both networks": [["network", "validation accuracy", "test accuracy"], *(
                [title, percent(float(histories[title]["val_accuracy"][-1])), percent(evaluation.accuracy)]
                for title, evaluation in evaluations.items())]})
        print(f"report: {report}")
        print(f"test accuracy: {'; '.join(f'{percent(e.accuracy)} {title}' for title, e in evaluations.items())}")
