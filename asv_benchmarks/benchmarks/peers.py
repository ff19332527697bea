"""How many times as fast as its peers fastnn is: the rows of `peers.py`, which are all measured in one process."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import rows

GROUPS = rows.groups()


class Peers:
    """Ratios of times, against the peers that have a target. One that is not installed gives no number."""

    timeout = 1800
    unit = "times as fast"
    param_names = ("work",)

    def setup_cache(self) -> dict[str, float]:
        """Measure every row; returns their ratios, and the geometric mean of each group."""
        os.environ["OMP_WAIT_POLICY"] = "passive"       # read when OpenMP is loaded, which is now; see peers.py
        import peers

        floor, ratios = peers.machine(quick=True), {}
        for group in GROUPS:
            measured = [peers.measure_row(row, floor) for row in group.rows]
            for peer, found in peers.summarized(group, measured)["against"].items():
                ratios[f"{group.title} / {peer}"] = found["mean"]
            for row in measured:
                ratios |= {f"{group.title}: {row['label']} / {peer}": ratio for peer, ratio in row["ratios"].items()}
        return ratios

    def track_group(self, ratios: dict[str, float], work: str) -> float:
        return ratios.get(work, math.nan)

    def track_row(self, ratios: dict[str, float], work: str) -> float:
        return ratios.get(work, math.nan)

    track_group.params = ([f"{group.title} / {peer}" for group in GROUPS for peer in group.targets],)
    track_row.params = ([f"{group.title}: {row.label} / {peer}"
                         for group in GROUPS for peer in group.targets for row in group.rows],)
