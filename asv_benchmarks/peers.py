"""Every kernel, and whole training steps, against every peer on the same data, alternating in one process.

    python peers.py                     all of it: a table for the terminal, in some minutes
    python peers.py --only conv2d,knn   rows with one of these in their names
    python peers.py --json FILE         also everything that was measured, as JSON
    python peers.py --write             also docs/performance.md, from performance.md.in and what was measured
    python peers.py --load FILE --write the same from an earlier run's JSON
    python peers.py --quick             little data, few repeats: whether it all works
    python peers.py --device cuda       the same on a GPU, against PyTorch there (no --write: gpu_check.py does it)
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAUSE = 0.003                               # seconds: threads of the one before may spin for a while after its call
SAMPLE = 300e-6                             # seconds that a sample takes at least: shorter calls are repeated
MANY_CORES = 64
ONE_CORE = "fastnn, one core"

if __name__ == "__main__" and os.environ.get("OMP_WAIT_POLICY") != "passive":
    # Read once, when OpenMP is loaded: threads that spin while they wait take the core that the next one needs.
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_WAIT_POLICY": "passive"})

sys.path.insert(0, str(HERE))

# After the above: threads wait as they were told to when these were loaded, and rows and on_gpu lie beside this file.
import numba  # noqa: E402
import numpy as np  # noqa: E402
import on_gpu  # noqa: E402
import rows as table  # noqa: E402
from apart import Apart  # noqa: E402
from rows import F32, ONE_THREAD, TORCH, Case, Group, Row  # noqa: E402

import fastnn  # noqa: E402
from fastnn.kernels._cpu import launch, tiles  # noqa: E402

missing = table.load_peers()
torch = table.torch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts of names, separated by commas")
    parser.add_argument("--quick", action="store_true", help="little data, few repeats")
    parser.add_argument("--json", type=Path, help="where everything that was measured is written")
    parser.add_argument("--load", type=Path, help="take what an earlier run wrote, and measure nothing")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all of it runs")
    options = parser.parse_args()
    if options.device == "cuda":
        if options.write:
            parser.error("--write is for the CPU; gpu_check.py writes what was measured on a GPU")
        try:
            fastnn.to_device(np.zeros(1))
        except RuntimeError as error:
            parser.error(str(error))
    table.place_on(options.device)
    if options.write and (options.only or options.quick):
        parser.error("--write takes a whole run")
    if options.load:
        result = json.loads(options.load.read_text())
    else:
        result = measure([part for part in options.only.split(",") if part], options.quick)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    sections = {name: section(result) for name, section in SECTIONS.items()}
    shown = ("machine", "tables") if options.load else ()          # else printed as they were measured
    print("\n".join(sections[name] for name in (*shown, "memory", "scaling", "summary") if sections[name]))
    if options.write:
        text = (HERE / "performance.md.in").read_text()
        for name, section in sections.items():
            text = text.replace("{{" + name + "}}", section.strip())
        (HERE.parent / "docs").mkdir(exist_ok=True)
        (HERE.parent / "docs" / "performance.md").write_text(text)
    return 0


def measure(only: list[str], quick: bool) -> dict[str, Any]:
    """Return everything that is measured, as JSON has it."""
    begin = time.perf_counter()
    found = on_gpu.machine(quick) if table.device == "cuda" else machine(quick)
    result: dict[str, Any] = {"machine": found, "missing": missing, "groups": []}
    print(machine_section(result), flush=True)
    for group in table.groups(quick):
        measured = []
        for row in group.rows:
            if not only or any(part in f"{group.title}: {row.label}" for part in only):
                measured.append(measure_row(row, result["machine"], quick))
        if measured:
            result["groups"].append(summarized(group, measured))
            print(group_section(result["groups"][-1]), flush=True)
    if not only and table.device == "cpu":
        result["memory"] = {name: memory(name, 4 if quick else batch)
                            for name, batch in (("cnn-mnist", 64), ("resnet18", 32))}
    result["seconds"] = time.perf_counter() - begin
    return result


# --- one row -----------------------------------------------------------------------------------------------------


def measure_row(row: Row, floor: dict[str, Any], quick: bool = False) -> dict[str, Any]:
    """Check that all agree, then time them in turns."""
    here = row.make()
    case = apart_from_each_other(row, here) if row.apart else here
    check(row.label, case)
    least = {"flops": case.flops / floor["peak"][case.peak] if case.peak else 0.0,
             "bytes": case.bytes / bandwidth(floor, case.bytes)}
    bound = "flops" if case.flops and (not case.peak or least["flops"] >= least["bytes"]) else "bytes"
    candidates = {"fastnn": case.ours, **case.peers}
    if bound == "flops" and fastnn.get_num_threads() > 1 and table.device == "cpu" and not row.apart:
        candidates[ONE_CORE] = case.ours
    if row.small and TORCH in case.peers:
        candidates[ONE_THREAD] = case.peers[TORCH]
    times = alternate(candidates, *((0.02, 2, 3) if quick else (0.15, 5, 20)))
    ratios = {name: statistics.median(theirs / ours for theirs, ours in zip(times[name], times["fastnn"]))
              for name in candidates if name != "fastnn"}
    seconds = statistics.median(times["fastnn"])
    found = {"label": row.label, "ratios": ratios,
             "seconds": {name: statistics.median(samples) for name, samples in times.items()},
             "work": {"flops": case.flops, "bytes": case.bytes}, "bound": bound,
             "speed": (case.flops if bound == "flops" else case.bytes) / seconds / 1e9,
             "of_floor": least[bound] / seconds}
    if bound == "flops" and table.device == "cpu" and not row.apart:
        found["launches"] = launches(case.ours)
    for call in candidates.values():
        if isinstance(call, Apart):
            call.close()
    return found


def apart_from_each_other(row: Row, case: Case) -> Case:
    """Return a case with each call in a process of its own."""
    return dataclasses.replace(case, ours=Apart(row.make, "fastnn"),
                               peers={name: Apart(row.make, name) for name in case.peers})


def check(label: str, case: Case) -> None:
    """Raise an error unless ours and the peers' results agree."""
    for _ in range(case.calls):
        ours = first(case.ours())
        for name, call in case.peers.items():
            theirs = first(call())
            scale, error = largest(ours), largest(ours - theirs)
            if not error <= case.tolerance * scale:
                raise AssertionError(f"{label}: results of fastnn and {name} differ by {error:.2e}, "
                                     f"the largest being {scale:.2e}")


