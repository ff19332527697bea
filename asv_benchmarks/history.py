"""Speed from commit to commit: asv's results for milestones of the repository, its page, and a picture of them.

    python history.py run               measures the milestones that have no results yet, some minutes each
    python history.py run HEAD          measures these commits
    python history.py publish           writes asv's page to html/, its scripts beside it where npm can be had
    python history.py draw              writes docs/images/history.png

Results lie in results/, a folder for each machine, by asv. milestones.txt names commits; other commits with results are
called by their hashes.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS, HTML, MILESTONES = HERE / "results", HERE / "html", HERE / "milestones.txt"
PICTURE = HERE.parent / "docs" / "images" / "history.png"
BENCHMARK = "families.Families.time_call"

# asv's page asks other hosts for its scripts. Here they lie beside it, as npm has them.
PACKAGES = {
    "jquery@3.3.1": ["dist/jquery.min.js"],
    "flot@0.8.3": [f"jquery.flot{part}.js" for part in ("", ".time", ".selection", ".categories")],
    "flot-orderbars@1.0.0": ["js/jquery.flot.orderBars.js"],
    "stupid-table-plugin@1.1.3": ["stupidtable.min.js"],
    "blueimp-md5@2.19.0": ["js/md5.min.js"],
    "bootstrap@3.1.1": ["dist/js/bootstrap.min.js", "dist/css/bootstrap.min.css"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="measure commits")
    run_parser.add_argument("commits", nargs="*", help="commits; by default, milestones that have no results yet")
    run_parser.add_argument("--machine", default=platform.node(), help="the name of its folder in results/")
    commands.add_parser("publish", help="write asv's page")
    commands.add_parser("draw", help="draw the curves")
    options = parser.parse_args()
    if options.command == "run":
        return run(options.commits, options.machine)
    return publish() if options.command == "publish" else draw()


def run(commits: list[str], machine: str) -> int:
    """Measure commits, each installed in an environment by asv."""
    wanted = [_whole(commit) for commit in commits or milestones()]
    if not commits:
        known = {found["commit_hash"] for found in results(machine)}
        wanted = [commit for commit in wanted if commit not in known]
    asv("machine", "--yes", "--machine", machine)
    return asv("run", "HASHFILE:-", "--machine", machine, "--bench", f"^{BENCHMARK}$", "--show-stderr",
               input="\n".join(wanted) + "\n") if wanted else 0


def publish() -> int:
    status = asv("publish")
    page = HTML / "index.html"
    if status or not shutil.which("npm"):
        return status
    text, scripts = page.read_text(encoding="utf-8"), HTML / "scripts"
    scripts.mkdir(exist_ok=True)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", scripts,
                    *PACKAGES], check=True)
    for package, files in PACKAGES.items():
        for file in files:
            own = f"scripts/node_modules/{package.partition('@')[0]}/{file}"
            name = re.escape(Path(file).name.removesuffix(".js").removesuffix(".css").removesuffix(".min"))
            text, count = re.subn(rf'(src|href)="https://[^"]*/{name}(?:-[\d.]+)?(?:\.min)?\.(?:js|css)"'
                                  r'(?: (?:integrity|crossorigin|referrerpolicy)="[^"]*")*', rf'\1="{own}"', text)
            if not count:
                raise SystemExit(f"history.py: expected {file} in asv's page, which has changed; see PACKAGES")
    page.write_text(text, encoding="utf-8")
    return 0


def draw() -> int:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = curves()
    if not found["commits"]:
        raise SystemExit("history.py: expected results of milestones in results/, got none; run history.py run")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for family, values in found["cpu"].items():
        axes.plot(values, marker="o", label=family)
    for family, values in found["naive"].items():
        axes.plot(values, "--", color=axes.lines[list(found["cpu"]).index(family)].get_color(), linewidth=1)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(range(len(found["commits"])), found["commits"], rotation=30, ha="right")
    axes.set_ylabel("times as fast as the first kernels")
    axes.legend(title="compiled; naive dashed")
    axes.grid(alpha=0.3)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    plt.close(figure)
    print(f"wrote {PICTURE}")
    return 0


# --- what was measured -----------------------------------------------------------------------------------------------


def milestones() -> dict[str, str]:
    """Return the names of milestones by the beginnings of their hashes."""
    lines = (line.split(maxsplit=1) for line in MILESTONES.read_text(encoding="utf-8").splitlines())
    return {commit: name.strip() for commit, name in lines}


def results(machine: str | None = None) -> list[dict[str, Any]]:
    """Return what asv kept of each commit, the oldest first: of one machine, or of the one with the most."""
    folders = [RESULTS / machine] if machine else [path for path in RESULTS.glob("*") if path.is_dir()]
    by_machine = [[json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*-*.json")]
                  for folder in folders]
    found = max(by_machine, key=len, default=[])
    order = list(milestones())              # of those that have the same date
    return sorted((one for one in found if BENCHMARK in one.get("results", {})), key=lambda one: (one["date"], next(
        (place for place, commit in enumerate(order) if one["commit_hash"].startswith(commit)), len(order))))


def seconds(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the seconds of each call on each target: {"cpu": {"convolution: 3x3": 0.003, ...}, ...}."""
    values = dict(zip(result["result_columns"], result["results"][BENCHMARK]))
    targets, calls = ([name.strip("'") for name in names] for names in values["params"])
    taken = iter(values["result"])
    return {target: {call: next(taken) for call in calls} for target in targets}


def curves() -> dict[str, Any]:
    """Return names of commits and, for each target and family, how many times as fast as at first its calls are.

    That is the geometric mean over the calls of a family.
    """
    found, names = results(), milestones()
    times = [seconds(result) for result in found]
    labels = [next((name for commit, name in names.items() if result["commit_hash"].startswith(commit)),
                   result["commit_hash"][:7]) for result in found]
    by_target: dict[str, Any] = {"commits": labels}
    for target in times[0] if times else ():
        families: dict[str, list[str]] = {}
        for call in times[0][target]:
            families.setdefault(call.partition(":")[0], []).append(call)
        by_target[target] = {family: [statistics.geometric_mean(times[0][target][call] / one[target][call]
                                                                for call in calls) for one in times]
                             for family, calls in families.items()}
    return by_target


def asv(*arguments: str, input: str | None = None) -> int:
    return subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=HERE, input=input, text=True).returncode


def _whole(commit: str) -> str:
    return subprocess.run(["git", "rev-parse", f"{commit}^{{commit}}"], cwd=HERE, check=True, capture_output=True,
                          text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
