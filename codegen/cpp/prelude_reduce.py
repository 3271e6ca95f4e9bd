"""Functions across the lanes of a pack: reductions, prefix scans, in-register transposes."""

from __future__ import annotations

from .prelude_base import Shape, cases

_ELEMENTS = {"F": ("f32", 4), "I": ("i32", 4), "D": ("f64", 8), "L": ("i64", 8)}
_COMBINE = {"sum": "{a} + {b}", "prod": "{a} * {b}", "min": "{a} < {b} ? {a} : {b}", "max": "{a} > {b} ? {a} : {b}"}
_LEAST = {"F": "-__builtin_inff()", "D": "-__builtin_inf()", "I": "-0x7fffffff - 1", "L": "-0x7fffffffffffffff - 1"}
_MOST = {"F": "__builtin_inff()", "D": "__builtin_inf()", "I": "0x7fffffff", "L": "0x7fffffffffffffff"}

_MASKS = """
bool hany_M(M m) { return any_M(m); }
bool hall_M(M m) { return all_M(m); }
"""

_NAN = '$e h${o}_$A($A x) { return any_M(ne_$A(x, x)) ? __builtin_nan$f("") : tree_${o}_$A(x); }\n'

_SCALAR = """
$e hsum_$A($A x) { return x; }
$e hprod_$A($A x) { return x; }
$e hmin_$A($A x) { return x; }
$e hmax_$A($A x) { return x; }
$A scan_add_$A($A x) { return x; }
$A scan_mul_$A($A x) { return x; }
$A scan_min_$A($A x) { return x; }
$A scan_max_$A($A x) { return x; }
"""


def reduce_text(shape: Shape) -> str:
    """`h*`: pack to scalar; `scan_*`: lane i combines lanes 0 .. i; `transpose_*`: N packs, in place."""
    packs = ("F", "I", "D", "L") if shape.has_wide else ("F", "I")
    text = _MASKS
    if shape.lanes == 1:
        return text + "".join(shape.fill(_SCALAR, A=pack, e=_ELEMENTS[pack][0]) for pack in packs)
    for pack in packs:
        text += "".join(_reduction(shape, pack, op) for op in _COMBINE) + _scans(shape, pack)
    return text + _transposes(shape)


def _reduction(shape: Shape, pack: str, op: str) -> str:
    """Halves, each as wide as its lanes need. Extrema of floats are NaN where a lane is."""
    element = _ELEMENTS[pack][0]
    checks_nan = pack in "FD" and op in ("min", "max")
    lines = [f"{element} {'tree_' if checks_nan else 'h'}{op}_{pack}({pack} x) {{"]
    name, n = "x", shape.lanes
    while n > 2:
        n //= 2
        low, high = _pick(name, name, cases(n)), _pick(name, name, cases(n, n))
        lines.append(f"  auto a{n} = {low}, b{n} = {high};")
        lines.append(f"  auto c{n} = {_COMBINE[op].format(a=f'a{n}', b=f'b{n}')};")
        name = f"c{n}"
    lines.append(f"  {element} p = {name}[0], q = {name}[1];")
    lines.append(f"  return {_COMBINE[op].format(a='p', b='q')};\n}}\n")
    text = "\n".join(lines)
    if checks_nan:
        text += shape.fill(_NAN, A=pack, e=element, o=op, f="f" if pack == "F" else "")
    return text


def _scans(shape: Shape, pack: str) -> str:
    steps = {
        "add": ("{x} + {y}", "0"),
        "mul": ("{x} * {y}", "1"),
        "min": (f"min_{pack}({{x}}, {{y}})", _MOST[pack]),
        "max": (f"max_{pack}({{x}}, {{y}})", _LEAST[pack]),
    }
    text = ""
    for op, (combine, identity) in steps.items():
        lines = [f"{pack} scan_{op}_{pack}({pack} x) {{", f"  {pack} e = sp_{pack}({identity});"]
        distance = 1
        while distance < shape.lanes:
            shifted = ", ".join(str(i - distance if i >= distance else shape.lanes) for i in range(shape.lanes))
            lines.append(f"  x = {combine.format(x='x', y=_pick('x', 'e', shifted))};")
            distance *= 2
        text += "\n".join([*lines, "  return x;\n}\n"])
    return text


def _transposes(shape: Shape) -> str:
    """N rows of N lanes for each element size at which a row fills whole 16-byte blocks."""
    sizes = {pack: size for pack, (_, size) in _ELEMENTS.items() if size == 4 or shape.has_wide}
    sizes.update({pack: size for pack, size in (("H", 2), ("B", 1)) if shape.lanes * size >= 16})
    return "".join(_transpose(shape.lanes, pack, size) for pack, size in sizes.items())


def _transpose(lanes: int, pack: str, size: int) -> str:
    """Zips transpose square blocks of 16 bytes a side; whole 16-byte blocks then change places.

    After k stages `groups[g][c]` holds, of 2^k rows from row g 2^k on, the c-th share of the columns.
    """
    per_block = 16 // size
    helpers: list[str] = []
    lines = [f"void transpose_{pack}({pack}* r) {{"]
    groups = [[f"r[{i}]"] for i in range(lanes)]
    for stage in range(lanes.bit_length() - 1):
        width = 1 << stage
        functions = (f"zip_low{width}_{pack}", f"zip_high{width}_{pack}")
        for half, function in enumerate(functions):
            picks = _zip(lanes, per_block, width, half) if width < per_block else _blocks(lanes, per_block, half)
            helpers.append(f"{pack} {function}({pack} a, {pack} b) {{ return {_pick('a', 'b', picks)}; }}")
        merged: list[list[str]] = []
        for g, (top, bottom) in enumerate(zip(groups[::2], groups[1::2], strict=True)):
            calls = [f"{f}({x}, {y})" for x, y in zip(top, bottom, strict=True) for f in functions]
            merged.append([f"t{stage}_{g}_{c}" for c in range(len(calls))])
            lines += [f"  {pack} {name} = {call};" for name, call in zip(merged[g], calls, strict=True)]
        groups = merged
    lines += [f"  r[{c}] = {name};" for c, name in zip(_column_order(lanes, per_block), groups[0], strict=True)]
    return "\n".join([*helpers, *lines, "}\n"])


def _zip(lanes: int, per_block: int, width: int, half: int) -> str:
    """Within each 16-byte block: alternate runs of `width` lanes of the block's low (0) or high (1) half."""
    picks: list[int] = []
    for block in range(0, lanes, per_block):
        start = block + half * per_block // 2
        for run in range(start, start + per_block // 2, width):
            picks += [*range(run, run + width), *range(lanes + run, lanes + run + width)]
    return ", ".join(map(str, picks))


def _blocks(lanes: int, per_block: int, odd: int) -> str:
    """The even (or odd) 16-byte blocks of a, then those of b."""
    starts = range(odd * per_block, lanes, 2 * per_block)
    return ", ".join(str(base + start + i) for base in (0, lanes) for start in starts for i in range(per_block))


def _column_order(lanes: int, per_block: int) -> list[int]:
    """The column that each last result holds: zips split a block's columns in halves, then blocks go by parity."""
    sizes = [1 << k for k in range(lanes.bit_length() - 1)]
    order = [0]
    for step in [s for s in reversed(sizes) if s < per_block] + [s for s in sizes if s >= per_block]:
        order = [column + bit * step for column in order for bit in (0, 1)]
    return order


def _pick(a: str, b: str, lanes: str) -> str:
    return f"__builtin_shufflevector({a}, {b}, {lanes})"
