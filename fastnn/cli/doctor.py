"""The command that says what there is."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import llvmlite.binding

import fastnn
from fastnn import _device, data
from fastnn._extras import install
from fastnn.kernels import compilation


def doctor(data_dir: Path | None = None) -> None:
    """Say what fastnn finds on this machine: versions, processor, GPU, compiled kernels, data, optional packages.

    Parameters
    ----------
    data_dir : Path
        Folder in which the data sets lie; by default the one that the environment variable FASTNN_DATA names.
    """
    for name, value in itertools.chain(_versions(), _processor(), _gpu(), _cache(), _data(data_dir), _extras()):
        print(f"{name:<20} {value}", flush=True)


def _versions() -> Iterator[tuple[str, str]]:
    packages = ("numpy", "numba", "llvmlite", "scipy")
    yield "fastnn", f"{fastnn.__version__} in {Path(fastnn.__file__).parent}"
    yield "Python", f"{platform.python_version()} in {sys.prefix}"
    yield "packages", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"


def _processor() -> Iterator[tuple[str, str]]:
    features = llvmlite.binding.get_host_cpu_features()
    known = ("sse4.2", "avx2", "fma", "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "amx-int8", "neon", "sve")
    yield "processor", f"{llvmlite.binding.get_host_cpu_name()}, {os.cpu_count()} cores"
    yield "vectors", " ".join(name for name in known if features.get(name)) or "none that is known"
    yield "register tile", ", ".join("{} x {} {}".format(*compilation.register_tile(dtype), dtype)
                                     for dtype in ("float32", "float64"))
    yield "threads", f"{fastnn.get_num_threads()} (NUMBA_NUM_THREADS and OMP_NUM_THREADS lower it)"
    if compilation.is_off():
        yield "compiler", "off: NUMBA_DISABLE_JIT is set, and every kernel runs as plain Python"
    else:
        yield "threading layer", compilation.threading_layer() or "none: one thread"


def _gpu() -> Iterator[tuple[str, str]]:
    """What CUDA kernels run on, or why they do not."""
    packages = ("numba-cuda-mlir", "numba-cuda", "cupy-cuda12x", "cupy-cuda13x", "cupy")
    found = ", ".join(f"{name} {version}" for name in packages if (version := _version(name))) or "no packages"
    if (why := _device.why_not()) is not None:
        yield "CUDA", f"none: {why} (found: {found})"
    elif _device.SIMULATED:
        yield "CUDA", f"{_device.gpu()}, since NUMBA_ENABLE_CUDASIM is set"
    else:
        runtime = _device.xp.cuda.runtime
        version = runtime.driverGetVersion()
        yield "CUDA", (f"{found}; kernels by {_device.compiler}; "
                       f"a driver for CUDA {version // 1000}.{version % 1000 // 10}")
        for number in range(runtime.getDeviceCount()):
            gpu = runtime.getDeviceProperties(number)
            yield f"GPU {number}", (f"{gpu['name'].decode()}, compute capability {gpu['major']}.{gpu['minor']}, "
                                    f"{gpu['totalGlobalMem'] / 2**30:.0f} GiB")


def _cache() -> Iterator[tuple[str, str]]:
    sizes = [file.stat().st_size for file in compilation.cache.files()]
    if folder := compilation.cache.folder():
        yield "compiled kernels", f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB in {folder}"
    if why := compilation.cache.why_not():
        yield "compiled kernels", f"cannot be kept: {why}; set FASTNN_CACHE_DIR to a folder of your own"


def _data(data_dir: Path | None) -> Iterator[tuple[str, str]]:
    folder = data_dir or os.environ.get("FASTNN_DATA")
    if not folder:
        yield "data sets", "no folder given (FASTNN_DATA or --data-dir): downloaded when they are asked for"
        return
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100"):
        try:
            dataset = data.load(name, folder)
            yield f"data: {name}", f"{len(dataset.train):,} + {len(dataset.test):,} images in {folder}"
        except (OSError, ValueError) as error:
            yield f"data: {name}", str(error).partition("\n")[0]


def _extras() -> Iterator[tuple[str, str]]:
    """What is there of the optional packages that the distribution names."""
    if _version("fastnn-kernels") is None:
        yield "extras", "unknown: fastnn runs from its source, without having been installed"
        return
    extras: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("fastnn-kernels") or ():
        if match := re.match(r"([\w.-]+).*extra == [\"'](\w+)", requirement):
            extras.setdefault(match[2], []).append(match[1])
    for extra, packages in extras.items():
        present = {package: version for package in packages if (version := _version(package))}
        missing = [package for package in packages if package not in present]
        yield f"extra [{extra}]", ", ".join(f"{package} {version}" for package, version in present.items()) + (
            f"{'; ' if present else ''}missing {', '.join(missing)}: {install(extra)}"
            if missing else "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
