"""Commands that time and compile kernels."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import tyro

import fastnn
from fastnn import _device
from fastnn.cli.runs import recipe_called
from fastnn.kernels import compilation, peak
from fastnn.testing import KERNELS, Kernel

Part: TypeAlias = Annotated[str, tyro.conf.arg(aliases=["-k"])]
DType: TypeAlias = Literal["float32", "float64", "uint8"]


def bench(kernel: Part = "", repeats: int = 5, device: Literal["cpu", "cuda"] = "cpu") -> None:
    """Time each compiled kernel against its naive version, in float32 on all cores or on the GPU.

    The naive loops are timed once, on a part of the batch, and scaled to the whole batch that the compiled kernel gets.
    Convolution, pooling and linear maps have the shapes of cnn-mnist. On the CPU the machine's peaks are measured
    before, and each kernel's share of them, which `fastnn.explain` tells from then on.

    Parameters
    ----------
    kernel : str
        Only kernels with this in their name, such as conv2d.
    repeats : int
        How often a compiled kernel is timed; the median counts.
    device : {"cpu", "cuda"}
        Where the compiled kernel runs; on "cuda" with its arrays there, from the call to the end of its work.
    """
    if repeats < 1:
        raise ValueError(f"repeats: expected at least 1, got {repeats}")
    if device == "cuda":
        _device.require()
    rows = [(row, benchmark) for row in _kernels(kernel) for benchmark in row.benchmarks]
    where = f"{fastnn.get_num_threads()} threads" if device == "cpu" else _device.compiler
    print(f"float32, {where}. naive: timed once on a part of the batch, and scaled to all of it; {device}: the median "
          f"of {repeats}\n")
    peaks = peak.measure() if device == "cpu" else {}
    if peaks:
        print(f"this machine's peaks: {peaks['float32'] / 1e9:,.0f} GFLOP/s of products in registers, "
              f"{peaks['uint8'] / 1e9:,.0f} Gop/s of those of bytes, {peaks['copy'] / 1e9:.1f} GB/s read and written "
              "by a copy; `fastnn.explain` knows them now\n")
    columns = "{:<28} {:<52} {:>10} {:>12} {:>14} {:>14} {:>8}"
    print(columns.format("kernel", "call", "naive", device, "times as fast", "speed", "of peak"))
    for row, benchmark in rows:
        naive = _seconds(row, benchmark.call(1), "naive") * benchmark.n
        call = benchmark.call(benchmark.n)
        if device == "cuda":
            call = call.map(fastnn.to_device)
        _seconds(row, call, device)                                    # compiles
        fast = sorted(_seconds(row, call, device) for _ in range(repeats))[repeats // 2]
        unit, of_peak = {"flop": ("GFLOP/s", "float32"), "op": ("Gop/s", "uint8"), "byte": ("GB/s", "copy")}[
            benchmark.unit]
        share = ""
        if peaks:
            reached = benchmark.work / fast / peaks[of_peak]
            peak.note(row.name, benchmark.label, reached)
            share = f"{100 * reached:.0f} %"
        print(columns.format(row.name, benchmark.label, f"{naive:.2f} s", f"{1e3 * fast:.3f} ms",
                             f"{naive / fast:,.0f}", f"{benchmark.work / fast / 1e9:.1f} {unit:<7}", share), flush=True)


def _kernels(part: str) -> list[Kernel]:
    """The rows of the table of kernels that have `part` in their name."""
    rows = [row for name, row in KERNELS.items() if part in name]
    if not rows:
        raise ValueError(f"kernel: expected a part of one of {', '.join(KERNELS)}, got {part!r}")
    return rows


def _seconds(row: Kernel, call: Any, target: str) -> float:
    begin = time.perf_counter()
    row(call, target=target)
    if target == "cuda":
        _device.synchronize()
    return time.perf_counter() - begin


def warmup(recipe: tyro.conf.Positional[str | None] = None, /, kernel: Part = "",
           dtypes: tuple[DType, ...] = ("float32", "float64", "uint8")) -> None:
    """Compile kernels ahead, on all cores, so that nobody waits for them later.

    "fastnn warmup cnn" compiles what training by that recipe, measuring the model and a look at one image take;
    "fastnn warmup" all kernels, except for a few forms that only certain shapes need. They are kept on the disk;
    "fastnn doctor" says where.

    Parameters
    ----------
    recipe : str
        A recipe, with the options that it has by itself; MODULE:CLASS or FILE.py:CLASS for one of your own.
    kernel : str
        Only kernels with this in their name, such as conv2d.
    dtypes : tuple of str
        For which arrays; uint8 is for distances and quantised networks.
    """
    if compilation.is_off():
        raise ValueError("NUMBA_DISABLE_JIT is set, so every kernel runs as plain Python; unset it to compile them")
    if why := compilation.cache.why_not():
        raise ValueError(f"compiled kernels cannot be kept: {why}; set FASTNN_CACHE_DIR to a folder of your own")
    begin = time.perf_counter()
    if recipe is not None:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            begun = recipe_called(recipe)(run_dir=Path(folder, "run"))
            functions, compiled = compilation.compile_ahead(begun.run, shown=True, strict=True)
    else:
        rows = [row for row in _kernels(kernel) if any(dtype.name in dtypes for dtype in row.dtypes)]
        if not rows:
            raise ValueError("dtypes: expected some of those that the chosen kernels take, uint8 being for distances "
                             f"and quantised networks, got {', '.join(dtypes) or 'none'}")
        functions, compiled = compilation.compile_ahead(functools.partial(_call_samples, rows, dtypes), shown=True,
                                                        strict=True)
    print(f"{compiled} functions compiled in {time.perf_counter() - begin:.1f} s, {functions - compiled} were there "
          f"before, in {compilation.cache.folder()}")


def _call_samples(rows: list[Kernel], dtypes: tuple[DType, ...]) -> None:
    for row in rows:
        for dtype in (dtype for dtype in row.dtypes if dtype.name in dtypes):
            for options in [{"algorithm": algorithm} for algorithm in row.algorithms] or [{}]:
                for call in row.samples(np.random.default_rng(0), dtype):
                    if row.takes(call, options.get("algorithm", "auto")):
                        row(call, target="cpu", **options)


def cache(action: tyro.conf.Positional[Literal["clear"]]) -> None:
    """Delete compiled kernels from the disk: "fastnn cache clear".

    They are compiled again when they are needed. "fastnn doctor" says where they lie and how large they are; those that
    were not used for three months go by themselves, as does what exceeds a gigabyte.

    Parameters
    ----------
    action : {"clear"}
        What to do.
    """
    folder, (count, size) = compilation.cache.folder(), compilation.cache.clear()
    if folder is None:
        raise ValueError(f"there is no cache to clear: {compilation.cache.why_not()}")
    print(f"deleted {count} files, {size / 1e6:.1f} MB, in {folder}")
