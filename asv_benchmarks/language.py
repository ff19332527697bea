"""A language model and its twin in PyTorch, from the same weights on the same batches: speed, loss, generation.

    python language.py                  1,500 updates of both on the three books, in about an hour
    python language.py --updates 100    fewer
    python language.py --layers 2       of another depth; --text FILE: on another text

Both make each update in turns, in one process and with as many threads. Tokens a second, padding left out, and how many
times as fast fastnn is, are medians over all updates but the first ten. Then both write in turns, token by token.
PyTorch runs eagerly, with its fused attention and its fused optimizer.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__" and os.environ.get("OMP_WAIT_POLICY") != "passive":
    # Read once, when OpenMP is loaded: threads that spin while they wait take the core that the other one needs.
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_WAIT_POLICY": "passive"})

# After the above: threads wait as they were told to when these were loaded.
import numpy as np

import fastnn
from fastnn import data, models, nn, optim, recipes

WARM = 10                                   # updates that are not timed
DRAWN = 1000                                # tokens that are generated to measure the speed


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--text", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    torch.set_num_threads(fastnn.get_num_threads())
    recipe = recipes.TransformerLM(num_layers=options.layers, text=tuple(options.text))
    recipe.check()
    texts = recipe.load_texts()
    tokenizer = recipe.learned_tokenizer(texts)
    train, validation = recipe.loaders(texts, tokenizer)
    model = models.DecoderTransformer(recipe.model_config(len(tokenizer)))
    twin = torch_twin(torch, model)
    print(f"{sum(p.data.size for p in model.parameters()):,} parameters, {train.tokens:,} tokens; fastnn "
          f"{fastnn.__version__}, PyTorch {torch.__version__}, {fastnn.get_num_threads()} threads", flush=True)

    steps: dict[str, Callable[[Any, Any], float]] = {
        "fastnn": our_step(model, recipe), "PyTorch": torch_step(torch, twin, recipe)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses, counts = dict.fromkeys(steps, 0.0), []
    for update, batch in enumerate(data.Rounds(train, options.updates).epoch(0), 1):
        for name, step in steps.items() if update % 2 else reversed(steps.items()):
            begin = time.perf_counter()
            losses[name] = step(*batch)
            seconds[name].append(time.perf_counter() - begin)
        counts.append(int((batch[1] != -100).sum()))
        if update % 50 == 0 or update == options.updates:
            ours, theirs, tokens = (np.array(values[WARM if update > WARM else 0 :])
                                    for values in (*seconds.values(), counts))
            print(f"update {update}: " + "; ".join(
                f"{name} loss {losses[name]:.4f}, {np.median(tokens / times):,.0f} tokens/s"
                for name, times in zip(steps, (ours, theirs))) + f"; ratio {np.median(theirs / ours):.3f}", flush=True)
    print("validation loss: " + "; ".join(f"{name} {loss:.4f}" for name, loss in (
        ("fastnn", mean_loss(validation, lambda *batch: our_loss(model, *batch))),
        ("PyTorch", mean_loss(validation, lambda *batch: their_loss(torch, twin, *batch))))), flush=True)

    times: dict[str, list[float]] = {}
    for length in (2 * recipe.context, DRAWN):          # the first ones compile
        drawn = {"fastnn": model.generate([tokenizer.CLS], length),
                 "PyTorch": torch_generate(torch, twin, tokenizer.CLS, length, recipe.context)}
        times = {name: [] for name in drawn}
        for _ in range(length):
            for name, tokens in drawn.items():
                begin = time.perf_counter()
                next(tokens)
                times[name].append(time.perf_counter() - begin)
    quarter = recipe.context // 4
    for name, each in times.items():
        first, last = (1e3 * statistics.median(part) for part in (
            each[1 : quarter + 1], each[recipe.context - quarter : recipe.context]))
        print(f"{name}: {len(each) / sum(each):,.0f} tokens/s generated; a token among the first {quarter} takes "
              f"{first:.3f} ms, among the last {quarter} of the context {last:.3f} ms", flush=True)


def our_step(model: nn.Module, recipe: recipes.TransformerLM) -> Callable[[Any, Any], float]:
    """Return a training step of fastnn, `(tokens, targets) -> loss`."""
    loss, optimizer = nn.TokenCrossEntropyLoss(), recipe.make_optimizer(model)

    def step(tokens: Any, targets: Any) -> float:
        scores, backward = model.forward(tokens, training=True)
        value, loss_backward = loss.forward(scores, targets)
        backward(loss_backward(), input_grad=False)
        optim.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return float(value)

    return step


def torch_step(torch: Any, twin: Any, recipe: recipes.TransformerLM) -> Callable[[Any, Any], float]:
    """Return the same step of PyTorch."""
    parameters = list(twin.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
         {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}], recipe.lr, betas=(0.9, 0.95),
        fused=True)

    def step(tokens: Any, targets: Any) -> float:
        with torch.enable_grad():
            value = torch_loss(torch, twin, tokens, targets)
            value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return float(value.detach())

    return step


def torch_loss(torch: Any, twin: Any, tokens: Any, targets: Any) -> Any:
    """Return PyTorch's mean loss of a batch."""
    scores = twin(torch.from_numpy(tokens))
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1), torch.from_numpy(targets).flatten())


