"""Whether a network can learn five images by heart, at a low and a high learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastnn import data, models, nn, optim, training
from fastnn.recipes.cifar import CIFAR

# Small weights and images that are centred but not stretched: a rate of 0.1 overshoots and comes back, where He's
# weights diverge, and a rate of 0.01 is slow.
_STD, _MOMENTUM = 0.02, 0.5


@dataclass
class OverfitCheck(CIFAR):
    """The three-layer network learns 5 images by heart.

    A network whose gradients are right brings the loss of a handful of images to nearly nothing. It is trained by
    gradient descent on all of them at once, once for each learning rate; the curves are drawn in one picture.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.OverfitCheck().lrs
    (0.01, 0.1)
    """

    name: ClassVar[str] = "overfit-check"
    takes: ClassVar[str] = "20 s"
    reported: ClassVar[str] = "loss 2.29 to 2.03 at rate 0.01; 0.0225 at 0.1"

    epochs: int = 20
    """How many updates are made, each on all images."""

    resume: bool = False
    """Go on with the run in run_dir, by default the newest of this recipe. Its options are those that it was begun
    with; --epochs may be another number."""

    images: int = 5
    """How many images are learned."""

    lrs: tuple[float, ...] = (0.01, 0.1)
    """The learning rates that are compared."""

    def check(self) -> None:
        super().check()
        if not self.lrs or len(set(self.lrs)) < len(self.lrs) or not all(0 < lr < math.inf for lr in self.lrs):
            raise ValueError(f"lrs: expected learning rates above 0, each once, got {self.lrs}")
        if not 1 <= self.images < 50_000:
            raise ValueError(f"images: expected from 1 to 49,999, got {self.images}")

    def headlines(self) -> tuple[str, ...]:
        return tuple(f"learning rate {lr}" for lr in self.lrs)

    def experiment(self) -> None:
        self.check()
        train = self.load_dataset().train
        normalize = data.Normalize(data.channel_statistics(train.images)[0], 1)
        part = data.split(train, self.images, self.seed)[1]
        loader = data.DataLoader(part, self.images, shuffle=False, transform=normalize)

        run_dir = self.open_run_dir()
        self.write_config()
        print(f"{self.name}: ThreeLayerConvNet on {self.images} images of {self.dataset}, gradient descent at learning "
              f"rates {', '.join(map(str, self.lrs))}")
        print(f"run folder: {run_dir}", flush=True)
        histories = {}
        for lr in self.lrs:
            print(f"learning rate {lr}", flush=True)
            model = models.ThreeLayerConvNet(num_classes=self.num_classes, init=nn.init.normal(_STD), seed=self.seed)
            folder = run_dir / f"lr-{lr}"
            optimizer = optim.SGD(model.parameters(), lr, momentum=_MOMENTUM)
            trainer = training.Trainer(model, nn.CrossEntropyLoss(), optimizer, run_dir=folder, seed=self.seed,
                                       device=self.device, config={**self.config(), "lr": lr})
            # Measured on the same images again, since an epoch's own loss is that before its update.
            histories[f"learning rate {lr}"] = trainer.fit(
                loader, loader, epochs=self.epochs, resume=self.resume and (folder / "last.safetensors").exists())

        final = {name: f"loss {history['val_loss'][-1]:.4f}" for name, history in histories.items()}
        picture = training.plots.comparison(histories, "val_loss")
        picture.axes[0].set_ylabel(f"loss of the {self.images} images")
        report = training.write_report(run_dir, title=f"{self.name}: {self.images} images learned by heart",
                                       figures=final, pictures={"Loss against epoch": picture})
        print(f"report: {report}")
        print(f"after {self.epochs} epochs: {', '.join(f'{loss} at {name}' for name, loss in final.items())}")
