"""Commands that time and compile kernels."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import tyro

import fastnn
from fastnn import _device
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


def warmup(kernel: Part = "", dtypes: tuple[DType, ...] = ("float32", "float64", "uint8")) -> None:
    """Compile kernels ahead, so that nobody waits for them later.

    They are kept on the disk; "fastnn doctor" says where. A line says how many functions a kernel needed that those
    above it had not, one for each combination of types: compiled, or loaded from the disk, and the seconds of that.

    Parameters
    ----------
    kernel : str
        Only kernels with this in their name, such as conv2d.
    dtypes : tuple of str
        For which arrays; uint8 is for distances and quantised networks.
    """
    if compilation.is_off():
        raise ValueError("NUMBA_DISABLE_JIT is set, so every kernel runs as plain Python; unset it to compile them")
    rows = [row for row in _kernels(kernel) if any(dtype.name in dtypes for dtype in row.dtypes)]
    if not rows:
        raise ValueError("dtypes: expected some of those that the chosen kernels take, uint8 being for distances "
                         f"and quantised networks, got {', '.join(dtypes) or 'none'}")
    columns = "{:<28} {:<8} {:>9} {:>9} {:>9}"
    print(columns.format("kernel", "dtype", "compiled", "loaded", "seconds"))
    begin = time.perf_counter()
    compilation.compile_parallel_loop()
    seen: set[int] = set()
    counts = np.zeros(2, int)
    for row in rows:
        for dtype in (dtype for dtype in row.dtypes if dtype.name in dtypes):
            before = compilation.seconds()
            for options in [{"algorithm": algorithm} for algorithm in row.algorithms] or [{}]:
                for call in row.samples(np.random.default_rng(0), dtype):
                    if row.takes(call, options.get("algorithm", "auto")):
                        row(call, target="cpu", **options)
            new = [compiled for compiled in compilation.compiled_kernels() if id(compiled) not in seen]
            for compiled in new:
                _ = compiled.call_block         # sample calls are small and run on one thread; larger ones need this
            seen.update(map(id, new))
            loaded = sum(compiled.from_disk for compiled in new)
            counts += len(new) - loaded, loaded
            seconds = compilation.seconds() - before
            print(columns.format(row.name, dtype.name, len(new) - loaded, loaded, f"{seconds:.2f}"), flush=True)
    print(f"\n{counts[0]} functions compiled and {counts[1]} loaded from the disk, in "
          f"{time.perf_counter() - begin:.1f} s with their first calls; each counts where it was needed first")


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
