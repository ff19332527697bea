"""What is compared: every row of the tables of speed, with its data, its peers, its least work and its target.

`groups()` is the whole table. A row makes its data when it is measured, on the host or, after `place_on("cuda")`, on
the GPU. `load_peers()` imports the peers; one that is not installed is left out. `place_on` also gives the peers our
threads, and switches PyTorch's gradients off, in the whole process: what measures calls it, an import does not.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import networks
import numpy as np
from networks import NETWORKS

import fastnn
from fastnn import nn
from fastnn.testing import KERNELS, Call
from fastnn.testing.table import as_tuple
from fastnn.testing.table.base import TorchFunction

F32, F64, U8 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.uint8)
NUMPY, COMPILED = "NumPy", "torch.compile"
TORCH, WARM, FUSED = "PyTorch", "PyTorch, warm outputs", "PyTorch, fused optimizer"
ONE_THREAD = "PyTorch, one thread"          # on small arrays often its best: waking a thread that sleeps costs more
SKLEARN, FAISS, CDIST = "scikit-learn", "faiss", "scipy cdist"
TOPK = "torch.cdist and topk"


device = "cpu"
torch: Any = None
aten: Any = None
faiss: Any = None
neighbors: Any = None
pairwise: Any = None
scipy_distance: Any = None


def load_peers() -> list[str]:
    """Import what is installed of the peers, and return the names of those that are missing."""
    global torch, aten, faiss, neighbors, pairwise, scipy_distance
    torch, faiss, neighbors = optional("torch"), optional("faiss"), optional("sklearn.neighbors")
    pairwise, scipy_distance = optional("sklearn.metrics.pairwise"), optional("scipy.spatial.distance")
    if torch is not None:
        aten = torch.ops.aten
    return [name for name, module in ((TORCH, torch), (FAISS, faiss), (SKLEARN, neighbors)) if module is None]


def place_on(name: str) -> None:
    """Let rows make their data on "cpu" or "cuda", and peers run as they are measured."""
    global device
    device = name
    if torch is not None:
        torch.set_grad_enabled(False)       # training switches it on
        torch.set_num_threads(fastnn.get_num_threads())
    if faiss is not None:
        faiss.omp_set_num_threads(fastnn.get_num_threads())
    if name == "cuda" and torch is not None and torch.cuda.is_available():
        torch.set_default_device("cuda")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@dataclass(frozen=True)
class Case:
    """A row with its data: functions that do the same work, and how much that is at least."""

    ours: Callable[[], Any]
    peers: dict[str, Callable[[], Any]] = field(default_factory=dict)
    flops: float = 0.0
    bytes: float = 0.0
    peak: str | None = "multiply"           # the register tile that bounds the arithmetic, if it is measured
    calls: int = 1                          # how many results, one after the other, must agree with a peer's
    tolerance: float = 1e-4                 # of the largest value


@dataclass(frozen=True)
class Row:
    label: str
    make: Callable[[], Case]
    small: bool = False                     # PyTorch is timed on one thread too
    apart: bool = False                     # each candidate has a process of its own; `make` can be pickled


@dataclass(frozen=True)
class Group:
    """Rows that one line of targets is for: {peer: (least geometric mean, least of any row)}, in times as fast."""

    title: str
    rows: list[Row]
    targets: dict[str, tuple[float, float]] = field(default_factory=dict)
    most: float | None = None               # seconds that no row may take
    of_floor: float | None = None           # the least share of the floor


def groups(quick: bool = False) -> list[Group]:
    """The table; with `quick`, the same kernels on little data."""
    sizes = {"8 MB": (32, 64, 32, 32), "33 MB": (128, 64, 32, 32), "400 MB": (128, 64, 112, 112)}
    if quick:
        sizes = {"1 MB": (4, 64, 32, 32)}
    if device == "cuda":
        return _cuda_groups(quick, sizes)
    small = list(_memory_bound({"100 kB": (2, 64, 14, 14)}, small=True))
    pooling_or_training = [row for row in small if "pool" in row.label or "batch_norm training" in row.label]
    tiny = [Row(name, functools.partial(_tiny_case, name), small=True) for name in _tiny()]
    return [
        *_convolutions("conv2d 3x3, stride 1, padding 1", quick, CONV3, (2.5, 1.5), (2.0, 1.3)),
        *_convolutions("conv2d, other", quick, CONV_OTHER, (1.5, 1.0), (1.5, 1.0)),
        Group("batch norm, pooling, activations", list(_memory_bound(sizes)), {TORCH: (5.0, 2.0)}),
        Group("layer norm, group norm, embedding", list(_by_rows({"1 MB": 1 << 18} if quick else {"33 MB": 1 << 23})),
              {TORCH: (1.0, 1.0)}, of_floor=0.8),
        Group("pooling and training batch norm, small", pooling_or_training, {TORCH: (2.0, 2.0)}),
        Group("activations and batch norm in inference, small",
              [row for row in small if row not in pooling_or_training], {TORCH: (1.0, 1.0)}),
        Group("attention", list(_attentions(quick)), {TORCH: (1.2, 1.2)}),
        Group("attention of one query, bmm", [*_attention_of_one(quick), *_batches(quick)], {TORCH: (1.0, 1.0)}),
        *[Group(f"linear, {dtype.name}", list(_products(quick, dtype)), {NUMPY: (1.0, 0.9)}) for dtype in (F32, F64)],
        Group("the course's affine layers", list(_affine_layers(quick)), {NUMPY: (1.0, 0.9)}),
        Group("knn, k = 10", [Row(f"{m} queries, {n} points, D = {d}", functools.partial(_knn, m, n, d, F32))
                              for m, n, d in _less(KNN, quick)], {SKLEARN: (2.5, 1.8), FAISS: (1.5, 1.0)}),
        Group("knn of bytes, k = 10", [Row(f"{m} queries, {n} points, D = {d}", functools.partial(_knn, m, n, d, U8))
                                       for m, n, d in _less(KNN[:2], quick)], {FAISS: (3.0, 2.5)}),
        Group("pairwise_l2", [Row(f"{n} x {n}, D = {d}", functools.partial(_pairwise, n, d))
                              for n, d in _less(PAIRWISE, quick)], {SKLEARN: (2.5, 2.5), CDIST: (10.0, 10.0)}),
        Group("pairwise_l2, many dimensions", [Row(f"{n} x {n}, D = {d}", functools.partial(_pairwise, n, d))
                                               for n, d in _less([(1024, 3072)], quick)],
              {SKLEARN: (1.5, 1.5), CDIST: (10.0, 10.0)}),
        *[Group(f"training step, {name}", [Row(f"batch {batch}", functools.partial(_training, name, batch))],
                {TORCH: (target, target)})
          for name, batch, target in [("cnn-mnist", 8 if quick else 64, 1.5), ("resnet18", 2 if quick else 32, 1.8),
                                      ("cifar10-speedrun", 2 if quick else 1000, 1.0)]],
        *[Group(f"training step, {name}", [Row("batch 64", functools.partial(_small_training, name, 64), apart=True)],
                {TORCH: (step, step), COMPILED: (compiled, compiled)})
          for name, step, compiled in [("784-128-128-128-10", 1.4, 1.4), ("cnn", 1.7, 1.25)]],
        Group("1x1x8x8: conv2d, batch_norm", [row for row in tiny if row.label in NOT_SLOWER],
              {ONE_THREAD: (1.0, 1.0)}),
        Group("1x1x8x8: every other kernel", [row for row in tiny if row.label not in NOT_SLOWER], most=6e-6),
    ]


def _cuda_groups(quick: bool, sizes: dict[str, tuple[int, ...]]) -> list[Group]:
    """The same kernels with a GPU's targets: the share of cuDNN's speed, and of the bandwidth."""
    return [
        *_convolutions("conv2d 3x3, stride 1, padding 1", quick, CONV3, (0.6, 0.6), (0.6, 0.6)),
        *_convolutions("conv2d, other", quick, CONV_OTHER, (0.6, 0.6), (0.6, 0.6)),
        Group("batch norm, pooling, activations", list(_memory_bound(sizes)), of_floor=0.8),
        Group("attention", list(_attentions(quick))),
        Group("attention of one query, bmm", [*_attention_of_one(quick), *_batches(quick)]),
        Group("layer norm, group norm, embedding", list(_by_rows({"1 MB": 1 << 18} if quick else {"33 MB": 1 << 23})),
              of_floor=0.8),
        Group("knn, k = 10", [Row(f"{m} queries, {n} points, D = {d}", functools.partial(_knn, m, n, d, F32))
                              for m, n, d in _less(KNN, quick)], {TOPK: (1.0, 1.0)}),
        Group("knn of bytes, k = 10", [Row(f"{m} queries, {n} points, D = {d}", functools.partial(_knn, m, n, d, U8))
                                       for m, n, d in _less(KNN[:2], quick)], {TOPK: (1.0, 1.0)}),
        Group("pairwise_l2", [Row(f"{n} x {n}, D = {d}", functools.partial(_pairwise, n, d))
                              for n, d in _less([*PAIRWISE, (1024, 3072)], quick)]),
        *[Group(f"training step, {name}", [Row(f"batch {batch}", functools.partial(_training, name, batch))])
          for name, batch in [("cnn-mnist", 8 if quick else 64), ("resnet18", 2 if quick else 128)]],
    ]


def _less(shapes: list[Any], quick: bool) -> list[Any]:
    """With `quick`, shapes with an eighth of the images, queries and points."""
    return [tuple(max(1, size // 8) if i < len(shape) - 1 else size for i, size in enumerate(shape))
            for shape in shapes] if quick else shapes


@functools.lru_cache(maxsize=6)
def _normal(*shape: int, seed: int = 0) -> Any:
    return _placed(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def _placed(array: Any) -> Any:
    return fastnn.to_device(array) if device == "cuda" else array


def _tensors(*arrays: Any) -> list[Any]:
    """Return the arrays as tensors over the same memory."""
    as_tensor = torch.from_dlpack if device == "cuda" and torch.cuda.is_available() else (
        lambda array: torch.from_numpy(array.view(np.ndarray)))
    return [None if array is None else as_tensor(array) for array in arrays]


def _ours(name: str, call: Call) -> Callable[[], Any]:
    return functools.partial(getattr(fastnn, name), *call.args, **call.kwargs)


def _theirs(function: Callable[..., Any], call: Call) -> Callable[[], Any]:
    """The same by PyTorch's function, on the host."""
    call = call.map(lambda array: _tensors(array)[0])
    return functools.partial(function, *call.args, **call.kwargs)


