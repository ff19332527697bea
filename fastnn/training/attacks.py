"""Adversarial images: what a small change of the pixels, chosen by the model's own gradient, does to its answers.

Images are given as the model takes them, with the `Normalize` that they went through: `eps`, and the range in which
pixels are valid, are those of pixels from 0 to 1 all the same. The model is used as in inference; its parameters and
their gradients stay as they are. While an attack runs, no other thread may train the model.

Examples
--------
>>> from fastnn import data, nn, optim, training
>>> digits, normalize = data.digits(), data.Normalize(0.3, 0.4, 16)
>>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
>>> trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01), progress=False)
>>> _ = trainer.fit(data.DataLoader(digits.train, 64, transform=normalize), epochs=3)
>>> images = normalize(digits.test.images, None)
>>> accuracies = training.attacks.accuracy_against_eps(model, images, digits.test.labels, [0, 0.05, 0.2],
...                                                    normalize=normalize)
>>> bool(accuracies[0] > 0.85 > accuracies[1] > 0.5 > accuracies[2])
True
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn import kernels, nn
from fastnn._checks import Array, as_float, as_int, is_sequence
from fastnn.data import Normalize
from fastnn.data.transforms import broadcast, check_images
from fastnn.nn.module import beside
from fastnn.random import generator
from fastnn.training._loader import Loader, check_loader
from fastnn.training._sums import double


@dataclass(frozen=True, eq=False)
class Attack:
    """What `fgsm` returns.

    Attributes
    ----------
    images : ndarray, shape of the images that were attacked
        The adversarial ones, as the model takes them.
    losses : ndarray of float64, shape (steps + 1,)
        The mean loss before each step, and after the last.
    scores : ndarray, shape (N, C)
        What the model gives for the adversarial images.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> training.attacks.Attack(np.zeros((1, 1, 2, 2)), np.array([0.1, 2.0]), np.eye(1, 3)).scores.argmax(1)
    array([0])
    """

    images: NDArray[Any]
    losses: NDArray[np.float64]
    scores: NDArray[Any]


def input_gradient(model: nn.Module, images: NDArray[Any], labels: NDArray[Any], *, loss: nn.Module | None = None,
                   batch_size: int = 256) -> NDArray[Any]:
    """Return the gradient of each image's own loss by its pixels.

    Parameters
    ----------
    model : Module
        What answers, on the host or on a GPU.
    images : ndarray of floats, shape (N, ...)
        As the model takes them.
    labels : ndarray, shape (N,)
        The true classes, or what else the loss takes.
    loss : Module, default `nn.CrossEntropyLoss()`
        A mean over the batch.
    batch_size : int, default 256
        Images in a pass; the gradients are the same for each.

    Returns
    -------
    ndarray of the images' dtype and shape
        By the images as given: those by pixels before `Normalize` are these over its `std`.

    Raises
    ------
    TypeError, ValueError
        If the images are not floats, there is no label for each, or model and loss do not take them.

    Notes
    -----
    One forward and one backward pass, without the gradients of parameters. Simonyan and others, "Deep inside
    convolutional networks" (arXiv:1312.6034), section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn, training
    >>> model = nn.Linear(2, 2, bias=False).to(np.float64)
    >>> model.weight.data[...] = np.eye(2)
    >>> training.attacks.input_gradient(model, np.zeros((1, 2)), np.array([0]))
    array([[-0.5,  0.5]])
    """
    model, loss = _checked(model, loss)
    _check_samples(images, labels)
    gradients = np.empty_like(images, order="C")
    for part in _parts(images, batch_size):
        _, gradient = _loss_and_gradient(model, loss, _placed(model, images[part]), _placed(model, labels[part]))
        gradients[part] = kernels.to_host(gradient)
    return gradients


def fgsm(model: nn.Module, images: NDArray[Any], labels: NDArray[Any], eps: float, *, steps: int = 1,
         step_size: float | None = None, normalize: Normalize | None = None, loss: nn.Module | None = None,
         rng: np.random.Generator | None = None, batch_size: int = 256) -> Attack:
    """Attack images by the fast gradient sign method, in one step or several: each pixel moves by at most `eps`.

    Parameters
    ----------
    model : Module
        What is attacked, on the host or on a GPU.
    images : ndarray of floats, shape (N, ...)
        As the model takes them.
    labels : ndarray, shape (N,)
        The true classes, away from which the attack leads, or what else the loss takes.
    eps : float
        The farthest that a pixel may move, as a share of the whole range: 8 / 255 for 8 of 255.
    steps : int, default 1
        How often the gradient is taken.
    step_size : float, default eps / steps
        How far a step moves each pixel.
    normalize : Normalize, optional
        What the images went through; without one they are pixels from 0 to 1.
    loss : Module, default `nn.CrossEntropyLoss()`
        What the attack raises, a mean over the batch.
    rng : numpy.random.Generator, optional
        Start at a point drawn from it, evenly within `eps`, instead of at the image.
    batch_size : int, default 256
        Images in a pass; the result is the same for each.

    Returns
    -------
    Attack

    Raises
    ------
    TypeError, ValueError
        If an option is out of range, the images are not floats or not valid pixels, there is no label for each, or
        model and loss do not take them.

    Notes
    -----
    x <- clip(x + step_size sign(gradient of the loss by x)), to within `eps` of the image and to valid pixels, from 0
    to 1. A step costs a forward and a backward pass, without the gradients of parameters, and the last scores one more
    forward pass. One step: Goodfellow and others, "Explaining and harnessing adversarial examples" (arXiv:1412.6572);
    several: Kurakin and others, "Adversarial examples in the physical world" (arXiv:1607.02533); from a random start:
    Madry and others, "Towards deep learning models resistant to adversarial attacks" (arXiv:1706.06083).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn, training
    >>> model = nn.Linear(2, 2, bias=False).to(np.float64)
    >>> model.weight.data[...] = np.eye(2)
    >>> attack = training.attacks.fgsm(model, np.array([[0.6, 0.5]]), np.array([0]), eps=0.25, steps=5)
    >>> attack.images.round(3), attack.losses.round(2), attack.scores.argmax(1)
    (array([[0.35, 0.75]]), array([0.64, 0.69, 0.74, 0.8 , 0.85, 0.91]), array([1]))
    """
    model, loss = _checked(model, loss)
    how = _How(eps, steps, step_size, normalize)
    _check_samples(images, labels)
    how.check_valid(images)
    adversarial, scores, sums = np.empty_like(images, order="C"), [], [0.0] * (how.steps + 1)
    for part in _parts(images, batch_size):
        x, truth = _placed(model, images[part]), _placed(model, labels[part])
        x, losses = how.attack(model, loss, x, truth, rng)
        scores.append(model(x))
        losses.append(loss(scores[-1], truth))
        sums = [total + len(x) * double(value) for total, value in zip(sums, losses)]
        adversarial[part] = kernels.to_host(x)
    return Attack(adversarial, np.array([float(total) / len(images) for total in sums]),
                  np.concatenate([kernels.to_host(part) for part in scores]))


def accuracy_against_eps(model: nn.Module, images: NDArray[Any], labels: NDArray[Any], eps: Sequence[float],
                         **options: Any) -> NDArray[np.float64]:
    """Return the accuracy on images that `fgsm` has attacked, for each of several `eps`.

    Parameters
    ----------
    model, images, labels
        As for `fgsm`; the labels are classes.
    eps : sequence of float
        As for `fgsm`; at 0 it is the accuracy on clean images.
    **options
        Those of `fgsm`: `steps`, `normalize`, `loss`, ...

    Returns
    -------
    ndarray of float64, shape (len(eps),)
        From 0 to 1; `plots.lines` draws them.

    Raises
    ------
    TypeError, ValueError
        If `eps` is no sequence, or as for `fgsm`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn, training
    >>> model = nn.Linear(2, 2, bias=False).to(np.float64)
    >>> model.weight.data[...] = np.eye(2)
    >>> images, labels = np.array([[0.6, 0.5], [0.2, 0.8]]), np.array([0, 1])
    >>> training.attacks.accuracy_against_eps(model, images, labels, [0, 0.1, 0.5])
    array([1. , 0.5, 0. ])
    """
    if not is_sequence(eps):
        raise TypeError(f"eps: expected a sequence of numbers, got {eps!r:.100}")
    for one in eps:
        as_float("eps", one, 0)
    return np.array([(fgsm(model, images, labels, one, **options).scores.argmax(1) == labels).mean() for one in eps])


class AdversarialLoader:
    """Batches of another loader, attacked with the model's weights of the moment: for adversarial training.

    Given to `Trainer.fit` for training, it makes the model learn what it is wrong about; given to `Trainer.evaluate`,
    it measures that. A resumed run ends with the same bits.

    Parameters
    ----------
    loader : Loader
        Gives batches of images, as the model takes them, and labels.
    model : Module
        What is trained.
    eps, steps, step_size, normalize, loss
        As for `fgsm`.
    random_start : bool, default False
        Start within `eps` of the image, at a point drawn from the seed, epoch and step.
    noise : float, default 0
        Attack not the image but one that is up to so many `eps` away, drawn likewise.
    seed : int, default 0
        What starts and noise are drawn from.

    Raises
    ------
    TypeError, ValueError
        If an option is out of range, or `loader` and `model` are none; from `epoch`, as for `fgsm`.

    Notes
    -----
    Each step of an attack adds about two thirds of the cost of a training step. Goodfellow and others
    (arXiv:1412.6572), section 6; Madry and others (arXiv:1706.06083). With one step, a model may learn to hide its
    gradient, so that it stands one step and not several; noise = 2 hinders that: de Jorge and others, "Make some
    noise" (arXiv:2202.01181), algorithm 1. A random start with step_size = 1.25 eps, as in Wong and others, "Fast is
    better than free" (arXiv:2001.03994), hinders it less.

    Examples
    --------
    >>> from fastnn import data, nn, optim, training
    >>> normalize = data.Normalize(0.3, 0.4, 16)
    >>> loader = data.DataLoader(data.digits().train, 64, transform=normalize)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> attacked = training.AdversarialLoader(loader, model, eps=0.1, normalize=normalize)
    >>> trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01), progress=False)
    >>> history = trainer.fit(attacked, epochs=3)
    >>> trainer.evaluate(loader).accuracy > trainer.evaluate(attacked).accuracy > 0.5
    True
    """

    def __init__(self, loader: Loader, model: nn.Module, eps: float, *, steps: int = 1, step_size: float | None = None,
                 normalize: Normalize | None = None, loss: nn.Module | None = None, random_start: bool = False,
                 noise: float = 0.0, seed: int = 0) -> None:
        check_loader("loader", loader)
        self.loader = loader
        self.model, self.loss = _checked(model, loss)
        self.random_start, self.noise = random_start, as_float("noise", noise, 0)
        self.seed = as_int("seed", seed, 0)
        self._how = _How(eps, steps, step_size, normalize)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.loader)

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[tuple[Any, ...], None, None]:
        """Return an iterator over the batches of an epoch, which lie where the model does; see `data.DataLoader`."""
        with closing(self.loader.epoch(epoch, start_step)) as batches:
            for step, batch in enumerate(batches, start_step):
                if len(batch) != 2:
                    raise ValueError(f"loader: expected batches of images and labels, got {len(batch)} arrays")
                _check_samples(*batch)
                self._how.check_valid(batch[0])
                images, labels = (_placed(self.model, array) for array in batch)
                if self.noise:
                    images = self._how.moved(images, self.noise, generator(self.seed, "noise", epoch, step))
                rng = generator(self.seed, "attack", epoch, step) if self.random_start else None
                yield self._how.attack(self.model, self.loss, images, labels, rng)[0], labels


class _How:
    """The options of an attack, once they are checked, and its steps."""

    def __init__(self, eps: float, steps: int, step_size: float | None, normalize: Normalize | None) -> None:
        self.eps, self.steps = as_float("eps", eps, 0), as_int("steps", steps, 1)
        self.step_size = self.eps / self.steps if step_size is None else as_float("step_size", step_size, 0)
        if not isinstance(normalize, Normalize | None):
            raise TypeError(f"normalize: expected a fastnn.data.Normalize or None, got {normalize!r:.100}")
        self.normalize = normalize

    def attack(self, model: nn.Module, loss: nn.Module, images: Array, labels: Array,
               rng: np.random.Generator | None) -> tuple[Array, list[Any]]:
        """Return the adversarial images of a batch and the losses before each step; on a GPU nothing waits."""
        low, high, unit = (beside(images, bound) for bound in self._range(images))
        least, most = np.maximum(images - self.eps * unit, low), np.minimum(images + self.eps * unit, high)
        x, losses = images if rng is None else self.moved(images, 1.0, rng), []
        for _ in range(self.steps):
            value, gradient = _loss_and_gradient(model, loss, x, labels)
            x = np.minimum(np.maximum(x + self.step_size * unit * np.sign(gradient), least), most)
            losses.append(value)
        return x, losses

    def moved(self, images: Array, share: float, rng: np.random.Generator) -> Array:
        """Return images whose pixels are moved evenly by up to a share of eps, and stay valid."""
        low, high, unit = (beside(images, bound) for bound in self._range(images))
        moves = beside(images, rng.uniform(-share * self.eps, share * self.eps, images.shape).astype(images.dtype))
        return np.minimum(np.maximum(images + moves * unit, low), high)

    def check_valid(self, images: NDArray[Any]) -> None:
        """Raise ValueError for what clipping to valid pixels would change, but for rounding."""
        low, high, unit = self._range(images)
        if not ((images >= low - 1e-3 * unit).all() and (images <= high + 1e-3 * unit).all()):
            expected, given = (("from 0 to 1", "; give normalize=, if they went through one") if self.normalize is None
                               else ("that are from 0 to 1 before normalize", ""))
            raise ValueError(f"images: expected pixels {expected}, got values from {images.min():g} to "
                             f"{images.max():g}{given}")

    def _range(self, images: Array) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return what 0, 1, and the distance between them are as the model takes them, in the images' dtype."""
        mean, std = np.zeros(()), np.ones(())
        if self.normalize is not None:
            check_images(images)
            mean, std = (broadcast(name, getattr(self.normalize, name), images) for name in ("mean", "std"))
        low, high, unit = (bound.astype(images.dtype) for bound in (-mean / std, (1 - mean) / std, 1 / std))
        return low, high, unit