def first(result: Any) -> Any:
    """The first of several results, as an array."""
    result = result[0] if isinstance(result, tuple) else result
    return fastnn.to_host(result) if table.device == "cuda" else np.asarray(result)


def largest(array: Any) -> float:
    return max(float(array.max()), -float(array.min()))


def alternate(candidates: dict[str, Callable[[], Any]], seconds: float, least: int, most: int,
              ) -> dict[str, list[float]]:
    """Return the times of calls, made in turns; slow candidates drop out after `least` rounds and some seconds."""
    number, times = {}, {name: [] for name in candidates}
    for name, call in candidates.items():
        once = timed(name, call)
        number[name] = 1 if once > 10 * SAMPLE else math.ceil(SAMPLE / min(timed(name, call) for _ in range(3)))
    for turn in range(most):
        for name, call in candidates.items():
            if turn >= least and sum(times[name]) * number[name] > seconds:
                continue
            time.sleep(PAUSE)
            times[name].append(timed(name, call, number[name]))
    return times


def timed(name: str, call: Callable[[], Any], number: int = 1) -> float:
    if table.device == "cuda":
        return on_gpu.timed(call, number)
    if isinstance(call, Apart):
        return call.timed(number)
    with threads_of(name):
        begin = time.perf_counter()
        for _ in range(number):
            call()
        return (time.perf_counter() - begin) / number


@contextlib.contextmanager
def threads_of(name: str) -> Iterator[None]:
    """Set the threads of a candidate: all, but for two that are named."""
    if name == ONE_CORE:
        fastnn.set_num_threads(1)
    if name == ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        fastnn.set_num_threads(None)
        if name == ONE_THREAD:
            torch.set_num_threads(fastnn.get_num_threads())


# --- blocks, and what more cores would do ------------------------------------------------------------------------


