"""What one call of a one-kernel graph costs, in microseconds.

"empty" is AOTAutograd around a compiler whose code returns a ready tensor: guards and wrappers that every backend pays.
What a backend adds to it is its own part. Targets: treadle's own part at most 3 us, the whole call at most 0.85x of
Inductor's.
"""

from __future__ import annotations

from typing import Any

import torch
from harness import Call, bind, compile_for, measure, set_up, verdict
from parts import empty_backend
from record import Record, contestants, count_pairs, make_parser, say
from targets import one_kernel

EMPTY = "empty"
SIZES = (8, 1024)


def main() -> None:
    set_up()
    args = make_parser(__doc__, peers=("eager", "inductor", "aot_eager")).parse_args()
    record = Record("overhead", args)
    rows = {f"{size} elements": size for size in SIZES}
    for name in record.missing(rows, args.only):
        record.add(name, measure_size(name, rows[name], [*contestants(args), EMPTY], args.backend, count_pairs(args)))
    record.finish({name: row.get("own_us", {}) for name, row in record.rows.items()})


def measure_size(name: str, size: int, names: list[str], ours: str, pairs: int) -> dict[str, Any]:
    """Medians of a call through each contestant, and each one's own part beyond the empty backend."""
    x = torch.linspace(-2, 2, size)
    timing = measure({backend: make_call(backend, x) for backend in names}, pairs=pairs)
    micros = {backend: round(timing.median(backend) * 1e6, 2) for backend in names}
    own = {backend: round(value - micros[EMPTY], 2) for backend, value in micros.items() if backend != "eager"}
    for backend in names:
        say(f"{name:14} {backend:10} {micros[backend]:7.2f} us a call, {own.get(backend, '')}")
    return {"us": micros, "own_us": own, "times": timing.summary()} | verdict(timing, ours, names)


def make_call(backend: str, x: torch.Tensor) -> Call:
    return bind(compile_for(empty_backend(one_kernel(x)) if backend == EMPTY else backend, one_kernel), (x,))


if __name__ == "__main__":
    main()
