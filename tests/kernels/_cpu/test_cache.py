"""The compile cache: real processes, whose files are damaged, planted, shared or out of date."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest

import fastnn
from fastnn.kernels._cpu import cache
from fastnn.kernels.linear import cpu as linear_cpu
from fastnn.kernels.pooling import maxima

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK, reason="nothing is kept then")
as_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")

COMPILE = "print(fastnn.relu(np.ones(480)).sum())"
LOADED = "from fastnn.kernels import compilation; print(all(f.from_disk for f in compilation.functions()))"


def python(code: str, cache: Path | None, cwd: Path | None = None, **environment: str | None) -> tuple[str, str]:
    """Run code in a new process; return what it prints and what it warns of. None removes a variable."""
    env: dict[str, str | None] = {**os.environ, "FASTNN_CACHE_DIR": cache and str(cache), **environment}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", f"import numpy as np, fastnn\n{code}"],
                          env={name: value for name, value in env.items() if value is not None}, cwd=cwd,
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if not line.startswith("compiling kernels on their first")]
    return done.stdout, "\n".join(warnings)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warm") / "cache"
    assert python(COMPILE, folder) == ("480.0\n", "")
    return folder


@pytest.fixture
def copied(warm: Path, tmp_path: Path) -> Path:
    """A cache in which the kernel is, to be spoiled."""
    return Path(shutil.copytree(warm, tmp_path / "cache"))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_the_next_process_uses_the_files(copied: Path) -> None:
    before = contents(copied)
    assert python(f"{COMPILE}\n{LOADED}", copied) == ("480.0\nTrue\n", "")
    assert contents(copied) == before
    assert all(name.endswith(cache.SUFFIX) for name in before)


def test_a_folder_that_is_made_is_the_users_alone(warm: Path) -> None:
    assert warm.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in warm.iterdir()} == {0o600}


def test_a_damaged_file_is_compiled_again_and_replaced(copied: Path) -> None:
    good = {name: content for name, (content, _) in contents(copied).items()}
    for number, (name, content) in enumerate(good.items()):
        (copied / name).write_bytes(content[: len(content) // 2] if number % 2 else b"not a kernel")
    assert python(COMPILE, copied) == ("480.0\n", "")
    assert set(good) == set(contents(copied))
    assert python(f"{COMPILE}\n{LOADED}", copied) == ("480.0\nTrue\n", "")


def test_no_damage_of_a_byte_or_of_its_end_is_taken_for_a_file(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "folder", lambda: copied)
    name, (content, _) = next(iter(contents(copied).items()))
    entry = cache.Entry("any", __name__, [])
    entry.write({"a": 1}, content)
    path = copied / entry.file
    whole = path.read_bytes()
    assert entry.read() == ({"a": 1}, content)
    random = np.random.default_rng(0)
    for number in range(200):
        damaged = bytearray(whole)
        if number % 2:
            damaged[random.integers(len(whole))] ^= 1 << random.integers(8)
        else:
            del damaged[random.integers(len(whole)):]
        path.write_bytes(damaged)
        assert entry.read() is None
    (copied / name).replace(path)           # another function's file under this one's name
    assert entry.read() is None


def test_bounds_checks_and_optimisation_are_in_the_key(copied: Path) -> None:
    files = len(contents(copied))
    for settings in ({"NUMBA_OPT": "1"}, {"NUMBA_BOUNDSCHECK": "1"}, {"NUMBA_LOOP_VECTORIZE": "0"}):
        assert python(COMPILE, copied, **settings)[0] == "480.0\n"
    assert len(contents(copied)) >= 2 * files


def test_threads_and_messages_are_not_in_the_key(copied: Path) -> None:
    settings = {"NUMBA_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue", "NUMBA_DEBUG_CACHE": "1"}
    assert python(f"{COMPILE}\n{LOADED}", copied, **settings)[0] == "480.0\nTrue\n"


@as_root
@pytest.mark.parametrize("whose", ["folder", "files"])
def test_another_users_folder_or_files_are_not_read(copied: Path, whose: str) -> None:
    for path in [copied] if whose == "folder" else copied.iterdir():
        os.chown(path, 1, 1)
    before = contents(copied)
    printed, warned = python(COMPILE, copied)
    assert printed == "480.0\n"
    assert "it belongs to another user" in warned
    assert len(warned.splitlines()) == (1 if whose == "folder" else len(before))
    if whose == "folder":
        assert contents(copied) == before   # nor is anything written there


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no such permissions")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_may_write_to_is_not_used(copied: Path, mode: int) -> None:
    copied.chmod(mode)
    before = contents(copied)
    printed, warned = python(COMPILE, copied)
    assert (printed, warned) == ("480.0\n", f"{copied}: others may write to it, so compiled kernels are neither read "
                                 "from it nor kept; set FASTNN_CACHE_DIR to a folder of your own, which only you can "
                                 "write to")
    assert contents(copied) == before


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no such permissions")
def test_a_file_that_others_may_write_to_is_compiled_again_and_replaced(copied: Path) -> None:
    for path in copied.iterdir():
        path.chmod(0o666)
    assert "others may write to it, so it is not read" in python(COMPILE, copied)[1]
    assert {path.stat().st_mode & 0o777 for path in copied.iterdir()} == {0o600}


def test_no_home_and_no_writable_cache(tmp_path: Path) -> None:
    """A kernel compiles all the same where nothing can be kept."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert python(COMPILE, blocked / "cache") == ("480.0\n", "")
    assert python(COMPILE, None, XDG_CACHE_HOME=None, HOME=str(blocked)) == ("480.0\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="where the cache lies by default on Linux")
def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(f"~{getpass.getuser()}").expanduser()
    monkeypatch.chdir(tmp_path)
    for settings, expected in [
        ({"FASTNN_CACHE_DIR": "sub/kernels"}, tmp_path / "sub" / "kernels"),
        ({"FASTNN_CACHE_DIR": "~/kernels", "HOME": "/home/me"}, Path("/home/me/kernels")),
        ({"XDG_CACHE_HOME": "/cache"}, Path("/cache/fastnn/kernels")),
        ({"HOME": "/home/me"}, Path("/home/me/.cache/fastnn/kernels")),
        ({"HOME": ""}, home / ".cache/fastnn/kernels"),
        ({"FASTNN_CACHE_DIR": "", "HOME": "/home/me"}, Path("/home/me/.cache/fastnn/kernels")),
    ]:
        for name in ("FASTNN_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        assert cache.cache_dir() == expected


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_warm_cache_that_is_read_only_is_used(copied: Path) -> None:
    copied.chmod(0o500)
    try:
        assert python(f"{COMPILE}\n{LOADED}", copied) == ("480.0\nTrue\n", "")
    finally:
        copied.chmod(0o700)


def test_eight_processes_start_cold_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda _: python(COMPILE, tmp_path / "cache"), range(8)))
    assert outputs == [("480.0\n", "")] * 8
    assert all(path.suffix == cache.SUFFIX for path in (tmp_path / "cache").iterdir())


