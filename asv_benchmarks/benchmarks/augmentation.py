"""What augmentation costs: each transform on a batch of CIFAR-10's shape, and what a training step waits for it."""

from __future__ import annotations

import time

import numpy as np

from fastnn import data, models, nn, optim, random, training

N = 128
STEPS = 8
TRANSFORMS = [data.RandomHorizontalFlip(), data.RandomCrop(4), data.ColorJitter(0.2, 0.2, 0.2),
              data.RandomAffine(10, (0.1, 0.1)), data.Cutout(8), data.Normalize(0.5, 0.25)]
MIXUP = data.MixUp(10, 0.2)


def samples(n: int) -> data.Split:
    rng = random.generator(0, "images")
    return data.Split(rng.integers(0, 256, (n, 3, 32, 32), np.uint8), rng.integers(0, 10, n))


class Transforms:
    """Seconds of one transform."""

    params = ([type(transform).__name__ for transform in TRANSFORMS],)
    param_names = ("transform",)

    def setup(self, name: str) -> None:
        self.transform = next(transform for transform in TRANSFORMS if type(transform).__name__ == name)
        self.images, self.rng = samples(N).images, random.generator(0, "augment")
        self.transform(self.images, self.rng)

    def time_batch(self, name: str) -> None:
        self.transform(self.images, self.rng)


class Step:
    """The share of a ResNet-18's training steps in which they wait for a batch with all of these transforms.

    It is the time that steps take longer than those on batches that are ready.
    """

    unit = "share"
    timeout = 600

    def track_waiting(self) -> float:
        model = models.ResNet18(10, small_images=True, width=16)
        run = training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.01), progress=False)
        transform = data.Compose(TRANSFORMS)
        loader = data.DataLoader(samples(STEPS * N), N, transform=transform, batch_transform=MIXUP)
        ready = tuple(map(np.concatenate, zip(*loader.epoch(0))))
        run.fit(data.DataLoader(ready, N), epochs=1)                # compiles
        seconds = []
        for batches in (data.DataLoader(ready, N), loader):
            begin = time.perf_counter()
            run.fit(batches, epochs=1)
            seconds.append(time.perf_counter() - begin)
        return 1 - seconds[0] / seconds[1]
