"""Prove and measure all of CUDA in one run, and write docs/cuda.md.

    python gpu_check.py                 on a machine with a GPU, in less than 8 minutes: the tests that need one, the
                                        comparison with PyTorch, 20 epochs of cnn-mnist (with FASTNN_DATA)
    python gpu_check.py --without-gpu   what needs none: the tests in Numba's simulator, and PTX by the CUDA compiler
                                        that is installed, in some minutes
    python gpu_check.py --write         only docs/cuda.md again

What was found is kept in cuda.json beside this file; a run replaces its own part. A part that fails or takes too long
is said so, and the others go on; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
KEPT = HERE / "cuda.json"
RUNGS = ["simulator", *(f"PTX {capability}, {compiler}" for compiler in ("numba-cuda-mlir", "numba-cuda")
                        for capability in ("8.0", "9.0")), "GPU"]
CASE = re.compile(r"test_(?:cuda_agrees_with_naive|ptx|large_calls_agree_with_the_cpu_in_float64)\[(\w+)(?:-\w+)?\]")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-gpu", action="store_true", help="what needs none")
    parser.add_argument("--write", action="store_true", help="only docs/cuda.md again")
    options = parser.parse_args()
    if not options.write and importlib.util.find_spec("pytest") is None:
        parser.error('the tests need pytest: run pip install -e ".[test]"')
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {"rungs": {}}
    begin = time.perf_counter()
    found: dict[str, Any] = {}                  # of this run
    if options.without_gpu:
        found = without_gpu()
        kept["rungs"] |= found
    elif not options.write:
        found = on_gpu()
        kept["rungs"]["GPU"] = found["GPU"]
        kept |= {name: part for name, part in found.items() if name != "GPU"}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    write(kept)
    print(f"done in {time.perf_counter() - begin:.0f} s: {KEPT} and {ROOT / 'docs' / 'cuda.md'}")
    return int(any(part["ended"] != "done" for part in found.values()))


# --- the parts ---------------------------------------------------------------------------------------------------


def without_gpu() -> dict[str, Any]:
    found = {"simulator": tests("tests/kernels/test_cuda.py", "-m", "cuda and not gpu", limit=3000,
                                NUMBA_ENABLE_CUDASIM="1")}
    compiler = said("from fastnn import _device; print(_device.compiler if hasattr(_device, 'cuda') else '')")
    for capability in ("8.0", "9.0") if compiler else ():
        found[f"PTX {capability}, {compiler}"] = tests(
            "tests/kernels/test_ptx.py", "--capability", capability, limit=3000)
    return found


def on_gpu() -> dict[str, Any]:
    doctor = run("doctor", [sys.executable, "-m", "fastnn", "doctor"], 20)
    print(doctor["output"])
    device = said("from fastnn import _device; print(_device.gpu())")
    if not device:
        sys.exit("gpu_check.py: no GPU was found (see above); --without-gpu does what needs none")
    found = {"GPU": tests("tests", "-m", "cuda or gpu", limit=220) | {"by": device}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "peers.json"
        peers = [sys.executable, str(HERE / "peers.py"), "--device", "cuda", "--json", str(file)]
        found["peers"] = run("peers", peers, 150) | {"device": device}
        if os.environ.get("FASTNN_DATA"):
            runs = Path(folder) / "run"
            training = run("cnn-mnist", [sys.executable, "-m", "fastnn", "train", "cnn-mnist", "--device", "cuda",
                                         "--epochs", "20", "--run-dir", str(runs)], 75)
            if (runs / "results.json").exists():
                training["results"] = json.loads((runs / "results.json").read_text())
            found["cnn-mnist"] = training | {"device": device}
        else:
            print("cnn-mnist: left out, as FASTNN_DATA names no folder with MNIST")
    return found


def tests(*arguments: str, limit: int, **environment: str) -> dict[str, Any]:
    """Run tests, and return for each kernel whether all of its cases passed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        found = run(" ".join(arguments), [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments,
                                          "-n", str(min(8, os.cpu_count() or 1)), f"--junitxml={report}"], limit,
                    **environment)
        kernels: dict[str, bool] = {}
        counts = {}
        if report.exists():
            suite = ET.parse(report).getroot()[0]
            counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
            for case in suite.iter("testcase"):
                if match := CASE.fullmatch(case.get("name", "")):
                    kernels[match[1]] = kernels.get(match[1], True) and not list(case.iter("failure")) + list(
                        case.iter("error")) + list(case.iter("skipped"))
    return {"date": found["date"], "ended": found["ended"], "kernels": kernels, "counts": counts,
            "seconds": found["seconds"],
            "failed": [line for line in found["output"].splitlines() if line.startswith(("FAILED", "ERROR"))]}


