"""What augmentation costs, beside the training steps that it is done for: batches of 128 images of CIFAR-10's shape.

    python augmentation.py              each transform by itself, then steps of two recipes; some minutes
    python augmentation.py --steps 3    fewer steps

Transforms run on the loader's thread while a step runs. A step waits where they take longer than it does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import peers
from benchmarks.augmentation import MIXUP, TRANSFORMS, N, samples

from fastnn import data, nn, random
from fastnn.recipes import RECIPES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="training steps that are timed")
    steps = parser.parse_args().steps
    batch, rng = samples(N), random.generator(0, "augment")
    normalized = data.Normalize(0.5, 0.25)(batch.images, rng), batch.labels
    transforms: dict[str, Callable[[], Any]] = {
        type(transform).__name__: lambda transform=transform: transform(batch.images, rng) for transform in TRANSFORMS}
    transforms["MixUp"] = lambda: MIXUP(normalized, rng)
    times = peers.alternate(transforms, 1.0, 5, 20)
    print(peers.markdown(["transform", "a batch"],
                         [[name, f"{1e3 * statistics.median(found):.1f} ms"] for name, found in times.items()]))
    print(peers.markdown(["training step", "its batch", "the step", "waits for its batch"],
                         [training_steps(name, steps) for name in ("resnet-cifar10", "allcnn-cifar10")]))


def training_steps(name: str, steps: int) -> list[str]:
    """Time a recipe's batches by themselves, and its steps with the loader beside them."""
    recipe = RECIPES[name]()
    model, loss = recipe.model(), nn.CrossEntropyLoss()
    optimizer = recipe.make_optimizer(model)
    images, transform = samples((steps + 1) * N), data.Compose([*recipe.augmentation(), data.Normalize(0.5, 0.25)])
    here, beside = (data.DataLoader(images, N, transform=transform, prefetch=prefetch).epoch(0)
                    for prefetch in (False, True))
    alone = statistics.median(timed(here.__next__)[0] for _ in range(steps))
    waits, works = [], []
    for _ in range(steps + 1):
        wait, batch = timed(beside.__next__)

        def step(images: Any = batch[0], labels: Any = batch[1]) -> None:
            scores, backward = model.forward(images, training=True)
            _, loss_backward = loss.forward(scores, labels)
            backward(loss_backward(), input_grad=False)
            optimizer.step()
            optimizer.zero_grad()

        waits.append(wait)
        works.append(timed(step)[0])
    wait, work = sum(waits[1:]) / steps, sum(works[1:]) / steps         # the first one compiles
    return [name, *(f"{1e3 * seconds:.1f} ms" for seconds in (alone, work, wait))]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


if __name__ == "__main__":
    main()
