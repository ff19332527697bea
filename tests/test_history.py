"""What asv kept of the repository's milestones, and its page in a browser."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import math
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("asv")

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


IN_GIT = git("rev-parse", "--is-shallow-repository") == "false" and git("rev-parse", "--show-toplevel") == str(ROOT)


@pytest.fixture(scope="module")
def history() -> ModuleType:
    spec = importlib.util.spec_from_file_location("history", ROOT / "asv_benchmarks" / "history.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not IN_GIT, reason="not a whole clone of the repository")
def test_milestones_are_commits_of_main(history: ModuleType) -> None:
    commits = git("rev-list", "--first-parent", "HEAD").split()             # those that asv's page shows
    for milestone in history.milestones():
        assert any(commit.startswith(milestone) for commit in commits), milestone


def test_each_milestone_has_all_times(history: ModuleType) -> None:
    results = history.results()
    assert len(results) >= 8
    for milestone in history.milestones():
        assert any(result["commit_hash"].startswith(milestone) for result in results), milestone
    for result in results:
        times = history.seconds(result)
        assert list(times) == ["naive", "cpu"]
        assert all(math.isfinite(value) for calls in times.values() for value in calls.values())
    curves = history.curves()
    assert list(curves["cpu"]) == ["convolution", "pooling", "distance", "batch norm"]
    assert all(len(values) == len(results) and values[0] == pytest.approx(1) for values in curves["cpu"].values())


@pytest.fixture(scope="module")
def page(history: ModuleType) -> Iterator[str]:
    """The address of asv's page, and its server."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed (Debian: apt-get install npm), which has the scripts of asv's page")
    if not IN_GIT:
        pytest.skip("not a whole clone of the repository")
    assert history.publish() == 0
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=history.HTML)
    handler.log_message = lambda *args: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
def test_a_browser_draws_the_graphs_and_lists_the_regressions(history: ModuleType, page: str, tmp_path: Path) -> None:
    def browse(hash: str) -> str:
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", "--disable-sync",
                   f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom",
                   "--virtual-time-budget=20000", page + hash]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    graphs = list(history.HTML.glob(f"graphs/**/{history.BENCHMARK}.json"))
    assert graphs
    points = [point for point in json.loads(graphs[0].read_text()) if point[1] is not None]
    assert len(points) >= 8
    drawn = browse(f"#{history.BENCHMARK}")
    assert 'class="flot-base"' in drawn
    assert len(re.findall("flot-tick-label", drawn)) > 4
    for call in ("convolution: 3x3", "pairwise_l2, 784 dimensions"):
        assert call in drawn
    listed = browse("#regressions")
    assert "Loading..." not in listed
    assert re.search(r'id="regressions-body".*(Benchmark|No regressions)', listed, re.S)
