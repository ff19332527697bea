"""How many times as fast as its peers fastnn is: the rows of `peers.py`, which measures them all at once."""

from __future__ import annotations

import math
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")     # before OpenMP is loaded; see peers.py

import peers
import rows

GROUPS = rows.groups()
PEERS = (rows.TORCH, rows.SKLEARN, rows.FAISS, rows.CDIST)


class Peers:
    """Ratios of times. A peer that is not installed, or has no such function, gives no number."""

    timeout = 1800
    unit = "times as fast"

    def setup_cache(self) -> dict[str, dict[str, float]]:
        """Measure every row; returns its ratios, and the means of each group."""
        floor, ratios = peers.machine(quick=True), {}
        for group in GROUPS:
            measured = [peers.measure_row(row, floor) for row in group.rows]
            for row in measured:
                ratios[f"{group.title}: {row['label']}"] = row["ratios"]
            against = peers.summarized(group, measured)["against"]
            ratios[group.title] = {peer: found["mean"] for peer, found in against.items()}
        return ratios

    def track_group(self, ratios: dict[str, dict[str, float]], group: str, peer: str) -> float:
        return ratios[group].get(peer, math.nan)

    track_group.params = ([group.title for group in GROUPS], PEERS)
    track_group.param_names = ("group", "peer")

    def track_row(self, ratios: dict[str, dict[str, float]], row: str, peer: str) -> float:
        return ratios[row].get(peer, math.nan)

    track_row.params = ([f"{group.title}: {row.label}" for group in GROUPS for row in group.rows], PEERS)
    track_row.param_names = ("row", "peer")