def _loss_and_gradient(model: nn.Module, loss: nn.Module, x: Array, labels: Array) -> tuple[Any, Array]:
    with _frozen(model, loss):
        scores, backward = model.forward(x, training=False)
        value, loss_backward = loss.forward(scores, labels, training=False)
        gradient = backward(loss_backward(float(len(x))))       # of each image's own loss, not of their mean
    if gradient is None:
        raise TypeError(f"model: expected one that gives the gradient by its input, got none of {type(model).__name__}")
    return value, gradient


@contextmanager
def _frozen(*modules: nn.Module) -> Iterator[None]:
    """Let no parameter take a gradient: those of convolutions and linear maps are not even computed."""
    learned = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad = True


def _parts(images: NDArray[Any], batch_size: int) -> Iterator[slice]:
    size = as_int("batch_size", batch_size, 1)
    return (slice(start, start + size) for start in range(0, len(images), size))


def _placed(model: nn.Module, array: Array) -> Array:
    """Return an array where the model is."""
    parameter = next(model.parameters(), None)
    return array if parameter is None else beside(parameter.data, array)


def _checked(model: nn.Module, loss: nn.Module | None) -> tuple[nn.Module, nn.Module]:
    loss = nn.CrossEntropyLoss() if loss is None else loss
    for name, value in (("model", model), ("loss", loss)):
        if not isinstance(value, nn.Module):
            raise TypeError(f"{name}: expected a Module, got {type(value).__name__}")
    return model, loss


def _check_samples(images: NDArray[Any], labels: NDArray[Any]) -> None:
    for name, array in (("images", images), ("labels", labels)):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    if images.dtype.kind != "f":
        raise TypeError(f"images: expected floats, as the model takes them, got {images.dtype}; give what Normalize or "
                        "fastnn.data.to_float makes of them")
    if not images.ndim or not len(images) or labels.shape[:1] != images.shape[:1]:
        raise ValueError("images, labels: expected a label for each image, and at least one, got shapes "
                         f"{images.shape} and {labels.shape}")
