"""How the recipes that train a classifier of images by epochs run, are evaluated, and predict."""

from __future__ import annotations

import copy
import math
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fastnn import data, kernels, nn, optim, training
from fastnn._checks import as_int
from fastnn._files import one_line
from fastnn.kernels import compilation
from fastnn.nn.freezing import freeze
from fastnn.recipes.base import Recipe, check_above_0, check_at_least_0, load, read_config
from fastnn.recipes.image_file import MAX_PIXELS, inverted_above, read_image
from fastnn.training._ahead import compile_run
from fastnn.training._loader import first_and_last
from fastnn.training.metrics import percent
from fastnn.training.run_folder import BEST, CONFIG, LAST

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Change: TypeAlias = Callable[[training.Loader, nn.Module, data.Normalize], training.Loader]
_Classifier = TypeVar("_Classifier", bound="ImageClassifier")

_BATCH = 500                                # images that are evaluated at once
_SHOWN = 24                                 # classes whose confusion matrix is printed: of more, lines are too long


@dataclass
class ImageClassifier(Recipe):
    """A recipe that trains a classifier of images: AdamW, one cycle of the learning rate, cross-entropy.

    The model that is measured at the end is that of the epoch with the best validation accuracy, or the last one where
    nothing is validated. A subclass gives the data set and the model.

    Examples
    --------
    >>> from fastnn import data, models, recipes
    >>> class Tiny(recipes.ImageClassifier):
    ...     name = "tiny"
    ...
    ...     def load_dataset(self):
    ...         return data.digits()
    ...
    ...     def model(self):
    ...         return models.CNN(seed=self.seed)
    >>> Tiny(epochs=3).lr
    0.01
    """

    epochs: int = 20
    """How often training goes through all images."""

    resume: bool = False
    """Go on with the run in run_dir, by default the newest of this recipe, to the same end as if it had never
    stopped. Its options are those that it was begun with; --epochs may be another number, --device another device."""

    batch_size: int = 64
    """Images in an update. A last batch of a single image is left out."""

    lr: float = 0.01
    """Highest learning rate, reached after three tenths of the run."""

    weight_decay: float = 0.05
    """How strongly weights are drawn to 0."""

    init_from: Path | None = None
    """Folder of a trained run of the same network, with whose weights this one begins. Where it told other classes
    apart, the last layer is new. Images are normalized as they were there."""

    freeze: tuple[str, ...] = ()
    """Patterns of names of layers or parameters that stay as they begin, such as conv1 and layer[12].*; batch
    normalization among them keeps its running statistics, and uses them."""

    track: training.Track | None = None
    """Hand the configuration and each epoch's figures to Weights & Biases or TensorBoard too. Without a login to
    Weights & Biases, what would be sent is kept in the run's folder."""

    validation: ClassVar[float] = 0.1
    """The share of the training images that are held out; with 0, none is, and nothing is validated."""
    label_smoothing: ClassVar[float] = 0.1

    @abstractmethod
    def load_dataset(self) -> data.Dataset:
        """Return the data set."""

    @abstractmethod
    def model(self) -> nn.Module:
        """Return the model with its initial weights."""

    def augmentation(self) -> Sequence[data.Transform]:
        """Return what changes each training image at random."""
        return ()

    def statistics(self, images: NDArray[np.uint8], scale: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the mean and deviation by which images are normalised."""
        return data.channel_statistics(images, scale)

    def prepare(self, model: nn.Module, images: NDArray[np.uint8], normalize: data.Normalize) -> None:
        """Set up a new model by the images that it will be trained on, before the first step."""

    def make_loss(self) -> nn.Module:
        """Return what is minimized."""
        return nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)

    def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
        """Return what makes the updates."""
        return optim.AdamW(optim.parameter_groups(model, self.weight_decay), lr=self.lr)

    def make_schedule(self) -> Callable[[float], float]:
        """Return the factor of the learning rate after so many epochs; see `fastnn.optim`."""
        return optim.OneCycleLR(self.epochs)

    def callbacks(self, steps: int) -> Sequence[training.Callback]:
        """Return what the trainer calls; an epoch has so many steps."""
        return ()

    def measured(self, model: nn.Module) -> nn.Module:
        """Return what is measured on the test images and predicts, made of the trained model, which is frozen."""
        return model

    def figures(self) -> dict[str, str]:
        """Return further final figures for the report."""
        return {}

    def pictures(self, model: nn.Module, dataset: data.Dataset) -> dict[str, Figure]:
        """Return pictures of the trained model for the report by their headings."""
        return {}

    def check(self) -> None:
        super().check()
        check_above_0("lr", self.lr)
        check_at_least_0("weight_decay", self.weight_decay)
        self.origin()

    def origin(self) -> tuple[Path, Any] | None:
        """Return with which checkpoint the model begins, and what its run says of its inputs; None where it is new.

        A run that goes on has all of it in its own folder, and needs the other one no more.
        """
        if self.init_from is None:
            return None
        goes_on = self.resumes and self.run_dir is not None and (self.run_dir / LAST).exists()
        return trained_in(cast(Path, self.run_dir) if goes_on else self.init_from)

    def begin(self, model: nn.Module, classes: Sequence[str]) -> None:
        """Give a new model the weights that it begins with, and freeze what stays."""
        if (origin := self.origin()) is not None:
            path, inputs = origin
            skip = () if inputs["classes"] == list(classes) else training.head(model)
            try:
                training.load_model(path, model, skip=skip)
            except training.CheckpointError as error:
                error.add_note(f"init_from: expected the run of a {type(model).__name__} like this one, with the same "
                               f"options such as width, got {path.parent}")
                raise
        training.freeze_layers(model, self.freeze)

    def experiment(self) -> None:
        trainer, dataset, normalize = self.fit()
        assert self.run_dir is not None
        model = trainer.model
        training.load_model(self.checkpoint, model)
        trainer.loss.load_state_dict(training.checkpoint.part(training.load(self.checkpoint)[0], "loss"))
        trainer.model = self.measured(freeze(model))
        evaluation = trainer.evaluate(in_order(dataset.test, normalize))
        pictures = {**self.pictures(model, dataset),
                    "Weights by epoch": training.plots.weights(_histograms(trainer))}
        images = dataset.test.images
        report = training.write_report(self.run_dir, evaluation, classes=dataset.classes,
                                       images=images if images.shape[1] in (1, 3) else None,
                                       title=f"{self.name} on {dataset.name}", figures=self.figures(),
                                       pictures=pictures)
        _print_evaluation(evaluation, dataset.classes)
        print(f"report: {report}")
        print(f"test accuracy: {percent(evaluation.accuracy)}")

    def fit(self, *, callbacks: Sequence[training.Callback] = (), progress: bool = True,
            dataset: data.Dataset | None = None,
            change: Change | None = None) -> tuple[training.Trainer, data.Dataset, data.Normalize]:
        """Train in the run folder, without a look at the test images.

        Parameters
        ----------
        callbacks : sequence of Callback, optional
            What the trainer calls.
        progress : bool, default True
            Print what is trained, and how it goes.
        dataset : Dataset, optional
            What `load_dataset` returns, where it was read already.
        change : callable, optional
            Called with a loader, the model and its `Normalize`; returns the loader that is used in the place of that
            one, for training as for validation.

        Returns
        -------
        trainer : Trainer
            Its model has the weights of the last epoch.
        dataset : Dataset
        normalize : Normalize
            What brings images to the range that the model is trained on.
        """
        self.check()
        trackers = [training.tracker(self.track)] if self.track else []
        dataset = self.load_dataset() if dataset is None else dataset
        model = self.model()
        self.check_dataset(dataset, model)
        train, validation = self.split(dataset)
        origin = self.origin()
        mean, std = (self.statistics(train.images, dataset.scale) if origin is None else
                     (np.array(origin[1][name]) for name in ("mean", "std")))
        normalize = data.Normalize(mean, std, dataset.scale)
        inputs = {"dataset": dataset.name, "classes": dataset.classes, "shape": train.images.shape[1:],
                  "scale": dataset.scale, "mean": mean.tolist(), "std": std.tolist(),
                  "invert_above": inverted_above(train.images, dataset.scale)}
        train_loader: training.Loader = self.train_loader(train, normalize)
        validation_loader: training.Loader | None = None if validation is None else in_order(validation, normalize)
        self.prepare(model, train.images, normalize)
        self.begin(model, dataset.classes)
        if change is not None:
            train_loader = change(train_loader, model, normalize)
            if validation_loader is not None:
                validation_loader = change(validation_loader, model, normalize)

        run_dir = self.open_run_dir()
        callbacks = [training.WeightHistograms(), *self.callbacks(len(train_loader)), *callbacks, *trackers]
        trainer = self.trainer(model, run_dir=run_dir, config={**self.config(), "inputs": inputs}, callbacks=callbacks,
                               progress=progress)
        if progress:
            shape = " x ".join(map(str, train.images.shape[1:]))
            self.announce(model, f"{len(train):,} images of {dataset.name} ({shape}); {len(validation or ()):,} for "
                                 f"validation, {len(dataset.test):,} for the test")
        warmed = compilation.is_ahead()

        def use() -> None:
            """What the run will launch, with what comes after training."""
            self._use(copy.deepcopy(model), dataset, normalize, warmed)
            compile_run(trainer, train_loader, validation_loader)

        if self.device == "cpu":
            compilation.compile_ahead(use, shown=progress)
        trainer.fit(train_loader, validation_loader, epochs=self.epochs, resume=self.resume)
        return trainer, dataset, normalize

    def _use(self, model: nn.Module, dataset: data.Dataset, normalize: data.Normalize, alone: bool) -> None:
        """Do with a trained model what is done after training: measure it, and look at one image alone."""
        measured, loss = self.measured(freeze(model)), self.make_loss()
        for images, labels in first_and_last(in_order(dataset.test, normalize)):
            loss.forward(measured(images), labels, training=False)
        if alone:
            kernels.softmax(measured(images[:1]))

    def split(self, dataset: data.Dataset) -> tuple[data.Split, data.Split | None]:
        """Return the images that are trained on, and those that are held out for validation."""
        return data.split(dataset.train, self.validation, self.seed) if self.validation else (dataset.train, None)

    def train_loader(self, train: data.Split, normalize: data.Normalize) -> data.DataLoader:
        """Return the batches that are trained on."""
        return data.DataLoader(train, self.batch_size, seed=self.seed,
                               drop_last=len(train) % self.batch_size == 1 < self.batch_size < len(train),
                               transform=data.Compose([*self.augmentation(), normalize]))

    def check_dataset(self, dataset: data.Dataset, model: nn.Module) -> None:
        """Raise an error where training, measuring or reporting would fail for a data set that does not fit."""
        train, test = dataset.train, dataset.test
        shape, classes, names = train.images.shape[1:], len(dataset.classes), ", ".join(map(str, dataset.classes))
        if len(shape) != 3 or test.images.shape[1:] != shape or test.images.dtype != train.images.dtype:
            raise ValueError("dataset: expected images (N, C, H, W) of one size and dtype for training and test, got "
                             f"{train.images.dtype} of shape {train.images.shape} and {test.images.dtype} of shape "
                             f"{test.images.shape}")
        if not all(isinstance(name, str) for name in dataset.classes):
            raise TypeError(f"dataset: expected names of classes that are text, got {dataset.classes!r:.100}")
        for name, part in (("train", train), ("test", test)):
            if not len(part) or part.labels.min() < 0 or part.labels.max() >= classes:
                got = f"{part.labels.min()} to {part.labels.max()}" if len(part) else "none"
                raise ValueError(f"dataset: expected {name} labels from 0 to {classes - 1}, one for each of the "
                                 f"classes {names}, got {got}")
        name, images = type(model).__name__, np.zeros((min(len(test), _BATCH), *shape), np.float32)
        try:
            with compilation.launching_nothing():
                scores = model(images)
        except ValueError as error:
            raise ValueError(f"dataset: images of shape {shape} do not fit this {name}: {error}") from error
        if scores.shape != (len(images), classes):
            raise ValueError(f"dataset: expected as many classes as this {name} gives scores, {scores.shape[-1]}, got "
                             f"{classes}: {names}")
        if self.batch_size == 1:
            try:
                self.model().forward(images[:1], training=True)
            except ValueError as error:
                raise ValueError(f"batch_size: expected at least 2, since this {name} cannot be trained on one image "
                                 f"({error}), got 1") from error

    def trainer(self, model: nn.Module, **options: Any) -> training.Trainer:
        """Return the trainer of a model."""
        return training.Trainer(model, self.make_loss(), self.make_optimizer(model), seed=self.seed, device=self.device,
                                schedule=self.make_schedule(), **options)

    def evaluate(self) -> None:
        """Measure the best model of the run in run_dir on the test images, and print what it confuses."""
        model, dataset, normalize = self.reopened()
        trainer = self.trainer(model)
        trainer.model = self.measured(freeze(trainer.model))
        evaluation = trainer.evaluate(in_order(dataset.test, normalize))
        _print_evaluation(evaluation, dataset.classes)
        print(f"test accuracy: {percent(evaluation.accuracy)}")

    def reopened(self) -> tuple[nn.Module, data.Dataset, data.Normalize]:
        """Return the best model of the run in run_dir, its data set, and what normalises the images for it."""
        self.check_device()
        self.check_data_dir()
        model, inputs = self._best()
        dataset = self.load_dataset()
        self._check_scores(model, inputs)
        if (list(dataset.test.images.shape[1:]), list(dataset.classes)) != (inputs["shape"], inputs["classes"]):
            raise ValueError(f"dataset: expected images of shape {tuple(inputs['shape'])} of the classes "
                             f"{', '.join(inputs['classes'])}, on which the run in {self.run_dir} was trained, got "
                             f"shape {dataset.test.images.shape[1:]} and {', '.join(map(str, dataset.classes))}")
        self.check_dataset(dataset, model)
        return model, dataset, data.Normalize(inputs["mean"], inputs["std"], inputs["scale"])

    def predict(self, files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], top: int = 3) -> None:
        """Print the `top` likeliest classes of an image file, or of several, by the best model of the run in run_dir.

        Of several files, those that cannot be read are named and skipped, and are an error at the end.
        """
        files = [files] if isinstance(files, str | os.PathLike) else list(files)
        if not files:
            raise ValueError("files: expected at least one image file, got none")
        top = as_int("top", top, 1)
        model, inputs = self._best()
        channels, height, width = inputs["shape"]
        if channels not in (1, 3):
            raise ValueError(f"{self.run_dir}: expected the run of a model of images, which have 1 or 3 channels, got "
                             f"one of {channels}")
        if channels == 1 and "invert_above" not in inputs:
            print(f"{self.run_dir}: the run does not say how light its images are at the edge, as those of earlier "
                  "versions; no image is inverted", file=sys.stderr)
        read, unread = [], []
        for file in files:
            try:
                image, notes = read_image(file, channels, height, width, inputs["scale"], inputs.get("invert_above"))
                read.append((os.fspath(file), image, notes))
            except (OSError, ValueError) as error:
                if len(files) == 1:
                    raise
                unread.append(os.fspath(file))
                print(f"passed over: {one_line(error)}", file=sys.stderr, flush=True)
        if read:
            self._check_scores(model, inputs)
            model = self.measured(freeze(model))
        for start in range(0, len(read), _BATCH):
            part = read[start : start + _BATCH]
            images = data.to_float(np.stack([image for _, image, _ in part]), inputs["mean"], inputs["std"],
                                   scale=inputs["scale"])
            for (file, _, notes), row in zip(part, kernels.softmax(model(images))):
                likeliest = np.argsort(-row, kind="stable")[:top]
                answers = ", ".join(f"{inputs['classes'][i]} {100 * row[i]:.1f} %" for i in likeliest)
                print(f"{file}: {answers}" + (f"  ({'; '.join(notes)})" if notes else ""))
        if unread:
            raise ValueError(f"files: {len(unread)} of {len(files)} could not be read: {', '.join(unread)}")

    def trained(self) -> tuple[nn.Module, Any]:
        """Return the best model of the run in run_dir, and what config.json says of its inputs."""
        model, inputs = self._best()
        self._check_scores(model, inputs)
        return model, inputs

    @property
    def checkpoint(self) -> Path:
        """Where the model lies that is measured: that of the best epoch, or the last one where nothing is validated."""
        assert self.run_dir is not None
        return self.run_dir / (BEST if self.validation else LAST)

    def _best(self) -> tuple[nn.Module, Any]:
        """The same, checked as far as it goes without the kernels, which may have to be compiled."""
        assert self.run_dir is not None
        path = self.checkpoint
        saved = self.check_saved(path)
        model = self.model()
        training.load_model(path, model)
        inputs = read_config(self.run_dir).get("inputs")
        if inputs != saved.get("inputs") or not _describes_images(inputs):
            raise self._inputs_error(model, inputs)
        return model, inputs

    def _check_scores(self, model: nn.Module, inputs: Any) -> None:
        """Raise ValueError where the model cannot be used on such inputs."""
        pixels = np.zeros((1, *inputs["shape"]), np.uint8)
        try:
            scores = model(data.to_float(pixels, inputs["mean"], inputs["std"], scale=inputs["scale"]))
            fits = scores.shape == (1, len(inputs["classes"])) and bool(np.isfinite(scores).all())
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise self._inputs_error(model, inputs)

    def _inputs_error(self, model: nn.Module, inputs: Any) -> ValueError:
        assert self.run_dir is not None
        return ValueError(f"{self.run_dir / CONFIG}: expected under inputs the classes, shape, scale, mean and std of "
                          f"the images that this {type(model).__name__} was trained on, got {inputs!r:.200}")


def trained_in(folder: Path) -> tuple[Path, Any]:
    """Return the checkpoint of a trained classifier in a run's folder, and what config.json says of its inputs."""
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"init_from: expected the folder of a trained run, such as runs/cnn-1, but there is no "
                                f"{CONFIG} in {folder}")
    inputs = read_config(folder).get("inputs")
    path = folder / (BEST if (folder / BEST).exists() else LAST)
    if not _describes_images(inputs) or not path.exists():
        raise ValueError("init_from: expected the folder of a run that keeps a trained classifier of images, such as "
                         f"runs/cnn-1, but there is none in {folder}")
    return path, inputs


