"""The recipes that draw images beside the same in PyTorch.

    python generative.py unet                a training step and a forward pass of ddpm-mnist's network, in turns
    python generative.py unet --batch 128    of another batch
    python generative.py vae                 vae-mnist and its twin, trained alike: the bound of both in validation
    python generative.py vae --epochs 10     of fewer updates; MNIST is found as fastnn.data.mnist finds it
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

if __name__ == "__main__":
    # Read once, when OpenMP is loaded: threads that spin while they wait take the core that the next one needs.
    os.environ["OMP_WAIT_POLICY"] = "passive"

import numpy as np

from fastnn import data, models, nn, optim, random, recipes, training

_MULTIPLY_ADDS = 94.7e6                     # of an image, forwards


def torch_unet(torch: Any, in_channels: int = 1, width: int = 32, multipliers: Sequence[int] = (1, 2, 2),
               groups: int = 8) -> Any:
    """Return the twin of `models.UNet`, which takes its weights by name."""
    layers, features = torch.nn, 4 * width

    def normalized(before: int, after: int) -> Any:
        parts = {"norm": layers.GroupNorm(groups, before), "act": layers.SiLU(),
                 "conv": layers.Conv2d(before, after, 3, padding=1)}
        return layers.Sequential(OrderedDict(parts))

    class Block(layers.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.body1, self.body2 = normalized(before, after), normalized(after, after)
            self.shift = layers.Linear(features, after)
            self.shortcut = layers.Identity() if before == after else layers.Conv2d(before, after, 1)

        def forward(self, x: Any, time: Any) -> Any:
            h = self.body1(x) + self.shift(time)[:, :, None, None]
            return self.body2(h) + self.shortcut(x)

    class Attention(layers.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.norm = layers.GroupNorm(groups, channels)
            heads = channels // 32 if channels % 32 == 0 else 1
            self.attention = layers.MultiheadAttention(channels, heads, batch_first=True)

        def forward(self, x: Any) -> Any:
            rows = self.norm(x).flatten(2).transpose(1, 2)                              # (N, H W, C)
            rows = self.attention(rows, rows, rows, need_weights=False)[0]
            return x + rows.transpose(1, 2).reshape(x.shape)

    class UNet(layers.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = [width * multiplier for multiplier in multipliers]
            lowest = channels[-1]
            self.time = layers.Sequential(layers.Identity(), layers.Linear(width, features), layers.SiLU(),
                                          layers.Linear(features, features), layers.SiLU())
            self.conv_in = layers.Conv2d(in_channels, width, 3, padding=1)
            self.down = layers.ModuleList(map(Block, [width, *channels[:-1]], channels))
            self.downsample = layers.ModuleList(layers.Conv2d(c, c, 3, stride=2, padding=1) for c in channels[:-1])
            self.middle1, self.attention, self.middle2 = Block(lowest, lowest), Attention(lowest), Block(lowest, lowest)
            self.up = layers.ModuleList(Block(2 * c, c) for c in reversed(channels))
            self.upsample = layers.ModuleList(
                layers.Sequential(OrderedDict(conv=layers.Conv2d(below, c, 1), resize=layers.Upsample(None, 2)))
                for below, c in zip(channels[:0:-1], channels[-2::-1]))
            self.out = normalized(channels[0], in_channels)
            self.frequencies = 10_000.0 ** (torch.arange(0, width, 2, dtype=torch.float64) / -width)

        def forward(self, x: Any, time: Any) -> Any:
            angles = time[:, None] * self.frequencies
            waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
            embedded, h, across = self.time(waves.to(x.dtype)), self.conv_in(x), []
            for size, block in enumerate(self.down):
                h = block(h, embedded)
                across.append(h)
                if size < len(self.downsample):
                    h = self.downsample[size](h)
            h = self.middle2(self.attention(self.middle1(h, embedded)), embedded)
            for size, block in enumerate(self.up):
                h = self.upsample[size - 1](h) if size else h
                h = block(torch.cat([h, across.pop()], dim=1), embedded)
            return self.out(h)

    return UNet()


def steps_of_both(torch: Any, n: int) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """Return a training step and a forward pass of both libraries, from the same weights on the same batch."""
    model = models.UNet()
    twin = torch_unet(torch)
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in model.state_dict().items()})
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, n, 1, 28, 28), np.float32)
    times = rng.integers(0, 500, n)
    loss, optimizer = nn.MSELoss(), optim.AdamW(model.parameters(), 1e-3)
    their_x, their_noise, their_times = map(torch.from_numpy, (x, noise, times))
    their_optimizer = torch.optim.AdamW(twin.parameters(), 1e-3, fused=True)

    def ours() -> None:
        y, backward = model.forward(x, times, training=True)
        backward(loss.forward(y, noise)[1](), input_grad=False)
        optimizer.step()
        optimizer.zero_grad()

    def theirs() -> None:
        with torch.enable_grad():
            torch.nn.functional.mse_loss(twin(their_x, their_times), their_noise).backward()
        their_optimizer.step()
        their_optimizer.zero_grad()

    def their_forward() -> None:
        with torch.no_grad():
            twin(their_x, their_times)

    return ({"fastnn": ours, "PyTorch": theirs},
            {"fastnn": functools.partial(model, x, times), "PyTorch": their_forward})


def unet(n: int) -> None:
    import peers
    import rows

    rows.place_on("cpu")
    lines = []
    for name, passes, calls in zip(("training step", "forward pass"), (3, 1), steps_of_both(rows.torch, n)):
        measured = peers.alternate(calls, 20.0, 5, 20)
        times = {library: statistics.median(seconds) for library, seconds in measured.items()}
        rate = 2 * passes * n * _MULTIPLY_ADDS / times["fastnn"] / 1e9
        lines.append([f"{name}, batch {n}", *(f"{1e3 * seconds:.0f} ms" for seconds in times.values()),
                      f"{times['PyTorch'] / times['fastnn']:.2f} x", f"{rate:.0f} GFLOP/s"])
    print(peers.markdown(["UNet", "fastnn", "PyTorch", "faster", "fastnn's rate"], lines))


def vae(epochs: int) -> None:
    """Train both from the same weights, by the same batches and the same noise."""
    import torch

    recipe = recipes.VAEMnist(epochs=epochs)
    model = recipe.model()
    train, held_out = recipe.loaders(recipe.load_dataset(), model)
    layers, weights = torch.nn, {name: torch.from_numpy(array) for name, array in model.state_dict().items()}
    encoder = layers.Sequential(layers.Flatten(), layers.Linear(196, 128), layers.Tanh(), layers.Linear(128, 16))
    decoder = layers.Sequential(layers.Linear(8, 128), layers.Tanh(), layers.Linear(128, 196))
    for name, part in (("encoder", encoder), ("decoder", decoder)):
        part.load_state_dict({key.removeprefix(f"{name}."): weights[key] for key in weights if key.startswith(name)})
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], recipe.lr)
    schedule = recipe.make_schedule()

    def bound(x: Any, *step: int) -> Any:
        mean, log_variance = encoder(x).chunk(2, dim=1)
        noise = random.generator(recipe.seed, "reparameterization", *step, 0).standard_normal((2, *mean.shape))
        logits = decoder(mean + torch.exp(log_variance / 2) * torch.from_numpy(noise.astype(np.float32)))
        errors = layers.functional.binary_cross_entropy_with_logits(
            logits, x.reshape(1, len(x), -1).expand_as(logits), reduction="none").sum(2).mean()
        return errors - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()

    begin = time.perf_counter()
    for epoch in range(epochs):
        for step, (x, _) in enumerate(train.epoch(epoch)):
            optimizer.param_groups[0]["lr"] = recipe.lr * schedule(epoch + step / len(train))
            optimizer.zero_grad()
            bound(torch.from_numpy(x), epoch, step).backward()
            optimizer.step()
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        theirs = float(bound(torch.from_numpy(held_out.arrays[0]), 0))
    trainer = training.Trainer(model, recipe.make_loss(), recipe.make_optimizer(model), schedule=schedule,
                               progress=False)
    history = trainer.fit(data.DataLoader(train.arrays, recipe.batch_size, seed=recipe.seed), held_out, epochs=epochs)
    ours = float(history["val_loss"][-1])
    print(f"after {epochs * len(train):,} updates, the bound of {len(held_out.arrays[0])} digits in validation:\n"
          f"fastnn  {-ours:.3f} nats, {history['seconds'].sum():.1f} s of training\n"
          f"PyTorch {-theirs:.3f} nats, {seconds:.1f} s\n"
          f"difference {abs(ours - theirs):.3f} nats")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("unet", "vae"))
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--epochs", type=int, default=100, help="passes through the digits")
    options = parser.parse_args()
    if options.what == "unet":
        unet(options.batch)
    else:
        vae(options.epochs)


if __name__ == "__main__":
    main()