def _gradient(name: str, call: Call, target: str | None = None) -> Call:
    """Return the call of a kernel's gradient, as the table makes it of one of the kernel."""
    result = KERNELS[name](call, target=target)
    return KERNELS[name].backward(call, result, _normal(*np.shape(as_tuple(result)[0]), seed=1))


# --- convolution -------------------------------------------------------------------------------------------------

# (N, C, H = W, F, kernel, stride, padding, groups)
CONV3 = [(n, c, size, f, 3, 1, 1, 1) for n, c, size, f in [
    (128, 64, 32, 64), (128, 128, 16, 128), (128, 256, 8, 256), (32, 96, 32, 96), (32, 512, 4, 512), (8, 48, 40, 80),
    (1, 64, 56, 64), (1, 256, 14, 256)]]
CONV_OTHER = [(128, 3, 32, 32, 3, 1, 1, 1), (64, 1, 28, 32, 5, 1, 2, 1), (64, 32, 14, 64, 5, 1, 2, 1),
              (128, 64, 32, 128, 3, 2, 1, 1), (128, 64, 32, 64, 1, 1, 0, 1), (32, 3, 224, 64, 7, 2, 3, 1),
              (32, 128, 28, 128, 3, 1, 1, 128), (16, 96, 16, 192, 4, 4, 0, 1)]