def test_functions_of_two_processes_are_told_apart_by_a_third(copied: Path) -> None:
    """Numba names them by a number that each process counts for itself."""
    python("fastnn.tanh(np.ones(480))", copied)
    assert python("x = np.full(2, -1.0); print(fastnn.relu(x)[0], fastnn.tanh(x)[0] < 0, fastnn.relu(x)[0])",
                  copied)[0] == "0.0 True 0.0\n"


def test_what_a_kernel_is_made_of_is_in_the_key() -> None:
    """And what it is not made of is not: a comment in one kernel makes no other one be compiled again."""
    linear, pooling = ({name.removeprefix("fastnn.kernels.") for name in cache.used(module.__name__)}
                       for module in (linear_cpu, maxima))
    assert {"_cpu.gemm", "_cpu.tiles", "_cpu.llvm", "_cpu.launch", "_cpu.tuning", "_cpu.vectors"} <= linear
    assert {"_cpu.llvm", "_cpu.launch", "_cpu.vectors"} <= pooling
    assert not [name for name in linear if name.startswith(("pooling", "conv", "distance", "loss"))]
    assert not [name for name in pooling if name.startswith(("linear", "conv", "distance", "loss"))]


def test_a_change_of_a_helper_in_another_file_is_seen(tmp_path: Path) -> None:
    package = Path(fastnn.__file__).parent
    shutil.copytree(package, tmp_path / "fastnn", ignore=shutil.ignore_patterns("__pycache__"))
    product = "print(fastnn.linear(np.ones((2, 6)), np.ones((40, 6))).sum())"
    own = f"assert fastnn.__file__.startswith({str(tmp_path)!r})\n{product}"
    assert python(own, tmp_path / "cache", tmp_path)[0] == "480.0\n"
    source = tmp_path / "fastnn" / "kernels" / "_cpu" / "tiles.py"
    text = source.read_text()
    changed = text.replace("builder.fmul(x, y", "builder.fadd(x, y")
    assert changed != text
    source.write_text(changed)
    assert python(own, tmp_path / "cache", tmp_path)[0] == "960.0\n"


def test_old_files_go_and_no_more_than_the_cache_may_hold_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    monkeypatch.setattr(cache, "_MOST", 2500)
    for days, name in [(100, "unused"), (3, "third"), (2, "second"), (1, "first"), (0, "new")]:
        path = tmp_path / f"{name}{cache.SUFFIX}"
        path.write_bytes(bytes(1000 if days < 100 else 1))
        os.utime(path, (time.time() - days * 86400,) * 2)
    for hours, name in [(30, "left"), (1, "begun")]:        # by a process that was killed, by one that writes
        path = tmp_path / f"{name}.part"
        path.touch()
        os.utime(path, (time.time() - hours * 3600,) * 2)
    (tmp_path / "bench.json").touch()
    cache._clear_old.__wrapped__()
    assert {path.stem for path in tmp_path.iterdir()} == {"first", "new", "begun", "bench"}
    assert cache.clear() == (3, 2000)
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_numba_still_has_what_loading_builds_on() -> None:
    """Numba's private parts, all in compiler.py: where one changes, look at how Numba loads its own files there
    (CompileResult._rebuild and CPUCodeLibrary._unserialize), and do likewise in compiler._loaded."""
    from numba import _dynfunc
    from numba.core import codegen, funcdesc, lowering
    from numba.np.ufunc import parallel

    library = codegen.JITCodeLibrary
    assert all(callable(getattr(library, name)) for name in (
        "enable_object_caching", "_set_compiled_object", "_get_compiled_object", "_finalize_final_module"))
    assert callable(codegen.JITCPUCodegen.set_env)
    assert {"env_name"} <= set(funcdesc.FunctionDescriptor.__slots__)
    assert all(hasattr(funcdesc.FunctionDescriptor, name) for name in ("llvm_cpython_wrapper_name",
                                                                      "llvm_cfunc_wrapper_name"))
    assert issubclass(lowering.Environment, _dynfunc.Environment)
    assert callable(_dynfunc.make_function)
    assert callable(parallel._launch_threads)
