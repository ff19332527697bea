"""The nearest neighbours of photographs, pixel by pixel."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastnn import data, kernels, models, training
from fastnn.models.nearest_neighbors import cross_validate, vote
from fastnn.recipes.cifar import CIFAR
from fastnn.training.metrics import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class KNNCifar10(CIFAR):
    """The k nearest training images vote, on CIFAR-10.

    Distances are exact and Euclidean, of all pixels as they are. k is chosen by cross-validation on the training
    images; then more and more of them are searched for all test images.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.KNNCifar10(sizes=(5000, 50_000)).folds
    5
    """

    name: ClassVar[str] = "knn-cifar10"
    takes: ClassVar[str] = "30 s"
    reported: ClassVar[str] = "about 33 % at N = 5,000 and at 50,000"

    ks: tuple[int, ...] = (1, 3, 4, 5, 6, 8, 10, 12, 15, 20, 50)
    """Numbers of neighbours that cross-validation compares."""

    folds: int = 5
    """Parts of the training images, each of which is classified by the others."""

    sizes: tuple[int, ...] = tuple(range(5000, 50_001, 5000))
    """Numbers of training images for which accuracy and distance are drawn; the test accuracy is that of the last."""

    def check(self) -> None:
        super().check()
        if not 2 <= self.folds <= 1000:
            raise ValueError(f"folds: expected from 2 to 1,000, got {self.folds}")
        for name, values, most in (("ks", self.ks, 10_000), ("sizes", self.sizes, 50_000)):
            if not values or not 1 <= min(values) <= max(values) <= most or list(values) != sorted(set(values)):
                raise ValueError(f"{name}: expected rising numbers from 1 to {most:,}, got {values}")
        if self.sizes[0] < self.ks[-1]:
            raise ValueError(f"sizes: expected at least as many images as neighbours, {self.ks[-1]}, got {self.sizes}")

    def experiment(self) -> None:
        self.check()
        dataset = self.load_dataset()
        train, test = dataset.train, dataset.test
        run_dir = self.open_run_dir()
        self.write_config()
        print(f"{self.name}: {len(train):,} images of {self.dataset}, {len(test):,} for the test")
        print(f"run folder: {run_dir}", flush=True)

        points, queries = self.placed(train.images), self.placed(test.images)
        accuracies = cross_validate(points, train.labels, self.ks, self.folds, seed=self.seed)
        mean, deviation = accuracies.mean(0), accuracies.std(0)
        k = self.ks[int(mean.argmax())]
        for candidate, share, spread in zip(self.ks, mean, deviation):
            print(f"k = {candidate:<4} validation {percent(share)} +- {percent(spread)}")
        print(f"k = {k} it is", flush=True)

        shares, distances = [], []
        for size in self.sizes:
            begin = time.perf_counter()
            model = models.KNearestNeighbors(k).fit(points[:size], train.labels[:size])
            distance, nearest = map(kernels.to_host, model.neighbors(queries))
            seconds = time.perf_counter() - begin
            predictions = vote(train.labels[nearest])
            shares.append(float(np.mean(predictions == test.labels)))
            distances.append(float(distance[:, 0].mean()))
            print(f"N = {size:<6} test accuracy {percent(shares[-1])}, mean distance to the nearest "
                  f"{distances[-1]:.0f}, searched in {seconds:.1f} s", flush=True)
        accuracy = {f"k = {k}": (self.sizes, 100 * np.array(shares))}
        figures = {"k": str(k), "largest search": f"{seconds:.1f} s"}
        if len(self.sizes) > 1:
            across = np.log(self.sizes)
            slope, offset = np.polyfit(across, shares, 1)
            accuracy[f"{100 * offset:.1f} + {100 * slope:.2f} ln N"] = self.sizes, 100 * (offset + slope * across)
            figures["accuracy for ten times the images"] = f"{100 * math.log(10) * slope:+.2f} points"
            figures["distance falls as N to the power"] = f"-1/{-1 / np.polyfit(across, np.log(distances), 1)[0]:.0f}"

        confusion = training.confusion_matrix(test.labels, predictions, len(dataset.classes))
        evaluation = training.Evaluation(np.nan, shares[-1], confusion, test.labels, predictions)
        pictures = {
            "Accuracy against k: cross-validation": training.plots.lines(
                {f"mean of {self.folds} folds and their deviation": (self.ks, 100 * mean, 100 * deviation)}, "k",
                "accuracy (%)", log_x=True),
            "Test accuracy against the number of training images": training.plots.lines(
                accuracy, "training images N", "accuracy (%)", log_x=True),
            "Distance to the nearest training image": training.plots.lines(
                {"mean over the test images": (self.sizes, distances)}, "training images N", "distance", log_x=True),
            "Misled by the background: test images, and below each the nearest training image": _misled(
                dataset, nearest[:, 0], predictions)}
        tables = {
            "Cross-validation": [["k", "accuracy", "deviation"], *(
                [str(candidate), percent(share), percent(spread)]
                for candidate, share, spread in zip(self.ks, mean, deviation))],
            "Training images": [["N", "test accuracy", "mean distance to the nearest"], *(
                [f"{size:,}", percent(share), f"{distance:.0f}"]
                for size, share, distance in zip(self.sizes, shares, distances))]}
        report = training.write_report(run_dir, evaluation, classes=dataset.classes, images=test.images,
                                       title=f"{self.name}: {k} nearest neighbours", figures=figures,
                                       pictures=pictures, tables=tables)
        print(f"report: {report}")
        print(f"test accuracy: {percent(evaluation.accuracy)}")


def _misled(dataset: data.Dataset, nearest: NDArray[np.int64], predictions: NDArray[np.int64]) -> Figure:
    """Draw test images whose nearest neighbour is of another class and has nearly the same colour along its edge."""
    train, test = dataset.train, dataset.test
    colours, others = _edge_colour(test.images), _edge_colour(train.images[nearest])
    wrong = (predictions != test.labels) & (train.labels[nearest] != test.labels)
    difference = np.where(wrong, np.linalg.norm(colours - others, axis=1), np.inf)
    # The least differences are those of white and black edges: of each hue, one.
    order = np.argsort(difference)
    hues = (np.round(colours / 48) * [1, 10, 100]).sum(1)
    chosen = order[np.sort(np.unique(hues[order], return_index=True)[1])][:10]
    names = dataset.classes
    return training.plots.images(
        np.concatenate([test.images[chosen], train.images[nearest[chosen]]]),
        [names[label] for label in (*test.labels[chosen], *train.labels[nearest[chosen]])], columns=len(chosen))


def _edge_colour(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean colour of the pixels along each image's edge, shape (N, C)."""
    edges = [images[:, :, 0], images[:, :, -1], images[:, :, 1:-1, 0], images[:, :, 1:-1, -1]]
    return np.concatenate(edges, axis=2).mean(2, dtype=np.float64)
