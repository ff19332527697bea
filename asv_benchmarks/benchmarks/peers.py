"""How many times as fast as its peers fastnn is: the rows of `peers.py`, which are all measured in one process."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import rows

GROUPS = rows.groups()


class Peers:
    """Ratios of times, against the peers that have a target. One that is not installed gives no number."""

    timeout = 1800
    unit = "times as fast"
    param_names = ("work",)

    def setup_cache(self) -> dict[str, float]:
        """The ratio of every row, and the geometric mean of each group.

        They are measured, or read from what `peers.py --json` wrote: FASTNN_PEERS_JSON is the file's path.
        """
        path = os.environ.get("FASTNN_PEERS_JSON")
        ratios = {}
        for group in json.loads(Path(path).read_text())["groups"] if path else self._measure():
            for peer, found in group["against"].items():
                ratios[f"{group['title']} / {peer}"] = found["mean"]
            for row in group["rows"]:
                ratios |= {f"{group['title']}: {row['label']} / {peer}": ratio for peer, ratio in row["ratios"].items()}
        return ratios

    def _measure(self) -> Iterator[dict[str, Any]]:
        os.environ["OMP_WAIT_POLICY"] = "passive"       # read when OpenMP is loaded, which is now; see peers.py
        import peers

        floor = peers.machine(quick=True)
        for group in GROUPS:
            yield peers.summarized(group, [peers.measure_row(row, floor) for row in group.rows])

    def track_group(self, ratios: dict[str, float], work: str) -> float:
        return ratios.get(work, math.nan)

    def track_row(self, ratios: dict[str, float], work: str) -> float:
        return ratios.get(work, math.nan)

    track_group.params = ([f"{group.title} / {peer}" for group in GROUPS for peer in group.targets],)
    track_row.params = ([f"{group.title}: {row.label} / {peer}"
                         for group in GROUPS for peer in group.targets for row in group.rows],)
