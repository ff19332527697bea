"""The tuned numbers of `fastnn/kernels/_cpu/tuning.py` and `_gpu/tuning.py`, beside half and twice of each.

``python asv_benchmarks/tune.py`` times all of the CPU's, ``tune.py WINOGRAD_PRODUCTS POOL_CELLS`` some, and
``tune.py --device cuda`` the GPU's, on calls that a number decides about. It prints each call in which the stored
number loses more than 5 %, and ends with status 1 if there is one.

A number is read when kernels are made, so each value has a process of its own, which sets it before, with compiled
kernels of its own in a folder that is thrown away. The processes take turns, run by run, so that what else the machine
does meets all of them; medians are compared. Compiling takes minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

PACKAGE = Path(__file__).resolve().parents[1] / "fastnn"
SHELVES = {"cpu": "_cpu", "cuda": "_gpu"}
LOSS = 1.05                                 # the stored value's time over another's, from which on it is told
SECONDS = 0.02                              # of one run: a call is repeated so long


class Call(NamedTuple):
    """A call of a kernel, by the shapes of its arrays."""

    kernel: str
    shapes: tuple[tuple[int, ...], ...]
    options: dict[str, Any] = {}            # noqa: RUF012 (nobody changes it)
    dtype: str = "float32"

    def __str__(self) -> str:
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        return f"{self.kernel}({', '.join('x'.join(map(str, shape)) for shape in self.shapes)}{options})"

    def make(self, device: str) -> Callable[[], Any]:
        """Return the call on random arrays there, which waits for its end."""
        import fastnn
        from fastnn import _device

        rng = np.random.default_rng(0)
        to = fastnn.to_device if device == "cuda" else np.asarray
        arrays = [to((rng.integers(0, 256, shape) if self.dtype == "uint8" else abs(rng.standard_normal(shape)))
                     .astype(self.dtype)) for shape in self.shapes]
        options: dict[str, Any] = dict(self.options)
        if self.kernel == "batch_norm":
            arrays[1:1] = [None, None]
            options["training"] = True
        if self.kernel == "layer_norm_backward":
            arrays[2:] = [arrays[0].shape[1], arrays[2], *(to(array.astype(np.float64)) for array in arrays[3:])]
        if self.kernel == "embedding_backward":
            arrays.append(to(rng.integers(0, options["num_embeddings"], len(arrays[0]))))
        if self.kernel.startswith("cross_entropy"):
            arrays.append(to(np.zeros(len(arrays[-1]), np.int64)))
        if self.kernel == "conv2d_int8":
            arrays[1:] = [arrays[1].view(np.int8), np.full(len(arrays[1]), 1e-3, np.float32)]
        if "kept" in options or self.kernel == "conv2d_int8":
            options["kept"] = fastnn.KeptWeight(constant=True)
        if self.kernel == "max_pool2d_backward":
            y, indices = fastnn.max_pool2d(arrays[0], **options, return_indices=True)
            arrays, options = [y, indices], {"input_shape": arrays[0].shape}
        if self.kernel == "avg_pool2d_backward":
            options["input_shape"] = arrays[0].shape
            arrays = [fastnn.avg_pool2d(arrays[0], options["kernel_size"])]
        kernel = getattr(fastnn, self.kernel)

        def run() -> None:
            kernel(*arrays, **options)
            if device == "cuda":
                _device.synchronize()

        return run


def conv(n: int, c: int, o: int, size: int, taps: int = 3, **options: Any) -> Call:
    options.setdefault("padding", taps // 2)
    return Call("conv2d", ((n, c, size, size), (o, c // options.get("groups", 1), taps, taps)), options)


def conv_int8(n: int, c: int, o: int, size: int, taps: int = 3) -> Call:
    return Call("conv2d_int8", ((n, size, size, c), (o, c, taps, taps)), {"padding": taps // 2}, "uint8")


def weight_gradient(n: int, c: int, o: int, size: int, taps: int = 3, **options: Any) -> Call:
    options |= {"padding": taps // 2, "needs": (False, True, False)}
    result = (size - 1) // options.get("stride", 1) + 1
    return Call("conv2d_backward", ((n, o, result, result), (n, c, size, size),
                                    (o, c // options.get("groups", 1), taps, taps)), options)


def linear(n: int, i: int, o: int) -> Call:
    return Call("linear", ((n, i), (o, i)))


def linear_gradient(n: int, i: int, o: int) -> Call:
    return Call("linear_backward", ((n, o), (n, i), (o, i)))


def bmm(b: int, n: int, m: int, p: int) -> Call:
    return Call("bmm", ((b, n, m), (b, m, p)))


def attention(heads: int, queries: int, keys: int, features: int = 64, **options: Any) -> Call:
    return Call("scaled_dot_product_attention",
                ((heads, queries, features), (heads, keys, features), (heads, keys, features)), options)


def attention_gradient(heads: int, queries: int, keys: int, features: int = 64, **options: Any) -> Call:
    call = attention(heads, queries, keys, features, **options)
    return call._replace(kernel=f"{call.kernel}_backward", shapes=(
        call.shapes[0], *call.shapes, call.shapes[0], call.shapes[0][:2]))


def knn(queries: int, points: int, dimensions: int, dtype: str = "float32") -> Call:
    return Call("knn", ((queries, dimensions), (points, dimensions)), {"k": 5}, dtype)


def pairs(m: int, n: int, dimensions: int) -> Call:
    return Call("pairwise_l2", ((m, dimensions), (n, dimensions)))


def flat(kernel: str, *sizes: int) -> list[Call]:
    arrays = {"adam_update": 4, "rmsprop_update": 3, "sgd_update": 3, "add": 2}.get(kernel, 1)
    options = {"adam_update": {"lr": 1e-3, "step": 1}, "rmsprop_update": {"lr": 1e-3},
               "sgd_update": {"lr": 1e-3, "momentum": 0.9}}.get(kernel, {})
    return [Call(kernel, ((size,),) * arrays, options) for size in sizes]


def rows(*shapes: tuple[int, int]) -> list[Call]:
    return [Call(kernel, (shape,)) for shape in shapes for kernel in ("softmax", "cross_entropy")]


def norm(*shapes: tuple[int, ...]) -> list[Call]:
    return [Call("batch_norm", (shape,)) for shape in shapes]


def row_norm(*shapes: tuple[int, int]) -> list[Call]:
    return [Call("layer_norm_backward", (shape, shape, shape[1:], shape[:1], shape[:1])) for shape in shapes]


def embedding(indices: int, rows: int, columns: int) -> Call:
    return Call("embedding_backward", ((indices, columns),), {"num_embeddings": rows})


def pool(*shapes: tuple[int, ...], kernel_size: int = 2) -> list[Call]:
    return [Call(kernel, (shape,), {"kernel_size": kernel_size}) for shape in shapes
            for kernel in ("max_pool2d", "avg_pool2d", "max_pool2d_backward", "avg_pool2d_backward")]


CALLS = {
    "cpu": {
        "PARALLEL_WORK": [*flat("relu", 100_000, 150_000, 250_000, 350_000), linear(64, 32, 16), linear(64, 64, 16)],
        "LEAST_BLOCKS": [attention(2, 512, 512), conv(1, 64, 64, 28), conv(1, 16, 16, 28),
                         weight_gradient(8, 64, 64, 28), pairs(256, 2000, 64)],
        "TURNS": [*flat("relu", 1 << 20, 1 << 22), conv(32, 16, 16, 32)],
        "STREAMED": [*flat("relu", 3 << 20, 6 << 20), *flat("add", 3 << 20, 6 << 20)],
        "DRAFTED": [*rows((8192, 1000), (256, 30_000)), *pool((64, 64, 112, 112))],
        "STRIP": flat("relu", 1 << 23),
        "ELEMENTS_AHEAD": [*norm((32, 64, 56, 56)), *rows((4096, 1000))],
        "ROWS_AHEAD": [conv(8, 256, 256, 14), weight_gradient(8, 64, 64, 28, stride=2)],
        "ACCUMULATORS": [*norm((32, 64, 56, 56)), *rows((4096, 1000))],
        "CHUNK": [*flat("relu", 1 << 20), *flat("sigmoid", 1 << 20), *flat("adam_update", 1 << 20)],
        "BLOCK_OF_ROWS": rows((4096, 100), (512, 1000), (64, 20_000)),
        "SHORT_ROW": rows((8192, 40), (4096, 100)),
        "UPDATE_PART": [*flat("rmsprop_update", 1 << 20), *flat("adam_update", 1 << 20)],
        "MOST_PANELS": [linear(1024, 1024, 1024), linear(4096, 256, 256)],
        "MOST_COLUMNS": [linear(256, 512, 8192), linear(2048, 512, 8192)],
        "TRANSPOSED_A_CYCLE": [linear(100, 512, 512), linear(512, 512, 100), linear_gradient(512, 512, 512)],
        "COPIED_A_CYCLE": [bmm(64, 128, 64, 128), linear_gradient(512, 512, 512), linear_gradient(100, 512, 512)],
        "FEW_CYCLES": [linear(64, 128, 10), linear(16, 256, 10), linear_gradient(10, 64, 256)],
        "CYCLES_A_TILE": [linear(360, 256, 10), linear(1000, 128, 10)],
        "MOST_FOR_ONE_TILE": [linear_gradient(64, 784, 128), linear_gradient(100, 512, 512), linear(60, 512, 512)],
        "BLOCKS_A_THREAD": [linear(300, 512, 300), linear(2048, 512, 512), bmm(8, 128, 64, 128)],
        "LINEAR_FEW_WEIGHTS": [linear(64, 10, 10), linear(64, 20, 10), linear(2000, 20, 10)],
        "LINEAR_ROWS": [linear(2000, 10, 10), linear(100, 10, 10)],
        "ATTENTION_KEYS": [attention(8, 1024, 1024), attention(128, 128, 128, 32),
                           attention(8, 1024, 1024, is_causal=True)],
        "ATTENTION_QUERIES": [attention_gradient(8, 1024, 1024), attention_gradient(128, 128, 128, 32)],
        "ATTENTION_GROUPS": [attention(8, 4096, 4096), attention_gradient(8, 4096, 4096)],
        "ATTENTION_FEW_QUERIES": [attention(8, n, 1024) for n in (4, 8, 12)],
        "ATTENTION_SLACK": [attention(8, 1024, 1024)],
        "ATTENTION_CHUNK": [attention_gradient(2, 1024, 1024), attention_gradient(16, 1024, 1024)],
        "ATTENTION_CHUNKS": [attention_gradient(2, 4096, 4096), attention_gradient(16, 4096, 4096)],
        "SMALL_PRODUCTS": [conv(1, 2, 4, 5), conv(16, 2, 4, 6), conv(16, 2, 4, 8)],
        "SMALL_BATCH_PRODUCTS": [weight_gradient(n, 2, 4, 5) for n in (4, 8, 16)],
        "PADDED_ELEMENTS": [conv(8, 1, 8, 8, padding=150), conv(8, 1, 8, 8, padding=200)],
        "PADDED_MULTIPLE": [conv(8, 16, 16, 16, padding=60), conv(8, 16, 16, 16, padding=90)],
        "DIRECT_SCRATCH": [conv(8, 64, 64, 56, stride=2), conv(8, 32, 64, 56, 7), conv(8, 256, 64, 56, 1)],
        "DIRECT_BLOCKS": [conv(32, 16, 32, 64, stride=2), conv(64, 64, 64, 28, 1)],
        "DIRECT_CUT": [conv(1, 64, 256, 14, stride=2), conv(1, 16, 128, 14, 1), conv(1, 64, 256, 14, 1)],
        "DIRECT_FILLS": [conv(4, 64, 128, 32, stride=2), conv(6, 128, 256, 16, stride=2)],
        "NARROW_PIXELS": [conv(32, 256, 512, 8, stride=2), conv(32, 128, 256, 16, stride=2)],
        "DIRECT_SUMS": [weight_gradient(8, 128, 128, 28, stride=2), weight_gradient(8, 64, 64, 56, stride=2)],
        "WINOGRAD_PRODUCTS": [conv(8, c, c, 32) for c in (16, 24, 32, 40)],
        "WINOGRAD_WEIGHT_PRODUCTS": [weight_gradient(32, c, c, 32) for c in (24, 32, 48)],
        "WINOGRAD_WEIGHT_TILES": [weight_gradient(1, 64, 64, 12), weight_gradient(1, 64, 64, 20),
                                  weight_gradient(8, 64, 64, 28, 5), weight_gradient(16, 64, 64, 28, 5)],
        "WINOGRAD_CACHED_FILTERS": [conv(1, 64, 96, 28), conv(1, 96, 128, 28)],
        "WINOGRAD_SHARERS": [conv(1, 128, 256, 14), conv(1, 256, 512, 7)],
        "WINOGRAD_FEW": [conv(n, 512, 512, 4, kept=True) for n in (1, 2, 3, 4)],
        "WINOGRAD_FEW_TILES": [weight_gradient(4, 64, 64, 14), weight_gradient(8, 64, 64, 14)],
        "WINOGRAD_FEW_ELEMENTS": [weight_gradient(4, 512, 512, 14), weight_gradient(4, 256, 256, 14)],
        "WINOGRAD_SUMS": [weight_gradient(16, 64, 64, 32), weight_gradient(16, 256, 256, 14)],
        "WINOGRAD_LEAST_GROUP": [weight_gradient(16, 64, 64, 14), weight_gradient(16, 256, 256, 14)],
        "DEPTHWISE_TAPS": [conv(8, 64, 64, 28, 5, groups=64), conv(8, 64, 64, 28, 7, groups=64)],
        "DEPTHWISE_SCRATCH": [conv(8, 32, 32, 112, groups=32), conv(8, 32, 32, 56, groups=32)],
        "DEPTHWISE_LEAST_SCRATCH": [conv(1, 2, 2, 112, groups=2), conv(1, 4, 4, 56, groups=4)],
        "QUERY_GROUP": [knn(1000, 5000, 48), knn(1000, 5000, 200), knn(1000, 5000, 784, "uint8")],
        "ONE_ROW_QUERIES": [knn(n, 20_000, 64) for n in (4, 8, 12)],
        "ONE_ROW_ELEMENTS": [knn(12, n, 16) for n in (60, 120)],
        "PAIR_SLAB": [pairs(1000, 1000, 64), pairs(1000, 1000, 784)],
        "PAIR_GROUP": [pairs(300, 300, 64), pairs(500, 500, 784)],
        "PAIR_LARGEST_GROUP": [pairs(2000, 2000, 64), pairs(2000, 2000, 784)],
        "KNN_GROUPS": [knn(n, 20_000, 48) for n in (900, 1500)],
        "KNN_BLOCKS": [knn(n, 50_000, 48) for n in (16, 200)],
        "KNN_LEAST_SLICE": [knn(16, n, 48) for n in (3000, 10_000)],
        "FILTER_QUERIES": [knn(n, 20_000, 128) for n in (80, 160, 240)],
        "FILTER_DIMENSIONS": [knn(1000, 10_000, n) for n in (40, 80, 120)],
        "FILTER_USEFUL": [knn(1000, 10_000, 128)],
        "FILTER_SAMPLE": [knn(1000, 10_000, 128)],
        "POOL_CELLS": [*pool((32, 64, 32, 32), (128, 32, 14, 14)), *pool((32, 64, 32, 32), kernel_size=3)],
        "NORM_RUN": norm((32, 64, 7, 7), (32, 64, 10, 10), (64, 128, 6, 6)),
        "NORM_CHANNELS": norm((64, 12, 56, 56), (64, 24, 56, 56)),
        "NORM_SMALL": norm((8, 64, 10, 10), (8, 128, 10, 10), (16, 8, 28, 28)),
        "NORM_WALK": norm((32, 64, 16, 16), (32, 64, 28, 28)),
        "NORM_COLUMNS": norm((4096, 256), (1024, 2048), (64, 512, 4, 4)),
        "NORM_SLABS": norm((100_000, 64), (4096, 256)),
        "NORM_VALUES": norm((32, 64, 28, 28), (4096, 256)),
        "NORM_FEW_RUNS": norm((8, 10), (20, 10), (4, 16, 8, 8)),
        "NORM_FEW_VALUES": norm((2, 8, 16, 16), (2, 8, 24, 24), (4, 8, 20, 20)),
        "NORM_STRIP": row_norm((32_768, 64), (8192, 256), (2048, 1000)),
        "NORM_ROW_SLABS": row_norm((131_072, 64), (8192, 1000)),
        "NORM_SLAB_ROWS": row_norm((64, 4096), (256, 4096)),
        "EMBEDDING_SLICE": [embedding(8192, 2048, columns) for columns in (200, 1000)],
        "EMBEDDING_VALUES": [embedding(1000, 2048, 256), embedding(32_768, 32_768, 256)],
        "INT8_PIXELS": [conv_int8(32, 64, 64, 32), conv_int8(32, 256, 256, 7), conv_int8(32, 512, 512, 4)],
    },
    "cuda": {
        "THREADS": [*flat("relu", 1 << 22), *rows((4096, 1000)), *norm((32, 64, 56, 56))],
        "MOST_BLOCKS": [*flat("relu", 1 << 25), *flat("adam_update", 1 << 24), conv(32, 64, 64, 112, groups=64)],
        "REDUCED": [*rows((4096, 1000)), *norm((32, 64, 56, 56))],
        "ELEMENTWISE_AT_ONCE": [*flat("relu", 1 << 18, 1 << 25), *flat("sigmoid", 1 << 25)],
        "UPDATE_AT_ONCE": [*flat("adam_update", 1 << 18, 1 << 24), *flat("sgd_update", 1 << 24)],
        "ROW_THREADS": rows((65_536, 10), (4096, 1000), (64, 100_000)),
        "ROW_COLUMNS": rows((65_536, 100), (4096, 1000)),
        "SUM_ROWS": [weight_gradient(32, 64, 64, 56, groups=64)],
        "SUM_BLOCKS": [Call("conv2d_backward", ((32, 64, 56, 56), (32, 64, 56, 56), (64, 64, 1, 1)),
                            {"needs": (False, False, True)})],
        "GEMM_TILES": [linear(8192, 1024, 1024), linear(256, 512, 512), conv(32, 64, 64, 56), conv(2, 256, 256, 14)],
        "GEMM_BLOCKS": [linear(256, 512, 512), conv(2, 256, 256, 14), weight_gradient(32, 64, 64, 56)],
        "GEMM_READ": [linear(512, 512, 512), linear(2048, 512, 512), conv(8, 64, 64, 56)],
        "GEMM_LAUNCH": [linear(128, 4096, 128), weight_gradient(8, 64, 64, 28)],
        "GEMM_SCRATCH": [linear(512, 4096, 512), weight_gradient(8, 256, 256, 14)],
        "ATTENTION_SIDE": [attention(64, 1024, 1024), attention_gradient(64, 1024, 1024)],
        "ATTENTION_COLUMNS": [attention(64, 1024, 1024), attention_gradient(64, 1024, 1024)],
        "DEPTHWISE_BAND": [conv(32, 64, 64, 112, groups=64), conv(32, 64, 64, 28, 5, groups=64)],
        "DEPTHWISE_TAPS": [conv(32, 64, 64, 56, 9, groups=64), conv(32, 64, 64, 56, 13, groups=64)],
        "DEPTHWISE_MULTIPLE": [conv(32, 32, 32 * m, 56, groups=32) for m in (2, 4, 8)],
        "DEPTHWISE_TERMS": [weight_gradient(32, 64, 64, 112, groups=64)],
        "DEPTHWISE_BLOCKS": [weight_gradient(32, 64, 64, 112, groups=64), weight_gradient(8, 16, 16, 28, groups=16)],
        "PAIR_WIDE": [pairs(4096, 4096, 128), knn(1000, 50_000, 128)],
        "PAIR_HIGH": [pairs(4096, 4096, 128), knn(1000, 50_000, 128)],
        "PAIR_STEP": [pairs(4096, 4096, 128), pairs(4096, 4096, 784)],
        "PAIR_BLOCKS": [pairs(512, 512, 128), knn(64, 50_000, 128)],
        "KNN_WAITING": [knn(1000, 50_000, 16), knn(1000, 50_000, 128)],
        "KNN_LEAST_SLICE": [knn(16, 5000, 128), knn(16, 50_000, 128)],
        "POOL_UNROLLED": [*pool((32, 64, 112, 112), kernel_size=7), *pool((32, 64, 112, 112), kernel_size=10)],
        "POOL_NARROW": [*pool((32, 64, 112, 112), kernel_size=3), *pool((32, 64, 112, 112), kernel_size=5)],
        "POOL_AT_ONCE": pool((32, 256, 28, 28), kernel_size=14),
        "POOL_WINDOWS": pool((32, 64, 112, 112)),
        "POOL_BLOCKS": pool((32, 64, 56, 56), (4, 64, 28, 28)),
        "NORM_HELD": norm((32, 64, 56, 56), (4096, 256)),
        "NORM_AT_ONCE": norm((32, 64, 56, 56), (4096, 256)),
        "NORM_RUN": norm((256, 64, 5, 5), (256, 64, 7, 7)),
        "NORM_FEW_PARTS": norm((16, 64, 28, 28), (32, 64, 28, 28)),
    },
}


def tuning(device: str) -> ModuleType:
    """Return a shelf's numbers, before anything reads them: the package is not imported yet."""
    name = f"fastnn.kernels.{SHELVES[device]}.tuning"
    spec = importlib.util.spec_from_file_location(name, PACKAGE / "kernels" / SHELVES[device] / "tuning.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def others(value: Any) -> list[Any]:
    """Return values to hold a number against: half and twice; of several numbers, half and twice of all."""
    if isinstance(value, dict) and any(isinstance(item, tuple) for item in value.values()):
        return [{key: item[1:] for key, item in value.items()}]         # tiles: without the first one of each
    if isinstance(value, dict):
        return [dict(zip(value, items)) for items in zip(*map(others, value.values()))]
    if isinstance(value, tuple):
        return [tuple(items) for items in zip(*map(others, value))]
    return [value / 2, value * 2] if isinstance(value, float) else [max(1, value // 2), value * 2]


class Worker:
    """A process in which a number has a value."""

    def __init__(self, device: str, name: str, value: Any, folder: str | None) -> None:
        environment = os.environ | {"OMP_WAIT_POLICY": "passive"}       # waiting threads would hold the others' cores
        if folder is not None:
            environment["FASTNN_CACHE_DIR"] = folder
        self.process = subprocess.Popen([sys.executable, __file__, "--device", device, "--worker", name, repr(value)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def seconds(self, call: int, repeats: int) -> float:
        """Return how long a run of so many repeats of a call took, for each; inf where the value cannot run it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is not None:
            return float("inf")
        self.process.stdin.write(json.dumps([call, repeats]) + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline() or "inf")


def work(device: str, name: str, value: Any) -> None:
    """Be a worker."""
    setattr(tuning(device), name, value)
    calls: dict[int, Callable[[], Any]] = {}
    for line in sys.stdin:
        number, repeats = json.loads(line)
        if number not in calls:
            calls[number] = CALLS[device][name][number].make(device)
            calls[number]()
        begin = time.perf_counter()
        for _ in range(repeats):
            calls[number]()
        print((time.perf_counter() - begin) / repeats, flush=True)


def losses(device: str, name: str, stored: Any, rounds: int) -> Iterator[tuple[str, Any, float, float]]:
    """Iterate over (call, another value, its seconds, those of the stored value) of calls that it is better at."""
    values = [stored, *(value for value in others(stored) if value != stored)]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        workers = [stack.enter_context(Worker(device, name, value, f"{folder}/{i}" if i else None))
                   for i, value in enumerate(values)]
        for number, call in enumerate(CALLS[device][name]):
            once = [worker.seconds(number, 1) for worker in workers]
            repeats = max(1, round(SECONDS / once[0]))
            runs = [[worker.seconds(number, repeats) for worker in workers] for _ in range(rounds)]
            medians = [statistics.median(run) for run in zip(*runs)]
            for value, median in zip(values[1:], medians[1:]):
                if medians[0] > LOSS * median:
                    yield str(call), value, median, medians[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="some of the numbers; all without")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each value, whose median counts")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.device, options.worker[0], eval(options.worker[1]))
        return 0
    unknown = sorted(set(options.names) - CALLS[options.device].keys())
    if unknown:
        parser.error(f"expected some of {', '.join(CALLS[options.device])}, got {', '.join(unknown)}")
    numbers, lost = vars(tuning(options.device)), 0
    for name in options.names or CALLS[options.device]:
        print(f"{name} = {numbers[name]}", flush=True)
        for call, value, other, own in losses(options.device, name, numbers[name], options.rounds):
            lost += 1
            print(f"    {call}: {1e3 * other:.3f} ms with {value}, {1e3 * own:.3f} ms as it is "
                  f"({own / other:.2f} times as long)", flush=True)
    print(f"stored numbers lose in {lost} calls")
    return int(lost > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(PACKAGE.parent))
    sys.exit(main())
