"""The command that checks gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import tyro

from fastnn import kernels, models, nn, random, testing
from fastnn.nn.module import beside

_LIMIT = 1e-7


def gradcheck(module: Annotated[str, tyro.conf.arg(aliases=["-k"])] = "", seed: int = 0) -> int:
    """Hold the gradients of every layer, loss and model against central differences in float64.

    The error of an array is ||a - n|| / max(||a|| + ||n||, 1e-3 sqrt(size)), a being the gradient that backward gives
    and n the numeric one; the largest of a module counts. Up to 1e-7 passes; with a failure the exit status is 1.
    Steps that cross a kink, as of a ReLU or a maximum, say nothing of a gradient: they are left out, and counted.

    Parameters
    ----------
    module : str
        Only layers, losses and models with this in their name, such as Conv2d.
    seed : int
        What weights and inputs are drawn from.
    """
    if seed < 0:
        raise ValueError(f"seed: expected at least 0, got {seed}")
    cases = [case for case in _cases(seed) if module.lower() in case[0].lower()]
    if not cases:
        names = ", ".join(name for name, *_ in _cases(seed))
        raise ValueError(f"module: expected a part of one of {names}, got {module!r}")
    failed = 0
    columns = "{:<48} {:>18} {:>8} {:>6}  {}"
    print(columns.format("module", "largest error", "limit", "kinks", "verdict"))
    for name, layer, inputs in cases:
        checks = testing.check_gradients(layer, *inputs, seed=seed)
        worst = max(checks, key=lambda check: check.error)
        passed = worst.error <= _LIMIT
        failed += not passed
        verdict = "pass" if passed else f"FAIL at {worst.name}"
        kinks = sum(check.kinks for check in checks)
        print(columns.format(name, f"{worst.error:.2e}", f"{_LIMIT:.0e}", kinks, verdict), flush=True)
    print(f"\n{len(cases) - failed} of {len(cases)} pass")
    return int(failed > 0)


class _ELBO(nn.Module):
    """The loss of a variational autoencoder as a function of the arrays that this returns."""

    def __init__(self, targets: np.ndarray) -> None:
        self.targets = targets

    def forward(self, *arrays: np.ndarray, training: bool = True) -> tuple[Any, nn.Backward]:
        return nn.ELBOLoss().forward(nn.Variational(*arrays), beside(arrays[0], self.targets), training=training)


def _cases(seed: int) -> Iterator[tuple[str, nn.Module, tuple[np.ndarray, ...]]]:
    """Every layer, loss and model in float64, and what to call it with."""
    rng = random.generator(seed, "gradcheck")
    rows, images, sequences, labels = (4, 6), (2, 4, 6, 5), (2, 5, 6), rng.integers(0, 6, 4)
    with random.seeded(seed):
        cases: list[tuple[str, nn.Module, tuple[int, ...]]] = [
            ("Linear", nn.Linear(6, 3), rows),
            ("Conv2d", nn.Conv2d(4, 6, 3, padding=1), images),
            ("Conv2d: strided, dilated, grouped",
             nn.Conv2d(4, 6, (3, 2), stride=2, padding=(2, 1), dilation=(1, 2), groups=2), images),
            ("Conv2d: depthwise", nn.Conv2d(4, 8, 3, padding="same", groups=4), images),
            ("ConvTranspose2d", nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), images),
            ("MaxPool2d", nn.MaxPool2d(2), images),
            ("MaxPool2d: overlapping", nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), images),
            ("AvgPool2d", nn.AvgPool2d(2), images),
            ("AvgPool2d: overlapping",
             nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False), images),
            ("AdaptiveAvgPool2d", nn.AdaptiveAvgPool2d((2, 3)), images),
            ("AdaptiveMaxPool2d", nn.AdaptiveMaxPool2d((4, 3)), images),
            ("Upsample", nn.Upsample(scale_factor=2), images),
            ("Upsample: bilinear", nn.Upsample(scale_factor=(2, 1.5), mode="bilinear"), images),
            ("BatchNorm1d", nn.BatchNorm1d(6), rows),
            ("BatchNorm2d", nn.BatchNorm2d(4), images),
            ("LayerNorm", nn.LayerNorm(6), rows),
            ("GroupNorm", nn.GroupNorm(2, 4), images),
            ("MultiheadAttention", nn.MultiheadAttention(6, 2), sequences),
            ("TransformerBlock", nn.TransformerBlock(6, 2, 7, dropout=0.2), sequences),
            ("SinusoidalPositions", nn.SinusoidalPositions(6), sequences),
            ("Dropout", nn.Dropout(0.4), rows),
            ("ReLU", nn.ReLU(), rows),
            ("LeakyReLU", nn.LeakyReLU(0.1), rows),
            ("Sigmoid", nn.Sigmoid(), rows),
            ("Tanh", nn.Tanh(), rows),
            ("GELU", nn.GELU(), rows),
            ("GELU: by tanh", nn.GELU("tanh"), rows),
            ("SiLU", nn.SiLU(), rows),
            ("Softplus", nn.Softplus(), rows),
            ("Softmax", nn.Softmax(), rows),
            ("LogSoftmax", nn.LogSoftmax(), rows),
            ("Flatten", nn.Flatten(), images),
            ("Identity", nn.Identity(), rows),
            ("Sequential", nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), rows),
            ("Residual", nn.Residual(nn.Conv2d(4, 4, 3, padding=1)), images),
            ("Checkpointed", nn.Checkpointed(nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(),
                                                           nn.Dropout(0.4))), rows),
            ("CNN", models.CNN(seed=seed), (2, 1, 8, 8)),
            ("MultiCrop", models.MultiCrop(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)),
                                           shift=2), (2, 2, 4, 5)),
            ("CNNMnist", models.CNNMnist(seed=seed), (2, 1, 28, 28)),
            *((name, getattr(models, name)(10, small_images=True, width=4, seed=seed), (4, 3, 16, 16))
              for name in ("ResNet18", "ResNet34", "ResNet50")),
            ("AllCNN", models.AllCNN(width=4, seed=seed), (4, 3, 16, 16)),
            ("MobileNet", models.MobileNet(10, small_images=True, width=4, seed=seed), (4, 3, 32, 32)),
            ("SpeedrunNet", models.SpeedrunNet(width=4, seed=seed), (4, 3, 25, 25)),
            ("ThreeLayerConvNet", models.ThreeLayerConvNet(seed=seed), (2, 3, 32, 32)),
            ("LinearSVM", models.LinearSVM(12, seed=seed), (4, 3, 2, 2)),
            ("SoftmaxClassifier", models.SoftmaxClassifier(12, seed=seed), (4, 3, 2, 2)),
            ("TwoLayerNet", models.TwoLayerNet(seed=seed), (4, 3, 32, 32)),
            ("FullyConnectedNet",
             models.FullyConnectedNet(12, (7, 5), activation="tanh", batch_norm=True, dropout=0.3, seed=seed),
             (8, 3, 2, 2)),
            ("EmbeddingNet", models.EmbeddingNet(20, seed=seed), (2, 1, 28, 28)),
            ("GaborBank", models.GaborBank(4), (2, 1, 14, 14)),
            ("VAE", models.VAE(12, 7, 3, samples=2, seed=seed), (4, 3, 2, 2)),
        ]
        of_tokens: list[tuple[str, nn.Module]] = [
            ("Embedding", nn.Embedding(7, 3, 0)),
            ("SinusoidalEmbedding", nn.Sequential(nn.SinusoidalEmbedding(6, dtype=np.float64), nn.Linear(6, 3)))]
        attention = nn.MultiheadAttention(6, 2)
    for name, module, shape in cases:
        yield name, module.to(np.float64), (rng.standard_normal(shape),)
    tokens = rng.integers(1, 7, (2, 5))     # 0 is padding, whose embedding never learns
    for name, module in of_tokens:
        yield name, module.to(np.float64), (tokens,)
    query, keys, values = (rng.standard_normal((2, length, 6)) for length in (5, 3, 3))
    yield "MultiheadAttention: between sequences", attention.to(np.float64), (query, keys, values)
    for name, tied in (("DecoderTransformer", False), ("DecoderTransformer: tied", True)):
        config = models.DecoderTransformerConfig(7, 5, embed_dim=6, head_dim=2, num_layers=2, hidden=5, tied=tied)
        decoder = models.DecoderTransformer(config, seed=seed).to(np.float64)
        for parameter in decoder.parameters():  # which are small at first, and so are the gradients
            parameter.data += 0.2 * rng.standard_normal(parameter.data.shape)
        yield name, decoder, (tokens,)
    yield "TokenCrossEntropyLoss", nn.TokenCrossEntropyLoss(), (rng.standard_normal((2, 5, 7)),
                                                                np.where(tokens == 1, -100, tokens))
    for name, around in (("UNet", lambda unet: unet), ("DDPM", models.DDPM)):
        unet = models.UNet(width=4, multipliers=(1, 2), groups=2, seed=seed).to(np.float64)
        for parameter in unet.parameters():     # some start at 0, with which what is before them would not be checked
            parameter.data += 0.2 * rng.standard_normal(parameter.data.shape)
        yield name, around(unet), (rng.standard_normal((2, 1, 4, 4)), np.array([3, 90]))
    moments = rng.standard_normal((2, *rows))
    yield "Reparameterization", nn.Reparameterization(2), tuple(moments)
    yield "GaussianKLLoss", nn.GaussianKLLoss(), tuple(moments)
    yield "ELBOLoss", _ELBO(rng.random((4, 3))), (rng.standard_normal((2, 4, 3)), *moments)
    scores = rng.standard_normal(rows)
    yield "CrossEntropyLoss", nn.CrossEntropyLoss(), (scores, labels)
    yield "CrossEntropyLoss: smoothed", nn.CrossEntropyLoss(label_smoothing=0.1), (scores, labels)
    yield "CrossEntropyLoss: soft", nn.CrossEntropyLoss(label_smoothing=0.1), (scores, kernels.softmax(-scores))
    yield "CrossEntropyLoss: weighted, some ignored, of places", nn.CrossEntropyLoss(
        weight=np.array([1.0, 0.5, 2.0, 1.0, 1.5, 0.25]), ignore_index=labels[0]), (scores[..., None], labels[:, None])
    yield "BCEWithLogitsLoss", nn.BCEWithLogitsLoss(pos_weight=np.full(6, 2.0)), (scores, rng.random(rows))
    yield "HingeLoss", nn.HingeLoss(), (scores, labels)
    yield "MSELoss", nn.MSELoss(), (scores, rng.standard_normal(rows))
