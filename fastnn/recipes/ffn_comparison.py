"""Initial weights and optimizers, held against each other on one network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar, get_args

import numpy as np

from fastnn import data, models, nn, optim, training
from fastnn.recipes.cifar import CIFAR
from fastnn.recipes.fully_connected import Init, OptimizerName, optimizer
from fastnn.training.metrics import percent

# Where each optimizer does well on this network; Adam's rate diverges by gradient descent, whose rate is ten times it.
_RATES: dict[OptimizerName, float] = {"adamw": 0.001, "adam": 0.001, "rmsprop": 0.0003, "sgd": 0.01}


@dataclass
class FFNComparison(CIFAR):
    """Initial weights and optimizers compared on the network of ffn-cifar10.

    Each pair trains the same network from its own start for some epochs; one picture shows all validation accuracies
    against the epoch, another the table of the last ones.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.FFNComparison(inits=("he_normal", "normal")).optimizers
    ('adam', 'rmsprop', 'sgd')
    """

    name: ClassVar[str] = "ffn-comparison"
    takes: ClassVar[str] = "6 min"
    headline: ClassVar[tuple[str, ...]] = (
        "validation from he_normal", "validation from xavier_normal", "validation from normal")
    reported: ClassVar[str] = "He 50 to 52 %, random 32 to 50 %"

    epochs: int = 5
    """How often each training goes through all images."""

    resume: bool = False
    """Go on with the run in run_dir, by default the newest of this recipe. Its options are those that it was begun
    with; --epochs may be another number."""

    batch_size: int = 128
    """Images in an update."""

    inits: tuple[Init, ...] = ("he_normal", "xavier_normal", "normal")
    """How initial weights are drawn; "normal" draws from N(0, 0.01^2)."""

    optimizers: tuple[OptimizerName, ...] = ("adam", "rmsprop", "sgd")
    """What makes the updates, each at a learning rate that suits it."""

    hidden: tuple[int, ...] = (512, 256)
    """Units of each hidden layer."""

    def check(self) -> None:
        super().check()
        for name, values, choices in (("inits", self.inits, get_args(Init)),
                                      ("optimizers", self.optimizers, get_args(OptimizerName))):
            if not values or len(set(values)) < len(values) or not set(values) <= set(choices):
                raise ValueError(f"{name}: expected some of {', '.join(choices)}, each once, got {values}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden: expected layers of at least 1 unit, got {self.hidden}")

    def experiment(self) -> None:
        self.check()
        train, validation = data.split(self.load_dataset().train, 0.1, self.seed)
        normalize = data.Normalize(*data.channel_statistics(train.images))
        train_loader = data.DataLoader(train, self.batch_size, seed=self.seed, transform=normalize)
        validation_loader = data.DataLoader(validation, 500, shuffle=False, transform=normalize)

        run_dir = self.open_run_dir()
        self.write_config()
        print(f"{self.name}: {len(self.inits)} initializations x {len(self.optimizers)} optimizers on {self.dataset}")
        print(f"run folder: {run_dir}", flush=True)
        histories = {}
        for init, name in product(self.inits, self.optimizers):
            title, folder = f"{init}, {name}", run_dir / f"{init}-{name}"
            print(title, flush=True)
            model = models.FullyConnectedNet(3072, self.hidden, self.num_classes, init=init, seed=self.seed)
            trainer = training.Trainer(model, nn.CrossEntropyLoss(), optimizer(name, model, _RATES[name], 0.0),
                                       schedule=optim.OneCycleLR(self.epochs), run_dir=folder, seed=self.seed,
                                       device=self.device, config={**self.config(), "init": init, "optimizer": name})
            histories[title] = trainer.fit(train_loader, validation_loader, epochs=self.epochs,
                                           resume=self.resume and (folder / "last.safetensors").exists())

        last = np.array([history["val_accuracy"][-1] for history in histories.values()])
        table = last.reshape(len(self.inits), len(self.optimizers))
        pictures = {
            "Validation accuracy against epoch": training.plots.comparison(histories, "val_accuracy"),
            "Validation accuracy after the last epoch (%)": training.plots.table(
                self.inits, self.optimizers, table, "initial weights", "optimizer")}
        figures = {f"validation from {init}": f"{percent(row.min())} to {percent(row.max())}"
                   for init, row in zip(self.inits, table)}
        tables = {"Validation accuracy": [["initial weights", *self.optimizers], *(
            [init, *map(percent, row)] for init, row in zip(self.inits, table))]}
        report = training.write_report(run_dir, title=f"{self.name} on {self.dataset}", figures=figures,
                                       pictures=pictures, tables=tables)
        print(f"\n{'':<16}" + "".join(f"{name:>10}" for name in self.optimizers))
        for init, row in zip(self.inits, table):
            print(f"{init:<16}" + "".join(f"{percent(share):>10}" for share in row))
        print(f"report: {report}")
        print(f"accuracy: {'; '.join(f'{share} in {name}' for name, share in figures.items())}")
