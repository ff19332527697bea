"""What a network that was trained on other images is worth where there are few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np

from fastnn import data, models, training
from fastnn._checks import as_int, check_choice
from fastnn.nn.freezing import freeze
from fastnn.random import generator
from fastnn.recipes.base import Recipe, check_above_0
from fastnn.recipes.classification import ImageClassifier, as_part, trained_in
from fastnn.training import plots
from fastnn.training.metrics import percent

Source: TypeAlias = Literal["cifar10-eight", "mnist"]
Target: TypeAlias = Literal["cifar10-two", "fashion-mnist"]
Learned: TypeAlias = Literal["cifar10", "fashion-mnist"]

_EIGHT = 8                                  # of CIFAR-10's classes are the source's, the last two the target's
_MOST = 5000                                # training images of each class that CIFAR-10 has
_TRANSFERRED, _NEW = "transferred", "from nothing"


@dataclass
class TransferPart(ImageClassifier):
    """One of the trainings that `Transfer` compares: a residual network of 18 layers, on all images or on few.

    Examples
    --------
    >>> from fastnn.recipes import transfer
    >>> transfer.TransferPart(dataset="mnist").model().conv1.in_channels
    1
    """

    name: ClassVar[str] = "transfer-part"
    needs: ClassVar[str] = "CIFAR-10 (170 MB)"
    takes: ClassVar[str] = "~10 min"
    validation: ClassVar[float] = 0.0

    dataset: Source | Target = "cifar10-eight"
    """Which images: those of the first eight or the last two classes of CIFAR-10, MNIST or Fashion-MNIST."""

    images: int = 0
    """Training images of each class; 0 stands for all."""

    repeated: int = 0
    """To how many of each class these are repeated, so that an epoch is as long with few as with many."""

    width: int = 16
    """Channels of the first stage."""

    def load_dataset(self) -> data.Dataset:
        return self.few(images_of(self.dataset, self.data_dir))

    def few(self, dataset: data.Dataset) -> data.Dataset:
        """Return a data set with as many training images as there are to be; fewer are some of more."""
        if not self.images:
            return dataset
        order = generator(self.seed, "few images").permutation(len(dataset.train))
        labels = dataset.train.labels[order]
        rows = np.concatenate([np.resize(order[labels == label][: self.images], self.repeated or self.images)
                               for label in range(len(dataset.classes))])
        return replace(dataset, train=data.Split(dataset.train.images[rows], dataset.train.labels[rows]))

    def model(self) -> models.ResNet18:
        classes = {"cifar10-eight": _EIGHT, "cifar10-two": 10 - _EIGHT}.get(self.dataset, 10)
        return models.ResNet18(classes, in_channels=3 if self.dataset.startswith("cifar10") else 1, small_images=True,
                               width=self.width, seed=self.seed)

    def augmentation(self) -> Sequence[data.Transform]:
        if self.dataset.startswith("cifar10"):
            return [data.RandomHorizontalFlip(), data.RandomCrop(4)]
        return [data.RandomCrop(2)]


def images_of(dataset: Source | Target, data_dir: Path | None) -> data.Dataset:
    """Return the images that are called so."""
    if not dataset.startswith("cifar10"):
        return data.load(dataset.replace("-", "_"), data_dir)
    found = data.cifar10(data_dir)
    classes = slice(_EIGHT) if dataset == "cifar10-eight" else slice(_EIGHT, None)
    names = found.classes[classes]
    first = found.classes.index(names[0])
    train, test = (_of_labels(part, first, len(names)) for part in (found.train, found.test))
    return data.Dataset(train, test, names, dataset, found.scale)


def _of_labels(part: data.Split, first: int, count: int) -> data.Split:
    labels = part.labels - first
    chosen = (labels >= 0) & (labels < count)
    return data.Split(part.images[chosen], labels[chosen])


@dataclass
class Transfer(Recipe):
    """What weights from other images are worth where there are few, on CIFAR-10 or Fashion-MNIST.

    A residual network of 18 layers is trained on eight classes of CIFAR-10, and goes on with few images of the other
    two, a new last layer, and its first layers frozen; or on MNIST, and goes on with Fashion-MNIST. The same network is
    trained on the same few images from nothing, with the same number of updates. A picture and a table compare them.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.Transfer(dataset="fashion-mnist", freeze=("conv1",)).command()
    'fastnn train transfer --dataset fashion-mnist --freeze conv1'
    """

    name: ClassVar[str] = "transfer"
    needs: ClassVar[str] = "CIFAR-10 (170 MB)"
    takes: ClassVar[str] = "12 min"
    changeable: ClassVar[tuple[str, ...]] = ("run_dir", "data_dir", "resume", "device")     # epochs are for each part

    dataset: Learned = "cifar10"
    """What is learned from few images: CIFAR-10's ships and trucks, after its other classes, or Fashion-MNIST, after
    MNIST."""

    init_from: Path | None = None
    """Folder of a run that trained the same network on other images, such as runs/transfer-1/source; without one it is
    trained first."""

    freeze: tuple[str, ...] = ("conv1", "bn1", "layer[12]")
    """Patterns of names of layers or parameters that stay as they are on the few images; layer[1234] for all but the
    last layer."""

    epochs: int = 10
    """How often the first training goes through all its images."""

    resume: bool = False
    """Go on with the run in run_dir, by default the newest of this recipe. Its options are those that it was begun
    with."""

    images: tuple[int, ...] = (20, 100, 500)
    """Training images of each class."""

    updates: int = 400
    """Steps of each training on few images, rounded up to whole passes through the largest number of them."""

    repeats: int = 3
    """Trainings of each kind, each with other images and initial weights."""

    batch_size: int = 64
    """Images in an update."""

    lr: float = 0.005
    """Highest learning rate."""

    width: int = 16
    """Channels of the network's first stage; each later one has twice as many."""

    def check(self) -> None:
        check_choice("dataset", self.dataset, get_args(Learned))
        super().check()
        images = [as_int("images", number) for number in self.images]
        if not images or images != sorted(set(images)) or images[0] < 1 or images[-1] > _MOST:
            raise ValueError(f"images: expected rising numbers from 1 to {_MOST:,}, got {self.images}")
        for name in ("updates", "repeats", "width"):
            setattr(self, name, as_int(name, getattr(self, name), 1))
        check_above_0("lr", self.lr)
        if self.init_from is not None:
            trained_in(self.init_from)
            if self.epochs != type(self).epochs:
                raise ValueError(f"epochs: expected none with init_from, whose network is trained already, got "
                                 f"{self.epochs}")
        training.freeze_layers(self.target(self.images[0]).model(), self.freeze)

    def headlines(self) -> tuple[str, ...]:
        return tuple(f"{images} images a class" for images in self.images)

    def source(self) -> TransferPart:
        """Return the training on other images."""
        return TransferPart(dataset="cifar10-eight" if self.dataset == "cifar10" else "mnist", epochs=self.epochs,
                            batch_size=self.batch_size, lr=self.lr, width=self.width, seed=self.seed)

    def target(self, images: int, trial: int = 0, init_from: Path | None = None) -> TransferPart:
        """Return a training on so many images of each class: from the weights of a run, or from nothing."""
        most, classes = self.images[-1], 2 if self.dataset == "cifar10" else 10
        steps = -(-most * classes // self.batch_size)
        return TransferPart(dataset="cifar10-two" if self.dataset == "cifar10" else "fashion-mnist", images=images,
                            repeated=most, epochs=-(-self.updates // steps), batch_size=self.batch_size, lr=self.lr,
                            width=self.width, seed=self.seed + trial, init_from=init_from,
                            freeze=() if init_from is None else self.freeze)

    def experiment(self) -> None:
        self.check()
        few = self.target(self.images[0], init_from=self.init_from)
        dataset = images_of(few.dataset, self.data_dir)
        few.begin(few.model(), dataset.classes)         # says what does not fit, before there is a folder
        others = None if self.init_from else images_of(self.source().dataset, self.data_dir)

        run_dir = self.open_run_dir()
        self.write_config()
        print(f"{self.name}: to {dataset.name}, with {', '.join(map(str, self.images))} images of each of "
              f"{len(dataset.classes)} classes; {len(dataset.test):,} for the test")
        print(f"run folder: {run_dir}", flush=True)
        folder = self.init_from
        if others is not None:
            source = as_part(self, "source", self.source())
            trainer, _, normalize = source.fit(dataset=others)
            print(f"{others.name}: test accuracy {percent(_accuracy(trainer, others, normalize))}", flush=True)
            folder = source.run_dir

        shares = {way: np.zeros((len(self.images), self.repeats)) for way in (_TRANSFERRED, _NEW)}
        for row, images in enumerate(self.images):
            for way, found in shares.items():
                for trial in range(self.repeats):
                    part = as_part(self, f"{images}-{way.replace(' ', '-')}-{trial + 1}", self.target(
                        images, trial, folder if way == _TRANSFERRED else None))
                    trainer, _, normalize = part.fit(dataset=part.few(dataset), progress=False)
                    found[row, trial] = _accuracy(trainer, dataset, normalize)
                print(f"{images} images a class, {way}: {_spread(found[row])}", flush=True)

        rows = [[str(images), *(_spread(found[row]) for found in shares.values())]
                for row, images in enumerate(self.images)]
        figures = {f"{images} images a class": f"{transferred} {_TRANSFERRED}, {new} {_NEW}"
                   for images, transferred, new in rows}
        pictures = {"Test accuracy against images of each class": plots.lines(
            {way: (self.images, 100 * found.mean(1), 100 * found.std(1)) for way, found in shares.items()},
            "images of each class", "test accuracy (%)", log_x=True)}
        report = training.write_report(
            run_dir, title=f"{self.name}: to {dataset.name}", figures=figures, pictures=pictures,
            tables={"Test accuracy": [["images of each class", *shares], *rows]})
        print(f"report: {report}")
        print(f"test accuracy: {'; '.join(f'{share} with {name}' for name, share in figures.items())}")


def _accuracy(trainer: training.Trainer, dataset: data.Dataset, normalize: data.Normalize) -> float:
    trainer.model = freeze(trainer.model)
    evaluation = trainer.evaluate(data.DataLoader(dataset.test, 500, shuffle=False, transform=normalize))
    assert evaluation.accuracy is not None
    return evaluation.accuracy


def _spread(shares: np.ndarray) -> str:
    """The mean of accuracies, and their deviation where there are several."""
    return percent(shares.mean()) + (f" ± {100 * shares.std():.2f}" if len(shares) > 1 else "")
