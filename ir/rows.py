"""How many rows stay close: what the laws and the schedules agree on before rows are read twice in one kernel."""

from __future__ import annotations

CLOSE = 512 << 10  # bytes that a core reads again at little cost
FEWEST = 8  # rows of a block: what columns keep of each block is as long as a row


def rows_of_block(rows: int, each: int, fewest_blocks: int = 2) -> int:
    """How many of `rows`, of `each` bytes, make a block that stays close: a divisor, as many as can be; 0 for none."""
    most = min(CLOSE // max(each, 1), rows // max(fewest_blocks, 2))
    return next((k for k in range(most, FEWEST - 1, -1) if rows % k == 0), 0)