def launches(call: Callable[[], Any]) -> dict[str, Any]:
    """Record a call on one core: the blocks of its launches, its serial part, and how it would run on many cores.

    On n cores, a launch of b equal blocks takes ceil(b / n) / b of its time on one; all else takes what it takes.
    """
    recorded: list[tuple[int, float]] = []
    plain = launch.BlockKernel.__call__

    def record(kernel: Any, blocks: int, *args: Any, work: int, **options: Any) -> None:
        begin = time.perf_counter()
        plain(kernel, blocks, *args, work=work, **options)
        if blocks > 1 and work >= launch.PARALLEL_WORK:
            recorded.append((blocks, time.perf_counter() - begin))

    timed(ONE_CORE, call)
    launch.BlockKernel.__call__ = record  # type: ignore[method-assign]     # every launch is seen,
    try:
        with launch.watched_by(lambda *launched: None):     # those of plans too: watched, they go by it
            total = timed(ONE_CORE, call)
    finally:
        launch.BlockKernel.__call__ = plain  # type: ignore[method-assign]      # as it was
    serial = total - sum(seconds for _, seconds in recorded)
    many = serial + sum(seconds * math.ceil(blocks / MANY_CORES) / blocks for blocks, seconds in recorded)
    return {"blocks": [blocks for blocks, _ in recorded], "serial": serial / total, "on_many_cores": total / many}


# --- the machine -------------------------------------------------------------------------------------------------


def machine(quick: bool) -> dict[str, Any]:
    """Measure the machine's peak of arithmetic and its bandwidth."""
    threads, size = fastnn.get_num_threads(), 512 if quick else 2048
    peak = {name: tile_peak(tile, flops, threads) for name, tile, flops in [
        ("multiply", tiles.product_tile, 2), ("distance", tiles.square_tile, 3)]}
    speeds = {"fastnn's tile": peak["multiply"]}
    if torch is not None:
        a = torch.ones(size, size)
        speeds["PyTorch's mm"] = 2.0 * size**3 / best(lambda: torch.mm(a, a))
    peak["multiply"] = max(speeds.values())
    copies = {}
    for megabytes in (1, 8, 33) if quick else (0.1, 8, 33, 400):
        source = np.ones(int(megabytes * 125_000) * 2, F32)
        target = np.empty_like(source)
        both = {"NumPy": lambda source=source, target=target: on_threads(np.copyto, target, source)}
        if torch is not None:
            tensors = torch.from_numpy(source), torch.from_numpy(target)
            both[TORCH] = lambda tensors=tensors: tensors[1].copy_(tensors[0])
        copies[megabytes] = {name: 2.0 * source.nbytes / best(call) for name, call in both.items()}
    reads = {"NumPy": source.nbytes / best(lambda: on_threads(np.sum, source))}
    if torch is not None:
        reads[TORCH] = source.nbytes / best(tensors[0].sum)
    return {"processor": processor(), "system": f"{platform.system()} {platform.machine()}", "threads": threads,
            "versions": {module.__name__: module.__version__ for module in (
                fastnn, np, numba, *map(table.optional, ("torch", "faiss", "sklearn", "scipy")))
                if module is not None},
            "date": time.strftime("%Y-%m-%d"), "peak": peak, "peaks": speeds,
            "copy": {str(size): max(both.values()) for size, both in copies.items()}, "read": max(reads.values())}


def tile_peak(tile: Any, flops: int, threads: int) -> float:
    """The speed of a register tile on panels that lie in the first cache, on all cores."""
    @numba.njit(nogil=True, error_model="numpy")
    def spin(a: Any, b: Any, c: Any, repeats: int) -> None:
        for _ in range(repeats):
            tile(a, 0, b, 0, depth, c, 0, columns)

    depth, repeats, columns = 128, 20_000, tiles.tile_columns(np.empty(0, F32))
    panels = [(np.ones((depth, tiles.ROWS), F32), np.ones((depth, columns), F32), np.zeros((tiles.ROWS, columns), F32))
              for _ in range(threads)]
    spin(*panels[0], 1)
    with ThreadPoolExecutor(threads) as pool:
        seconds = best(lambda: list(pool.map(lambda panel: spin(*panel, repeats), panels)))
    return flops * depth * tiles.ROWS * columns * repeats * threads / seconds


def bandwidth(floor: dict[str, Any], moved: float) -> float:
    """The speed of a copy of arrays about as large as what is moved."""
    return floor["copy"][min(floor["copy"], key=lambda size: abs(math.log(2e6 * float(size) / max(moved, 1))))]


def on_threads(function: Callable[..., Any], *arrays: Any) -> None:
    parts = [np.array_split(array, fastnn.get_num_threads()) for array in arrays]
    list(_pool.map(function, *parts))


_pool = ThreadPoolExecutor(fastnn.get_num_threads())


def best(call: Callable[[], Any]) -> float:
    return min(alternate({"": call}, 0.0, 7, 7)[""])


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor()


# --- memory ------------------------------------------------------------------------------------------------------