def our_loss(model: nn.Module, tokens: Any, targets: Any) -> float:
    return float(nn.TokenCrossEntropyLoss()(model(tokens), targets))


def their_loss(torch: Any, twin: Any, tokens: Any, targets: Any) -> float:
    with torch.inference_mode():
        return float(torch_loss(torch, twin, tokens, targets))


def mean_loss(loader: data.SequenceLoader, loss: Callable[[Any, Any], float]) -> float:
    """Return the mean loss of a token over all batches."""
    counts = [(loss(*batch), int((batch[1] != -100).sum())) for batch in loader.epoch(0)]
    return sum(value * count for value, count in counts) / sum(count for _, count in counts)


def torch_twin(torch: Any, model: models.DecoderTransformer) -> Any:
    """Return PyTorch's twin of a model, with its weights.

    Padding is behind what counts, so that the causal mask alone hides it.
    """
    layers, functional, config = torch.nn, torch.nn.functional, model.config
    inner = config.num_heads * config.head_dim

    class Attention(layers.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_proj_weight = layers.Parameter(torch.empty(3 * inner, config.embed_dim))
            self.in_proj_bias = layers.Parameter(torch.empty(3 * inner))
            self.out_proj = layers.Linear(inner, config.embed_dim)

        def forward(self, x: Any, cache: list[Any] | None) -> Any:
            n, t, _ = x.shape
            # (N, T, 3 H D) -> (3, N, H, T, D)
            projected = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
            query, key, value = projected.view(n, t, 3, config.num_heads, config.head_dim).permute(2, 0, 3, 1, 4)
            if cache is not None:
                if cache:
                    key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
                cache[:] = key, value
            y = functional.scaled_dot_product_attention(query, key, value, is_causal=t > 1)
            return self.out_proj(y.transpose(1, 2).reshape(n, t, inner))

    class Block(layers.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = Attention()
            self.linear1 = layers.Linear(config.embed_dim, config.hidden)
            self.linear2 = layers.Linear(config.hidden, config.embed_dim)
            self.norm1, self.norm2 = layers.LayerNorm(config.embed_dim), layers.LayerNorm(config.embed_dim)

        def forward(self, x: Any, cache: list[Any] | None) -> Any:
            x = x + self.self_attn(self.norm1(x), cache)
            return x + self.linear2(functional.gelu(self.linear1(self.norm2(x))))

    class Twin(layers.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = layers.Embedding(config.vocab_size, config.embed_dim, config.padding)
            self.layers = layers.ModuleList(Block() for _ in range(config.num_layers))
            self.norm = layers.LayerNorm(config.embed_dim)
            self.head = layers.Linear(config.embed_dim, config.vocab_size, bias=False)
            if config.tied:
                self.head.weight = self.embedding.weight
            waves = model.positions(np.zeros((1, config.context, config.embed_dim), np.float64))
            self.register_buffer("positions", torch.from_numpy(waves).to(torch.get_default_dtype()), persistent=False)

        def forward(self, tokens: Any, caches: list[list[Any]] | None = None) -> Any:
            start = caches[0][0].shape[2] if caches and caches[0] else 0
            x = self.embedding(tokens) * config.embed_dim**0.5 + self.positions[:, start : start + tokens.shape[1]]
            for i, block in enumerate(self.layers):
                x = block(x, None if caches is None else caches[i])
            return self.head(self.norm(x))

    twin = Twin()
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in model.state_dict().items()})
    return twin


def torch_generate(torch: Any, twin: Any, first: int, length: int, context: int) -> Iterator[int]:
    """Draw tokens as fastnn does: with a cache, of which the older half is forgotten when the context is full."""
    generator = torch.Generator().manual_seed(0)
    seen, fresh, caches = [first], [first], [[] for _ in twin.layers]
    for _ in range(length):
        if len(seen) > context:
            seen = fresh = seen[-(context // 2) :]
            caches = [[] for _ in twin.layers]
        with torch.inference_mode():
            shares = twin(torch.tensor([fresh]), caches)[0, -1].softmax(0)
            token = int(torch.multinomial(shares, 1, generator=generator))
        seen, fresh = [*seen, token], [token]
        yield token


if __name__ == "__main__":
    main()