def _convolutions(title: str, quick: bool, shapes: list[tuple[int, ...]],
                  *targets: tuple[float, float]) -> Iterator[Group]:
    for what, backward, target in zip(("forward", "all gradients"), (False, True), targets):
        rows = []
        for n, *shape in shapes:
            n = max(1, n // 16) if quick else n
            c, size, f, kernel, stride, _, channel_groups = shape
            options = "".join(f", {name} {value}" for name, value, usual in
                              [("stride", stride, 1), ("groups", channel_groups, 1)] if value != usual)
            rows.append(Row(f"{n} x {c} x {size} x {size}, {f} filters {kernel} x {kernel}{options}",
                            functools.partial(_conv, backward, n, *shape)))
        yield Group(f"{title}, {what}", rows, {TORCH: target})


def _conv(backward: bool, n: int, c: int, size: int, f: int, k: int, stride: int, padding: int, groups: int) -> Case:
    x, bias = _normal(n, c, size, size), _normal(f)
    weight = _normal(f, c // groups, k, k) / np.float32(k * np.sqrt(c // groups))
    options = {"stride": stride, "padding": padding, "groups": groups}
    out = (size + 2 * padding - k) // stride + 1
    flops, moved = 2.0 * n * f * out * out * c // groups * k * k, 4.0 * (x.size + weight.size + n * f * out * out)
    if not backward:
        peers = {}
        if torch is not None:
            peers[TORCH] = functools.partial(torch.nn.functional.conv2d, *_tensors(x, weight, bias), **options)
        return Case(lambda: fastnn.conv2d(x, weight, bias, **options), peers, flops, moved)
    call, peers = _gradient("conv2d", Call((x, weight), options)), {}
    if torch is not None:
        peers[TORCH] = functools.partial(
            aten.convolution_backward.default, *_tensors(*call.args), [f], [stride] * 2, [padding] * 2, [1, 1],
            False, [0, 0], groups, [True] * 3)
    return Case(_ours("conv2d_backward", call), peers, 2 * flops, 2 * moved)


# --- attention and products in batches ---------------------------------------------------------------------------

# (batch, heads, length, features): a long text, and a language model's batch.
ATTENTION = [(1, 8, 4096, 64), (64, 2, 128, 32)]


def _attentions(quick: bool) -> Iterator[Row]:
    for batch, heads, length, features in ATTENTION:
        length = length // 8 if quick else length
        for causal in (False, True):
            for backward in (False, True):
                yield Row(f"{batch} x {heads} x {length} x {features}{', causal' * causal}{', backward' * backward}",
                          functools.partial(_attention, batch, heads, length, length, features, causal, backward))


def _attention_of_one(quick: bool) -> Iterator[Row]:
    for keys in (128,) if quick else (128, 1024, 16_384):
        yield Row(f"attention, 1 query, 8 heads, {keys} keys of 64", functools.partial(
            _attention, 1, 8, 1, keys, 64, False, False))


def _attention(batch: int, heads: int, queries: int, keys: int, features: int, causal: bool, backward: bool) -> Case:
    arrays = [_normal(batch, heads, length, features, seed=i) for i, length in enumerate((queries, keys, keys))]
    pairs = batch * heads * (queries * (queries + 1) // 2 if causal else queries * keys)
    name, options, peers = "scaled_dot_product_attention", {"is_causal": causal}, {}
    moved = 4.0 * batch * heads * features * 2 * (queries + keys)
    if not backward:
        if torch is not None:
            tensors = _tensors(*arrays)
            peers[TORCH] = lambda: torch.nn.functional.scaled_dot_product_attention(*tensors, **options)
        return Case(_ours(name, Call(tuple(arrays), options)), peers, 4.0 * pairs * features, moved)
    gradient = _gradient(name, Call(tuple(arrays), {"return_lse": True, **options}))
    if torch is not None and device == "cpu":
        grad, *others = _tensors(*gradient.args)
        op = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
        peers[TORCH] = lambda: op(grad, *others, 0.0, causal)
    return Case(_ours(f"{name}_backward", gradient), peers, 10.0 * pairs * features, 2 * moved)


def _batches(quick: bool) -> Iterator[Row]:
    for sizes in _less([(64, 128, 64, 128), (8, 512, 512, 512), (512, 32, 32, 32)], quick):
        for backward in (False, True):
            yield Row(f"bmm, {' x '.join(map(str, sizes))}{', backward' * backward}",
                      functools.partial(_bmm, *sizes, backward))


def _bmm(batch: int, n: int, m: int, p: int, backward: bool) -> Case:
    a, b, peers = _normal(batch, n, m), _normal(batch, m, p, seed=1), {}
    flops, moved = 2.0 * batch * n * m * p, 4.0 * batch * (n * m + m * p + n * p)
    if not backward:
        if torch is not None:
            tensors = _tensors(a, b)
            peers[TORCH] = lambda: torch.bmm(*tensors)
        return Case(_ours("bmm", Call((a, b))), peers, flops, moved)
    gradient = _gradient("bmm", Call((a, b)))
    if torch is not None:
        grad, ta, tb = _tensors(*gradient.args)
        peers[TORCH] = lambda: (torch.bmm(grad, tb.mT), torch.bmm(ta.mT, grad))
    return Case(_ours("bmm_backward", gradient), peers, 2 * flops, 2 * moved)


# --- products of two matrices ------------------------------------------------------------------------------------

PRODUCTS = [(64, 784, 128), (512, 3072, 512), (4096, 4096, 4096)]                      # samples, inputs, outputs
AFFINE = [(n, inputs, outputs) for n in (1, 50, 100, 500)
          for inputs, outputs in [(3072, 100), (3072, 50), (100, 100), (500, 10)]]


def _products(quick: bool, dtype: np.dtype) -> Iterator[Row]:
    for sizes in _less(PRODUCTS, quick):
        for what in ("forward", "by x", "by weight"):
            yield Row(f"{' x '.join(map(str, sizes))}, {what}", functools.partial(_product, *sizes, what, dtype),
                      apart=True)


def _product(n: int, inputs: int, outputs: int, what: str, dtype: np.dtype) -> Case:
    x, w, g = (_normal(*shape, seed=seed).astype(dtype, copy=False)
               for seed, shape in enumerate([(n, inputs), (outputs, inputs), (n, outputs)]))
    ours, theirs = {
        "forward": (lambda: fastnn.linear(x, w), lambda: x @ w.T),
        "by x": (lambda: fastnn.linear_backward(g, x, w, needs=(True, False, False))[0], lambda: g @ w),
        "by weight": (lambda: fastnn.linear_backward(g, x, w, needs=(False, True, False))[1], lambda: g.T @ x),
    }[what]
    return Case(ours, {NUMPY: theirs}, 2.0 * n * inputs * outputs,
                dtype.itemsize * float(x.size + w.size + g.size), "multiply" if dtype == F32 else None)


def _affine_layers(quick: bool) -> Iterator[Row]:
    for sizes in AFFINE[:2] if quick else AFFINE:
        yield Row(" x ".join(map(str, sizes)), functools.partial(_affine, *sizes), apart=True)


def _affine(n: int, inputs: int, outputs: int) -> Case:
    """The layer and its gradients as the course's students write them, in float64, on (inputs, outputs) weights."""
    from fastnn import cs231n

    rng = np.random.default_rng(0)
    x, w, b, g = (rng.standard_normal(shape) for shape in ((n, inputs), (inputs, outputs), outputs, (n, outputs)))

    def ours() -> Any:
        y, cache = cs231n.affine_forward(x, w, b)
        return y, *cs231n.affine_backward(g, cache)

    def theirs() -> Any:
        y = x @ w + b
        return y, g @ w.T, x.T @ g, g.sum(axis=0)

    return Case(ours, {NUMPY: theirs}, 6.0 * n * inputs * outputs, 8.0 * (2 * x.size + 2 * w.size + 2 * g.size), None)


# --- memory-bound kernels ----------------------------------------------------------------------------------------


def _memory_bound(sizes: dict[str, tuple[int, ...]], small: bool = False) -> Iterator[Row]:
    for size, shape in sizes.items():
        for name in ("batch_norm training", "batch_norm inference", *POOLS, *ACTIVATIONS):
            make = _batch_norm if name.startswith("batch_norm") else _pool if name in POOLS else _activation
            yield Row(f"{name}, {size}", functools.partial(make, name, shape, False), small)
            if name != "batch_norm inference":
                yield Row(f"{name}, backward, {size}", functools.partial(make, name, shape, True), small)


def _batch_norm(name: str, shape: tuple[int, ...], backward: bool) -> Case:
    x, channels, peers = _normal(*shape), shape[1], {}
    mean, var = _placed(np.zeros(channels, F32)), _placed(np.ones(channels, F32))
    weight, bias = _normal(channels), _normal(channels)
    training = name.endswith("training")
    if not backward:
        if torch is not None:
            arguments = (*_tensors(x, weight, bias, mean.copy(), var.copy()), training, 0.1, 1e-5)
            peers = {TORCH: lambda: torch.native_batch_norm(*arguments)[0],
                     WARM: _warm(aten.native_batch_norm.out, torch.native_batch_norm(*arguments), *arguments)}
        return Case(lambda: fastnn.batch_norm(x, mean, var, weight, bias, training=training), peers,
                    bytes=4.0 * x.size * (3 if training else 2))
    grad = _normal(*shape, seed=1)
    _, save_mean, save_invstd = fastnn.batch_norm(x, None, None, weight, bias, training=True, return_stats=True)
    if torch is not None:
        arguments = (*_tensors(grad, x, weight, mean, var, save_mean.astype(F32), save_invstd.astype(F32)), True, 1e-5,
                     [True] * 3)
        peers = {TORCH: lambda: aten.native_batch_norm_backward.default(*arguments)}
    return Case(lambda: fastnn.batch_norm_backward(grad, x, weight, save_mean, save_invstd), peers,
                bytes=4.0 * x.size * 5)


POOLS: dict[str, tuple[str, tuple[int, ...]]] = {
    "max_pool2d 2x2": ("max", (2, 2, 0)), "max_pool2d 3x3, stride 2": ("max", (3, 2, 1)),
    "avg_pool2d 2x2": ("avg", (2, 2, 0)), "adaptive_avg_pool2d to 1x1": ("adaptive", ()),
}


def _pool(name: str, shape: tuple[int, ...], backward: bool) -> Case:
    (kind, window), x, peers = POOLS[name], _normal(*shape), {}
    kernel, options = name.split()[0], dict(zip(("stride", "padding"), window[1:]))
    call = Call((x, window[0] if window else 1), {**options, "return_indices": True} if kind == "max" else options)
    gradient = _gradient(kernel, call)
    grad = gradient.args[0]
    moved = 4.0 * (x.size + {"max": 3, "avg": 1, "adaptive": 0}[kind] * grad.size)       # indices are int64
    if torch is not None:
        functions, (tx, tg) = torch._C._nn, _tensors(x, grad)
        at = [[size] * 2 for size in window]
        if kind == "max":
            forward = functools.partial(functions.max_pool2d_with_indices, tx, *at)
            out, arguments = aten.max_pool2d_with_indices.out, (tx, *at)
            op, back = aten.max_pool2d_with_indices_backward, (tg, tx, *at, [1, 1], False, forward()[1])
        elif kind == "avg":
            forward, out, arguments = functools.partial(functions.avg_pool2d, tx, *at), aten.avg_pool2d.out, (tx, *at)
            op, back = aten.avg_pool2d_backward, (tg, tx, *at, False, True, None)
        else:
            forward = functools.partial(functions.adaptive_avg_pool2d, tx, 1)
            out, arguments = aten.adaptive_avg_pool2d.out, (tx, [1, 1])
            op, back = aten._adaptive_avg_pool2d_backward, (tg, tx)
        peers = ({TORCH: functools.partial(op.default, *back)} if backward else
                 {TORCH: forward, WARM: _warm(out, forward(), *arguments)})
        if backward and kind != "adaptive":
            peers[WARM] = _warm(op.grad_input, op.default(*back), *back)
    return Case(_ours(f"{kernel}_backward", gradient) if backward else _ours(kernel, call), peers, bytes=moved)


# PyTorch's operation with given outputs, its arguments after x, its backward operation, and the arguments of that after
# those of ours.
ACTIVATIONS: dict[str, tuple[str, tuple[Any, ...], str, tuple[Any, ...]]] = {
    "relu": ("clamp_min", (0,), "threshold_backward", (0,)),
    "leaky_relu": ("leaky_relu", (0.01,), "leaky_relu_backward", (0.01, False)),
    "sigmoid": ("sigmoid", (), "sigmoid_backward", ()),
    "tanh": ("tanh", (), "tanh_backward", ()),
    "silu": ("silu", (), "silu_backward", ()),
    "softplus": ("softplus", (1, 20), "softplus_backward", (1, 20)),
    "gelu": ("gelu", (), "gelu_backward", ()),
    "gelu by tanh": ("gelu", (), "gelu_backward", ()),
    "softmax": ("_softmax", (-1, False), "_softmax_backward_data", (-1, "float32")),
    "log_softmax": ("_log_softmax", (-1, False), "_log_softmax_backward_data", (-1, "float32")),
}


def _activation(name: str, shape: tuple[int, ...], backward: bool) -> Case:
    rows = (shape[0] * shape[1], -1) if "softmax" in name else shape       # softmax: along whole images
    x, kernel = _normal(*shape).reshape(rows), name.split()[0]
    options = {"approximate": "tanh"} if name == "gelu by tanh" else {}
    forward_op, after_x, backward_op, after_ours = ACTIVATIONS[name]
    call, peers = Call((x,), options), {}
    if not backward:
        if torch is not None:
            function = getattr(torch, kernel, None) or getattr(torch._C._nn, kernel)
            tx, dim = torch.from_numpy(x), after_x[:1] if "softmax" in name else ()
            peers = {TORCH: lambda: function(tx, *dim, **options),
                     WARM: _warm(getattr(aten, forward_op).out, function(tx, *dim, **options), tx, *after_x, **options)}
        return Case(_ours(kernel, call), peers, bytes=8.0 * x.size)
    gradient = _gradient(kernel, call)
    if torch is not None:
        op = getattr(aten, backward_op)
        args = (*_tensors(*gradient.args), *(torch.float32 if a == "float32" else a for a in after_ours))
        warm = op.grad_input if "grad_input" in op.overloads() else op.out
        peers = {TORCH: lambda: op.default(*args, **options),
                 WARM: _warm(warm, op.default(*args, **options), *args, **options)}
    return Case(_ours(f"{kernel}_backward", gradient), peers, bytes=12.0 * x.size)


def _by_rows(sizes: dict[str, int]) -> Iterator[Row]:
    for size, elements in sizes.items():
        for backward in (False, True):
            end = f"{', backward' * backward}, {size}"
            for columns in (8, 64, 257, 512, 4096):
                yield Row(f"layer_norm of {columns}{end}", functools.partial(
                    _row_norm, "layer_norm", (-(-elements // columns), columns), columns, backward))
            yield Row(f"group_norm, 8 groups{end}", functools.partial(
                _row_norm, "group_norm", (elements >> 16, 64, 32, 32), 8, backward))
            yield Row(f"embedding of 8192 x 256{end}", functools.partial(_embedding, elements // 256, backward))


def _row_norm(name: str, shape: tuple[int, ...], option: int, backward: bool) -> Case:
    x, weight, bias, peers = _normal(*shape), _normal(shape[1]), _normal(shape[1], seed=1), {}
    sizes = [shape[0], shape[1], x.size // (shape[0] * shape[1]), option]       # as torch's group norm wants them
    if not backward:
        if torch is not None:
            tx, *parameters = _tensors(x, weight, bias)
            peers[TORCH] = ((lambda: torch.native_layer_norm(tx, [option], *parameters, 1e-5)[0])
                            if name == "layer_norm" else
                            (lambda: torch.native_group_norm(tx, *parameters, *sizes, 1e-5)[0]))
        return Case(_ours(name, Call((x, option, weight, bias))), peers, bytes=8.0 * x.size)
    gradient = _gradient(name, Call((x, option, weight, bias), {"return_stats": True}))
    grad, *_, mean, invstd = gradient.args
    if torch is not None:
        of_row = (shape[0], 1) if name == "layer_norm" else mean.shape
        stats = (array.reshape(of_row).astype(F32) for array in (mean, invstd))
        tg, tx, tw, tb, tm, ts = _tensors(grad, x, weight, bias, *stats)
        peers[TORCH] = ((lambda: aten.native_layer_norm_backward.default(tg, tx, [option], tm, ts, tw, tb, [True] * 3))
                        if name == "layer_norm" else
                        (lambda: aten.native_group_norm_backward.default(tg, tx, tm, ts, tw, *sizes, [True] * 3)))
    return Case(_ours(f"{name}_backward", gradient), peers, bytes=12.0 * x.size)


def _embedding(count: int, backward: bool) -> Case:
    rows, columns = 8192, 256
    input, weight, peers = _placed(np.random.default_rng(0).integers(0, rows, count)), _normal(rows, columns), {}
    call = Call((input, weight))
    if not backward:
        if torch is not None:
            tensors = _tensors(input, weight)
            peers[TORCH] = lambda: torch.nn.functional.embedding(*tensors)
        return Case(_ours("embedding", call), peers, bytes=8.0 * count * columns)
    gradient = _gradient("embedding", call)
    if torch is not None:
        arguments = (*_tensors(gradient.args[0], input), rows, -1, False)
        peers[TORCH] = lambda: aten.embedding_dense_backward.default(*arguments)
    return Case(_ours("embedding_backward", gradient), peers, bytes=4.0 * (count + rows) * columns)


def _warm(overload: Any, results: Any, *args: Any, **options: Any) -> Callable[[], Any]:
    """PyTorch's form that writes into given tensors: those of an earlier result."""
    names = [argument.name for argument in overload._schema.arguments if argument.is_out]
    outputs = dict(zip(names, results if isinstance(results, tuple | list) else (results,)))
    return lambda: overload(*args, **options, **outputs)


# --- distances ---------------------------------------------------------------------------------------------------

KNN = [(500, 5000, 3072), (1000, 10_000, 784), (4096, 4096, 64), (4096, 4096, 16), (4096, 4096, 3), (1, 100_000, 128)]
PAIRWISE = [(4096, 3), (4096, 16), (4096, 64), (4096, 128), (1024, 784)]


def _points(n: int, d: int, dtype: np.dtype, seed: int) -> Any:
    if dtype == U8:
        return _placed(np.random.default_rng(seed).integers(0, 256, (n, d), np.uint8))
    return _normal(n, d, seed=seed)


def _knn(m: int, n: int, d: int, dtype: np.dtype) -> Case:
    queries, points, k, peers = _points(m, d, dtype, 0), _points(n, d, dtype, 1), min(10, n), {}
    floats = queries.astype(F32, copy=False), points.astype(F32, copy=False)
    if device == "cuda":
        if torch is not None:
            tensors = _tensors(*floats)
            peers[TOPK] = lambda: torch.topk(torch.cdist(*tensors), k, largest=False)[0]
    elif neighbors is not None and dtype == F32:
        search = neighbors.NearestNeighbors(n_neighbors=k, algorithm="brute").fit(floats[1])
        peers[SKLEARN] = lambda: search.kneighbors(floats[0])[0]
    if faiss is not None and device == "cpu":
        index = faiss.IndexFlatL2(d)
        index.add(floats[1])
        peers[FAISS] = lambda: np.sqrt(index.search(floats[0], k)[0])      # it returns squares, by the thousand
    return Case(lambda: fastnn.knn(queries, points, k)[0], peers, 3.0 * m * n * d,
                queries.itemsize * d * float(m + n), "distance" if dtype == F32 else None, tolerance=1e-3)


def _pairwise(n: int, d: int) -> Case:
    x, y, peers = _normal(n, d, seed=0), _normal(n, d, seed=1), {}
    if pairwise is not None and device == "cpu":
        peers[SKLEARN] = lambda: pairwise.euclidean_distances(x, y)
    if scipy_distance is not None and device == "cpu":
        peers[CDIST] = lambda: scipy_distance.cdist(x, y)
    if torch is not None:
        tensors = _tensors(x, y)
        peers[TORCH] = lambda: torch.cdist(*tensors)
    return Case(lambda: fastnn.pairwise_l2(x, y), peers, 3.0 * n * n * d, 4.0 * (2 * n * d + n * n), "distance",
                tolerance=1e-3)


# --- whole networks ----------------------------------------------------------------------------------------------


def batch_of(name: str, n: int) -> tuple[Any, Any]:
    """Return images and labels for a network."""
    return _normal(n, *NETWORKS[name].image), _placed(np.random.default_rng(0).integers(0, 10, n))


def our_model(name: str) -> nn.Module:
    model = NETWORKS[name].ours()
    return model.to("cuda") if device == "cuda" else model


def our_step(name: str) -> Callable[[Any, Any], Any]:
    """Return a training step of fastnn, `(images, labels) -> loss`."""
    return networks.our_step(NETWORKS[name], our_model(name))


def torch_step(name: str, fused: bool = False, compiled: bool = False) -> Callable[[Any, Any], Any]:
    """Return the same step of PyTorch, from the same weights."""
    network = NETWORKS[name]
    return networks.torch_step(torch, network, networks.torch_model(torch, network, network.ours()), fused, compiled)


def _training(name: str, n: int) -> Case:
    batch, peers = batch_of(name, n), {}
    step = our_step(name)
    if torch is not None:
        tensors, plain, fused = _tensors(*batch), torch_step(name), torch_step(name, fused=True)
        peers = {TORCH: lambda: plain(*tensors), FUSED: lambda: fused(*tensors)}
    return Case(lambda: step(*batch), peers, 6 * n * NETWORKS[name].products, calls=3, tolerance=1e-2)


def _small_training(name: str, n: int) -> Case:
    """A step of a network so small that what is around its kernels counts."""
    batch, peers = batch_of(name, n), {}
    step = our_step(name)
    if torch is not None:
        tensors, plain, compiled = _tensors(*batch), torch_step(name), torch_step(name, compiled=True)
        peers = {TORCH: lambda: plain(*tensors), COMPILED: lambda: compiled(*tensors)}
    return Case(lambda: step(*batch), peers, 6 * n * NETWORKS[name].products, calls=3, tolerance=1e-2)


# --- one small image ---------------------------------------------------------------------------------------------

NOT_SLOWER = ("conv2d", "batch_norm training", "batch_norm inference")


def _tiny_case(name: str) -> Case:
    return _tiny()[name]


def _tiny() -> dict[str, Case]:
    """Every public kernel on an image of 1 x 1 x 8 x 8, and torch's function where it has one of the kind."""
    x, grad, w, b = _normal(1, 1, 8, 8), _normal(1, 1, 8, 8, seed=1), _normal(1, 1, 3, 3), _normal(1)
    mean, var, one = np.zeros(1, F32), np.ones(1, F32), np.ones(1, F32)
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    rows, labels, states = _normal(8, 8), np.arange(8), [np.ones(64, F32) for _ in range(4)]
    forward = {
        "conv2d": Call((x, w, b), {"padding": 1}),
        "conv_transpose2d": Call((x, w, b), {"padding": 1}),
        "max_pool2d": Call((x, 2)),
        "avg_pool2d": Call((x, 2)),
        **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), Call((x, 4))),
        "interpolate": Call((x, 4)),
        "batch_norm training": Call((x, mean, var, one, b), {"training": True}),
        "batch_norm inference": Call((x, mean.copy(), var.copy(), one, b)),
        "batch_norm_backward": Call((grad, x, one, np.zeros(1), np.ones(1))),
        "layer_norm": Call((rows, 8, rows[0].copy(), rows[1].copy()), {"return_stats": True}),
        "group_norm": Call((x, 1, one, b), {"return_stats": True}),
        "embedding": Call((labels, rows)),
        "pairwise_l2": Call((rows, rows)),
        "knn": Call((rows, rows, 3)),
        "linear": Call((rows, rows, rows[0].copy())),
        "bmm": Call((rows[None], rows[None])),
        "scaled_dot_product_attention": Call((rows[None], rows[None], rows[None]), {"return_lse": True}),
        "quantize_per_tensor": Call((x, 0.02, 100)),
        "lookup_int8": Call((pixels, np.arange(256).astype(np.uint8))),
        "conv2d_int8": Call((pixels, np.ones((1, 1, 3, 3), np.int8), one), {"padding": 1}),
        "linear_int8": Call((pixels[0, :, :, 0].copy(), np.ones((8, 8), np.int8), np.ones(8, F32))),
        "max_pool2d_int8": Call((pixels, 2)),
        **dict.fromkeys(("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu", "softplus", "softmax",
                         "log_softmax"), Call((x,))),
        **dict.fromkeys(("add", "add_relu"), Call((x, grad))),
        "dropout": Call((x, np.ones(x.shape, np.uint8), 0.5)),
        **dict.fromkeys(("cross_entropy", "hinge_loss"), Call((rows, labels))),
        **dict.fromkeys(("mse_loss", "binary_cross_entropy_with_logits"), Call((x, grad))),
        "sgd_update": Call(tuple(states[:3]), {"lr": 1e-3, "momentum": 0.9}),
        "rmsprop_update": Call(tuple(states[:3]), {"lr": 1e-3}),
        "adam_update": Call(tuple(states), {"lr": 1e-3, "step": 1}),
    }
    calls = {}
    for name, call in forward.items():
        calls[name] = call
        if name in KERNELS and KERNELS[name].backward:
            calls[f"{name}_backward"] = _gradient(name, call, "naive")          # which compiles nothing
    assert {name.split()[0] for name in calls} == set(KERNELS), "a public kernel is missing here, or one too many"
    peers: dict[str, Callable[..., Any]] = {}
    if torch is not None:
        f = torch.nn.functional
        peers = {
            **{name: row.torch.found() for name, row in KERNELS.items() if isinstance(row.torch, TorchFunction)},
            "conv2d": f.conv2d,
            "conv2d_backward": lambda *tensors, padding: aten.convolution_backward.default(
                *tensors, [1], [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1, [True] * 3),
            "batch_norm training": f.batch_norm,
            "batch_norm inference": f.batch_norm,
            "pairwise_l2": torch.cdist,
            **{name: getattr(torch, name) for name in ("sigmoid", "tanh", "add")},
            **{name: functools.partial(getattr(torch, name), dim=-1) for name in ("softmax", "log_softmax")},
            "relu_backward": lambda *tensors: aten.threshold_backward.default(*tensors, 0),
            **{name: getattr(aten, name).default for name in ("sigmoid_backward", "tanh_backward", "gelu_backward")},
        }
    return {name: Case(_ours(name.split()[0], call), {TORCH: _theirs(peers[name], call)} if name in peers else {})
            for name, call in calls.items()}