def run(name: str, command: list[str], limit: int, **environment: str) -> dict[str, Any]:
    """Run a command from the root of the sources; return its output, and say how it ended."""
    begin = time.perf_counter()
    print(f"=== {name}", flush=True)
    try:
        done = subprocess.run(command, cwd=ROOT, env={**with_sources(), **environment}, timeout=limit,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output, ended = done.stdout, "done" if done.returncode == 0 else f"exit {done.returncode}"
    except subprocess.TimeoutExpired as error:
        output, ended = (error.stdout or b"").decode(errors="replace"), f"stopped after {limit} s"
    seconds = round(time.perf_counter() - begin, 1)
    if ended != "done":
        print(output[-6000:])
    print(f"{name}: {ended}, {seconds} s", flush=True)
    return {"ended": ended, "seconds": seconds, "output": output, "date": time.strftime("%Y-%m-%d")}


def said(program: str) -> str:
    """Return what a short program prints; nothing where it fails."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=with_sources(), capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def with_sources() -> dict[str, str]:
    """Return the environment in which Python finds the sources here first."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


# --- what docs/cuda.md says --------------------------------------------------------------------------------------


def write(kept: dict[str, Any]) -> None:
    text = (HERE / "cuda.md.in").read_text()
    for name, section in (("rungs", rungs(kept)), ("measured", measured(kept))):
        text = text.replace("{{" + name + "}}", section.strip())
    (ROOT / "docs" / "cuda.md").write_text(text)


def rungs(kept: dict[str, Any]) -> str:
    """A line a kernel: on which rung it passed, and when."""
    found = kept["rungs"]
    names = sorted({name for rung in found.values() for name in rung["kernels"]})
    lines = [f"| kernel | {' | '.join(RUNGS)} |", f"| --- |{' --- |' * len(RUNGS)}"]
    for name in names:
        passed = [found[rung]["kernels"].get(name) if rung in found else None for rung in RUNGS]
        cells = ["not run" if ok is None else found[rung]["date"] if ok else "**failed**"
                 for ok, rung in zip(passed, RUNGS)]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(kept: dict[str, Any]) -> str:
    if "GPU" not in kept["rungs"]:
        return ("**No GPU could be had while this was written. No kernel has run on one, and nothing here was "
                "measured on one.** On a machine with a GPU, `python asv_benchmarks/gpu_check.py` runs the tests, "
                "compares with PyTorch, trains cnn-mnist, and writes what it finds here, in less than 8 minutes.")
    gpu = kept["rungs"]["GPU"]
    counts = gpu["counts"]
    parts = [f"On one {gpu['by']}, {gpu['date']}: " +
             (f"{counts['tests']} tests, {counts['failures'] + counts['errors']} failed, {counts['skipped']} skipped."
              if counts else f"the tests did not come to an end ({gpu['ended']})."),
             *gpu["failed"]]
    if training := kept.get("cnn-mnist"):
        parts.append(f"`fastnn train cnn-mnist --device cuda --epochs 20` on {training['device']}: "
                     f"{training['ended']}, {training['seconds']} s with the start of the program, "
                     f"results {json.dumps(training.get('results'))}.")
    if peers := kept.get("peers"):
        parts.append(f"`python asv_benchmarks/peers.py --device cuda` on {peers['device']}, {peers['date']}: "
                     f"{peers['ended']}.\n\n{peers['output']}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