def as_part(whole: Recipe, name: str, part: _Classifier) -> _Classifier:
    """Return a recipe that is run in a subfolder of another one's run; it goes on from what lies there, if that does.

    It may have been begun under another path, so that it is as it was.
    """
    assert whole.run_dir is not None
    folder = whole.run_dir / name
    if whole.resumes and (folder / CONFIG).exists():
        part = replace(load(folder, type(part)), resume=True)
    return replace(part, run_dir=folder, data_dir=whole.data_dir or part.data_dir, device=whole.device)


def _describes_images(inputs: Any) -> bool:
    """Whether config.json says of the inputs what is needed to read images."""
    try:
        numbers = [inputs["mean"], inputs["std"], inputs["scale"], inputs.get("invert_above") or 0]
        return (len(inputs["shape"]) == 3 and all(type(length) is int and length > 0 for length in inputs["shape"])
                and math.prod(inputs["shape"]) <= MAX_PIXELS
                and all(np.isfinite(np.asarray(number, np.float64)).all() for number in numbers)
                and 0 < inputs["scale"] <= 255 and not isinstance(inputs.get("invert_above"), str | list)
                and isinstance(inputs["classes"], list)
                and all(isinstance(name, str) and "\x1b" not in name for name in inputs["classes"]))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return False


def _histograms(trainer: training.Trainer) -> training.WeightHistograms:
    return next(callback for callback in trainer.callbacks if isinstance(callback, training.WeightHistograms))


def in_order(part: data.Split, transform: data.Transform) -> data.DataLoader:
    """Return batches to be evaluated."""
    return data.DataLoader(part, _BATCH, shuffle=False, transform=transform)


def _print_evaluation(evaluation: training.Evaluation, classes: Sequence[str]) -> None:
    confusion = evaluation.confusion
    assert confusion is not None
    if len(classes) <= _SHOWN:
        print("\nConfusion matrix: a row a true class, a column a predicted one")
        print(training.confusion_table(confusion, classes))
    print("\nClasses")
    print(training.per_class_table(confusion, classes))
    print(f"\nCommonest confusions: {'; '.join(training.commonest_confusions(confusion, classes)) or 'none'}\n")