def memory(name: str, n: int) -> dict[str, float]:
    """Bytes that a training step needs beside the model, at most: each side in a process of its own."""
    sides = ["fastnn"] + [TORCH] * (torch is not None)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        return dict(zip(sides, pool.map(peak_memory, sides, [name] * 2, [n] * 2)))


def _peak_kilobytes() -> int:
    """The most memory that this process had. getrusage counts the process that started it too, on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_memory(side: str, name: str, n: int) -> float:
    table.place_on("cpu")                   # a process of its own knows nothing of it yet
    step = table.our_step(name) if side == "fastnn" else table.torch_step(name)
    as_input: Callable[[Any], Any] = np.asarray if side == "fastnn" else torch.from_numpy

    def highest(n: int) -> int:
        images, labels = map(as_input, table.batch_of(name, n))
        for _ in range(3):
            step(images, labels)
        return _peak_kilobytes()

    before = highest(2)                     # code, gradients and the optimizer's state are there now
    return 1024.0 * (highest(n) - before)


# --- what it says ------------------------------------------------------------------------------------------------


def summarized(group: Group, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """A group's rows, and for each peer their geometric mean and worst beside the targets."""
    against = {}
    for peer in dict.fromkeys(name for row in measured for name in row["ratios"] if name != ONE_CORE):
        ratios = [row["ratios"][peer] for row in measured if peer in row["ratios"]]
        against[peer] = {"mean": statistics.geometric_mean(ratios), "worst": min(ratios)}
        if peer in group.targets:
            mean, worst = group.targets[peer]
            against[peer] |= {"target": [mean, worst],
                              "reached": against[peer]["mean"] >= mean and against[peer]["worst"] >= worst}
    summary: dict[str, Any] = {"title": group.title, "against": against, "rows": measured}
    if group.most is not None:
        longest = max(row["seconds"]["fastnn"] for row in measured)
        summary |= {"most": group.most, "longest": longest, "reached": longest <= group.most}
    if group.of_floor is not None:
        least = min(row["of_floor"] for row in measured)
        mean = statistics.geometric_mean(row["of_floor"] for row in measured)
        summary |= {"of_floor": {"target": group.of_floor, "mean": mean, "worst": least},
                    "reached": least >= group.of_floor}
    return summary


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A table that reads well as it is, the first column to the left and the others to the right."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    cells = [[line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]
             for line in [header, rule, *lines]]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def machine_section(result: dict[str, Any]) -> str:
    found = result["machine"]
    if "gpu" in found:
        return markdown(["machine", ""], on_gpu.machine_lines(found))
    peaks = ", ".join(f"{name} {speed / 1e9:.0f}" for name, speed in found["peaks"].items())
    copies = ", ".join(f"{speed / 1e9:.0f} at {size} MB" for size, speed in found["copy"].items())
    lines = [["processor", f"{found['processor']}, {found['threads']} threads, {found['system']}"],
             ["versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())],
             ["measured on", found["date"]],
             ["products, GFLOP/s", peaks],
             ["squared differences, GFLOP/s", f"fastnn's tile {found['peak']['distance'] / 1e9:.0f}"],
             ["copy, GB/s read and written", copies],
             ["sum of 400 MB, GB/s read", f"{found['read'] / 1e9:.0f}"]]
    if result["missing"]:
        lines.append(["not installed, left out", ", ".join(result["missing"])])
    return markdown(["machine", ""], lines)


def group_section(group: dict[str, Any]) -> str:
    peers = list(group["against"])
    lines = []
    for row in group["rows"]:
        unit = "GFLOP/s" if row["bound"] == "flops" else "GB/s"
        known = row["work"][row["bound"]] > 0
        lines.append([row["label"], duration(row["seconds"]["fastnn"]), f"{row['speed']:.3g} {unit}" if known else "",
                      f"{100 * row['of_floor']:.0f} %" if known and row["of_floor"] else "",
                      *(f"{row['ratios'][peer]:.2f}" if peer in row["ratios"] else "" for peer in peers)])
    for what, key in (("geometric mean", "mean"), ("worst", "worst")):
        lines.append([f"**{what}**", "", "", "", *(f"{group['against'][peer][key]:.2f}" for peer in peers)])
    return f"### {group['title']}\n\n" + markdown(["call", "fastnn", "speed", "of the floor", *peers], lines)


def duration(seconds: float) -> str:
    return f"{1e6 * seconds:.1f} us" if seconds < 1e-4 else f"{1e3 * seconds:.3g} ms"


def summary_section(result: dict[str, Any]) -> str:
    lines = []
    for group in result["groups"]:
        for peer, found in group["against"].items():
            if "target" in found:
                lines.append([group["title"], peer, *(f"{found[key]:.2f}" for key in ("mean", "worst")),
                              " / ".join(map(str, found["target"])), "yes" if found["reached"] else "**no**"])
        if "of_floor" in group:
            floor = group["of_floor"]
            lines.append([group["title"], "the floor", *(f"{floor[key]:.2f}" for key in ("mean", "worst")),
                          str(floor["target"]), "yes" if group["reached"] else "**no**"])
        if "most" in group:
            lines.append([group["title"], "", "", duration(group["longest"]), f"at most {duration(group['most'])}",
                          "yes" if group["reached"] else "**no**"])
    for name, found in result.get("memory", {}).items():
        if TORCH in found:
            share = found[TORCH] / max(found["fastnn"], 1.0)
            lines.append([f"memory of a training step, {name}", TORCH, f"{share:.2f}", f"{share:.2f}",
                          "1.0 / 1.0", "yes" if share >= 1 else "**no**"])
    scaling = [row["ratios"][ONE_CORE] for group in result["groups"] for row in group["rows"]
               if ONE_CORE in row["ratios"]]
    if scaling:
        lines.append([f"scaling from one core to {result['machine']['threads']}", "",
                      f"{statistics.geometric_mean(scaling):.2f}", f"{min(scaling):.2f}", "1.8 / 1.8",
                      "yes" if min(scaling) >= 1.8 else "**no**"])
    return markdown(["work", "peer", "mean", "worst", "target", "reached"], lines)


def missed_section(result: dict[str, Any]) -> str:
    """The groups that miss a target, with the rows that are below the worst that is allowed."""
    lines = []
    for group in result["groups"]:
        for peer, found in group["against"].items():
            if not found.get("reached", True):
                mean, worst = found["target"]
                below = [f"{row['label']} ({row['ratios'][peer]:.2f})" for row in group["rows"]
                         if row["ratios"].get(peer, worst) < worst]
                missed = [f"a mean of {found['mean']:.2f} where {mean} was the aim"] * (found["mean"] < mean)
                missed += [f"below {worst}: {', '.join(below)}"] * bool(below)
                lines.append(f"- **{group['title']}** against {peer}: {'; '.join(missed)}.\n")
        if "of_floor" in group and not group["reached"]:
            least = group["of_floor"]["target"]
            below = [f"{row['label']} ({row['of_floor']:.2f})" for row in group["rows"] if row["of_floor"] < least]
            lines.append(f"- **{group['title']}**: below {least} of the floor: {', '.join(below)}.\n")
        if "most" in group and not group["reached"]:
            above = [f"{row['label']} ({duration(row['seconds']['fastnn'])})" for row in group["rows"]
                     if row["seconds"]["fastnn"] > group["most"]]
            lines.append(f"- **{group['title']}**: above {duration(group['most'])}: {', '.join(above)}.\n")
    return "".join(lines) or "Every row is reached.\n"


def memory_section(result: dict[str, Any]) -> str:
    lines = [[name, *(f"{found[side] / 1e6:.0f} MB" if side in found else "" for side in ("fastnn", TORCH))]
             for name, found in result.get("memory", {}).items()]
    return markdown(["training step", "fastnn", TORCH], lines) if lines else ""


def scaling_section(result: dict[str, Any]) -> str:
    lines = []
    for group in result["groups"]:
        for row in group["rows"]:
            if "launches" in row:
                found = row["launches"]
                blocks = sorted(found["blocks"])
                some = (f"{len(blocks)} of {blocks[0]} to {blocks[-1]}" if len(blocks) > 6 else
                        ", ".join(map(str, found["blocks"])) or "none")
                lines.append([f"{group['title']}: {row['label']}", f"{row['ratios'].get(ONE_CORE, 1.0):.2f}", some,
                              f"{100 * found['serial']:.1f} %", f"{found['on_many_cores']:.0f}"])
    if not lines:
        return ""
    return markdown(["call", f"1 to {result['machine']['threads']} cores", "blocks of each launch", "serial",
                     f"on {MANY_CORES} cores"], lines)


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "machine": machine_section, "summary": summary_section,
    "tables": lambda result: "\n".join(map(group_section, result["groups"])),
    "memory": memory_section, "scaling": scaling_section, "missed": missed_section,
    "cores": lambda result: str(MANY_CORES),
}


if __name__ == "__main__":
    sys.exit(main())
