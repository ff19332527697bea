"""A run in a process of its own, for tests that interrupt, kill or starve it.

    python digits_run.py RUN_DIR [--epochs N] [--resume] [--wait EPOCH STEP] [--fork] [--file-size BYTES]

With --wait it prints "waiting" in the middle of a step, when gradients are there, and goes on after a line on stdin;
with --fork, a child forked there, whose number is printed before, lives on for a minute.
"""

import argparse
import os
import sys
import time

from fastnn import data, nn, optim, random, training


class Wait(training.Callback):
    def __init__(self, epoch, step, fork):
        self.moment, self.step, self.fork = (epoch, step), 0, fork

    def on_epoch_begin(self, trainer, epoch):
        self.epoch, self.step = epoch, 0

    def on_gradients(self, trainer):
        if (self.epoch, self.step) == self.moment:
            if self.fork:
                if not (child := os.fork()):
                    time.sleep(60)
                    os._exit(0)
                print(child, flush=True)
            print("waiting", flush=True)
            sys.stdin.readline()

    def on_step_end(self, trainer, loss):
        self.step += 1


def net():
    with random.seeded(3):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Dropout(0.2), nn.Linear(64, 10))


def trainer(run_dir, callbacks=(), epochs=3):
    model = net()
    optimizer = optim.AdamW(optim.parameter_groups(model, 0.01), 0.01)
    return training.Trainer(
        model, nn.CrossEntropyLoss(), optimizer, schedule=optim.CosineLR(epochs), run_dir=run_dir, seed=5,
        clip_norm=5.0, callbacks=[training.EarlyStopping(10, restore_best=True), *callbacks],
        config={"batch_size": 32}, progress=False)


def loaders():
    digits = data.digits()
    transform = data.Compose([data.RandomCrop(1), data.Normalize(0.3, 0.4, digits.scale)])
    train = data.Split(digits.train.images[:320], digits.train.labels[:320])
    return (data.DataLoader(train, 32, seed=2, transform=transform),
            data.DataLoader(digits.test, 128, shuffle=False, transform=data.Normalize(0.3, 0.4, digits.scale)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--wait", type=int, nargs=2)
    parser.add_argument("--fork", action="store_true")
    parser.add_argument("--file-size", type=int)
    options = parser.parse_args()
    if options.file_size:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_size,) * 2)
    run = trainer(options.run_dir, [Wait(*options.wait, options.fork)] if options.wait else [])
    try:
        run.fit(*loaders(), epochs=options.epochs, resume=options.resume)
    except training.Interrupted as error:
        print(error, flush=True)
        sys.exit(128 + error.signal)
    except training.CheckpointError as error:
        print(error, flush=True)
        sys.exit(3)


if __name__ == "__main__":
    main()
