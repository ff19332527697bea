"""What Gabor filters are worth to a linear classifier of digits."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastnn import data, kernels, models, optim, random, training
from fastnn._extras import install
from fastnn.recipes.base import Recipe
from fastnn.training.metrics import percent

_BATCH = 100


@dataclass
class GaborSVMMnist(Recipe):
    """Linear support vector machines on pixels and on Gabor features, on MNIST.

    The digits are scaled to 14x14 pixels. Machines are trained on few images and on all. If scikit-learn is installed,
    its SVC with a Gaussian kernel is trained on up to svc_images for comparison. Pictures show the filters and both
    confusion matrices.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.GaborSVMMnist(orientations=4).bank().weight.shape
    (24, 1, 7, 7)
    """

    name: ClassVar[str] = "gabor-svm-mnist"
    needs: ClassVar[str] = "MNIST (11 MB)"
    takes: ClassVar[str] = "1 min"
    reported: ClassVar[str] = "Gabor 8 to 12 points over pixels"

    sizes: tuple[int, ...] = (1000, 2000, 5000, 60_000)
    """Numbers of training images."""

    updates: int = 6000
    """Steps of each machine, rounded to whole passes through its images, of which there is at least one."""

    orientations: int = 8
    """Directions of the filters."""

    frequencies: tuple[float, ...] = (0.1, 0.2, 0.35)
    """Cycles a pixel of the filters."""

    svc_images: int = 5000
    """The most training images that scikit-learn's SVC with a Gaussian kernel is fitted to; its time grows with their
    square."""

    def check(self) -> None:
        super().check()
        if not self.sizes or not 10 <= min(self.sizes) <= max(self.sizes) <= 60_000:
            raise ValueError(f"sizes: expected numbers from 10 to 60,000, got {self.sizes}")
        for name, least in (("updates", 1), ("svc_images", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        self.bank()                             # says what is wrong with orientations and frequencies

    def bank(self) -> models.GaborBank:
        """Return the filters."""
        return models.GaborBank(self.orientations, self.frequencies)

    def headlines(self) -> tuple[str, ...]:
        return "Gabor features", "pixels", f"gap on {min(self.sizes):,} images"

    def experiment(self) -> None:
        self.check()
        dataset = data.mnist(self.data_dir)
        train, test = (kernels.avg_pool2d(data.to_float(part.images), 2) for part in (dataset.train, dataset.test))
        labels, truth, bank = dataset.train.labels, dataset.test.labels, self.bank()
        filters = bank.weight
        run_dir = self.open_run_dir()
        self.write_config()
        print(f"{self.name}: {len(train):,} images of mnist at 14 x 14, {len(test):,} for the test; "
              f"{len(filters)} Gabor filters")
        print(f"run folder: {run_dir}", flush=True)
        features = {"pixels": [images.reshape(len(images), -1) for images in (train, test)],
                    "Gabor features": [self.features(bank, images) for images in (train, test)]}
        svc = importlib.util.find_spec("sklearn") is not None
        if not svc:
            print(f"there is no SVC to compare with, as scikit-learn is missing: {install('sklearn')}")
        shares: dict[str, dict[int, float]] = {}
        confusions = {}
        for size in sorted(self.sizes):
            rows = random.generator(self.seed, "images", size).permutation(len(labels))[:size]
            for name, (points, queries) in features.items():
                predictions = {name: self.machine(points[rows], labels[rows], queries)}
                if svc and size <= self.svc_images:
                    predictions[f"{name}, SVC"] = _svc(points[rows], labels[rows], queries)
                for title, predicted in predictions.items():
                    share = shares.setdefault(title, {})[size] = float(np.mean(predicted == truth))
                    print(f"{size:>6} images, {title:<20} test accuracy {percent(share)}", flush=True)
                confusions[name] = training.confusion_matrix(truth, predictions[name], 10)

        least = min(self.sizes)
        gap = shares["Gabor features"][least] - shares["pixels"][least]
        pictures = {
            "Gabor filters: even ones, then odd ones; a row a frequency": training.plots.filters(
                filters, columns=self.orientations),
            "Test error against the number of training images": training.plots.lines(
                {title: (list(share), [100 * (1 - value) for value in share.values()])
                 for title, share in shares.items()}, "training images", "test error (%)", log_x=True, log_y=True),
            **{f"Confusions by {name}": training.plots.confusion(matrix) for name, matrix in confusions.items()}}
        figures = {name: percent(shares[name][max(self.sizes)]) for name in features}
        report = training.write_report(
            run_dir, title=f"{self.name}: linear machines on digits of 14x14 pixels",
            figures={**figures, f"gap on {least:,} images": f"{100 * gap:.1f} points"}, pictures=pictures,
            tables={"Test accuracy": [["machine", *(f"{size:,} images" for size in shares["pixels"])], *(
                [title, *(percent(share.get(size)) for size in shares["pixels"])]
                for title, share in shares.items())]})
        print(f"report: {report}")
        print(f"test accuracy: {'; '.join(f'{share} by {name}' for name, share in figures.items())}")

    def machine(self, points: NDArray[Any], labels: NDArray[Any], queries: NDArray[Any]) -> NDArray[Any]:
        """Train a linear support vector machine on points; return the classes that it gives to queries."""
        points, queries = _standardized(points, queries)
        loader = data.DataLoader((points, labels), _BATCH, seed=self.seed)
        epochs = max(1, round(self.updates / len(loader)))
        model = models.LinearSVM(points.shape[1], seed=self.seed)
        trainer = training.Trainer(model, model.criterion, optim.AdamW(optim.parameter_groups(model, 0.3), 0.002),
                                   schedule=optim.CosineLR(epochs), device=self.device, progress=False)
        trainer.fit(loader, epochs=epochs)
        return kernels.to_host(model(self.placed(queries)).argmax(1))

    def features(self, bank: models.GaborBank, images: NDArray[Any]) -> NDArray[Any]:
        """Return what the filters answer to each image.

        In parts, since the answers before pooling are eight times as many.
        """
        bank.to(self.device)
        parts = [kernels.to_host(bank(self.placed(images[start : start + 1000])))
                 for start in range(0, len(images), 1000)]
        return np.concatenate([part.reshape(len(part), -1) for part in parts])


def _standardized(points: NDArray[Any], queries: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Bring each feature to mean 0 and deviation 1 over the points."""
    mean, deviation = points.mean(0), points.std(0)
    deviation[deviation < 1e-3] = 1             # a pixel that is dark in nearly all images stays so
    return (points - mean) / deviation, (queries - mean) / deviation


def _svc(points: NDArray[Any], labels: NDArray[Any], queries: NDArray[Any]) -> NDArray[Any]:
    from sklearn.svm import SVC

    points, queries = _standardized(points, queries)
    return SVC().fit(points, labels).predict(queries)
