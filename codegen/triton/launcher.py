"""The C++ function that launches a kernel's programs on a CUDA device: it has the form of a kernel of the C++ target.

    extern "C" int SYMBOL(void *const *args, const long *sizes, char *work, long stream)

So a plan runs segments of GPU kernels as it runs those of a CPU, with a stream where those have threads and memory of
the device as their workspace. What only a process with the device knows stands in `SYMBOL_handles`, which it fills:

    word 0        the driver's cuLaunchKernel             then two words a launch: its function where all pointers are
    last word     the cell for bad indices (mapped)       aligned to 16 bytes, and where they are not

It returns 0, 1 + k where data index k was out of range in an earlier run, or 0x4000 + the driver's error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..dims import print_dim
from .emit import BAD, Launch, TritonSource

DRIVER_ERROR = 0x4000
ALIGNMENT = 16  # bytes
WARP = 32

HEAD = """\
// The driver's cuLaunchKernel: function, grid, block, bytes of shared memory, stream, arguments.
typedef int (*cuda_launch)(long, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, long, void **,
                           void **);
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a launcher has to know of a compiled function: bytes of shared memory, and how many arguments it takes."""

    shared: int
    parameters: int


def emit_launcher(source: TritonSource, shapes: Sequence[Shape]) -> str:
    """The launcher of one kernel. `shapes` are those of its launches."""
    name, handles = source.symbol, f"{source.symbol}_handles"
    lines = [
        f'extern "C" long {handles}[{2 * len(source.launches) + 2}];',
        f"long {handles}[{2 * len(source.launches) + 2}];",
        f'extern "C" int {name}(void *const *args, const long *sizes, char *work, long stream) {{',
        f"  const cuda_launch launch = (cuda_launch){handles}[0];",
    ]
    cell = f"{handles}[{2 * len(source.launches) + 1}]"
    if source.checks:
        lines.append(f"  if (const int bad = *(volatile int *){cell}) return bad;")
    lines += [f"  const long {s} = sizes[{k}];" for k, s in enumerate(source.symbols)]
    lines.append("  (void)args; (void)sizes; (void)work; (void)stream; (void)launch;")
    for k, (launched, shape) in enumerate(zip(source.launches, shapes, strict=True)):
        lines += [f"  {line}" for line in _launch(source, launched, shape, k, cell)]
    return "\n".join([*lines, "  return 0;", "}"]) + "\n"


def _launch(source: TritonSource, launch: Launch, shape: Shape, number: int, cell: str) -> list[str]:
    places = dict(source.workspace)
    lines = [f"{{  // {launch.function}"]
    pointers: list[str] = []
    for name, kind in launch.arguments:
        if not kind.startswith("*"):
            continue
        if name in places:
            text = f"work + {print_dim(places[name])}"
        elif name == BAD:
            text = f"(char *){cell}"
        else:
            text = f"(char *)args[{source.buffers.index(name)}]"
            pointers.append(name)
        lines.append(f"  char *{name}_ = {text};")
    given = [f"&{name}_" if kind.startswith("*") else f"(void *)&{name}" for name, kind in launch.arguments]
    extra = shape.parameters - len(given)  # memory that Triton's runtime would give, and that our kernels do not use
    lines.append("  char *nothing = 0; (void)nothing;")
    lines.append(f"  void *parameters[] = {{{', '.join([*given, *['&nothing'] * extra]) or '0'}}};")
    joined = " | ".join(f"(long){p}_" for p in pointers) or "0"
    lines.append(f"  const long programs = {print_dim(launch.programs)}, odd = (({joined}) & {ALIGNMENT - 1}) != 0;")
    function = f"{source.symbol}_handles[{1 + 2 * number} + odd]"
    block = f"{WARP * launch.warps}, 1, 1, {shape.shared}, stream, parameters, 0"
    lines += [
        f"  const int failed = programs ? launch({function}, (unsigned)programs, 1, 1, {block}) : 0;",
        f"  if (failed) return {DRIVER_ERROR} + failed;",
        "}",
    ]
    return lines
