"""What rows of timed contestants say together: a line for each, geometric means, and what falls short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness import geomean

LIMIT = 0.95  # of the best peer: a row whose whole interval is below falls short
Row = dict[str, Any]


def describe(row: Row) -> str:
    times = "  ".join(f"{name} {values['median_us']:9.1f}" for name, values in row["times"].items())
    wrong = f"  WRONG: {', '.join(row['wrong'])}" if row["wrong"] else ""
    if "over_best" not in row:
        return f"{times} us{wrong}"
    over = row["over_best"]
    return f"{times} us  {over['median']:.2f} [{over['low']:.2f}, {over['high']:.2f}] of {row['best']}{wrong}"


def summarize_rows(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Geometric means over each peer, rows below the limit, the worst of them, rows that were wrong."""
    judged = judged_rows(rows)
    return {
        "rows": len(rows),
        "geomean_over": mean_ratios(judged),
        "below": sorted(name for name, row in judged.items() if row["over_best"]["high"] < LIMIT),
        "worst_over_best": min((row["over_best"]["median"] for row in judged.values()), default=None),
        "wrong": sorted(f"{name}: {', '.join(row['wrong'])}" for name, row in rows.items() if row["wrong"]),
    }


def judged_rows(rows: Mapping[str, Row]) -> dict[str, Row]:
    """The rows in which the backend in question and a peer were timed."""
    return {name: row for name, row in rows.items() if "over" in row}


def mean_ratios(judged: Mapping[str, Row]) -> dict[str, float]:
    """How much faster than each peer, in the geometric mean of the rows that have it."""
    peers = sorted({peer for row in judged.values() for peer in row["over"]})
    return {
        peer: round(geomean(row["over"][peer]["median"] for row in judged.values() if peer in row["over"]), 3)
        for peer in peers
    }
