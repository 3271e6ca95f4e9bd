"""Loads and stores of every storage type: whole, first n lanes, masked, strided, gathered.

A storage type moves as a raw kind (F I D L: as it is; H, B: 16 and 8 bits) and is decoded to its pack.
Lanes that are not loaded are zero, and their memory is not touched. Scattered lanes are written in order:
of several lanes with one address the last stays.
"""

from __future__ import annotations

from .prelude_base import Shape

_ELEMENT = {"F": "f32", "I": "i32", "D": "f64", "L": "i64", "H": "u16", "B": "u8"}
_WHOLE = """
$K get_$K(const $e* p) { return ($K)*(const ${K}u*)p; }
void put_$K($e* p, $K v) { *(${K}u*)p = v; }
"""
_STRIDED = """
$K get_${K}_s(const $e* p, long s) { return $K{$strided}; }
$K get_${K}_sn(const $e* p, long s, long n) {
  $e b[sizeof($K) / sizeof($e)] = {};
  for (long i = 0; i < n && i < $N; i++) b[i] = p[i * s];
  return get_$K(b);
}
void put_${K}_s($e* p, $K v, long s) { for (long i = 0; i < $N; i++) p[i * s] = v[i]; }
void put_${K}_sn($e* p, $K v, long s, long n) { for (long i = 0; i < n && i < $N; i++) p[i * s] = v[i]; }
"""
_SCATTER = """
void put_${K}_$g($e* p, $K v, $X idx) { for (int i = 0; i < $N; i++) p[idx[i]] = v[i]; }
void put_${K}_${g}m($e* p, $K v, $X idx, M m) { for (int i = 0; i < $N; i++) if (at_M(m, i)) p[idx[i]] = v[i]; }
"""
_GATHER = """
$K get_${K}_$g(const $e* p, $X idx) { return ($K)__builtin_ia32_$gather(${k}$K{}, ${c}p, ${x}idx, $all, sizeof($e)); }
$K get_${K}_${g}m(const $e* p, $X idx, M m) {
  return ($K)__builtin_ia32_$gather(${k}$K{}, ${c}p, ${x}idx, $mask, sizeof($e));
}
"""
_GATHER_LOOP = """
$K get_${K}_$g(const $e* p, $X idx) { return $K{$gathered}; }
$K get_${K}_${g}m(const $e* p, $X idx, M m) {
  $e b[sizeof($K) / sizeof($e)] = {};
  for (int i = 0; i < $N; i++) if (at_M(m, i)) b[i] = p[idx[i]];
  return get_$K(b);
}
"""

_CODECS = """
F dec_bf16(H v) { return (F)(low_u16(v) << 16); }
// to nearest even; NaN stays NaN
H enc_bf16(F x) {
  U u = (U)x;
  return pack_H(top_half_I(x, u + 0x7fff + (u >> 16 & 1)));
}
F rnd_bf16(F x) {
  U u = (U)x;
  return sel_F(ne_F(x, x), x, (F)(u + 0x7fff + (u >> 16 & 1) & 0xffff0000));
}
F rnd_f16(F x) { return dec_f16(enc_f16(x)); }
I wrap_i8(I v) { return v << 24 >> 24; }
I wrap_u8(I v) { return v & 255; }
I wrap_i16(I v) { return v << 16 >> 16; }
"""

VARIANTS: dict[str, tuple[str, str]] = {
    "": ("", ""),
    "_n": (", long n", ", n"),
    "_m": (", M m", ", m"),
    "_s": (", long s", ", s"),
    "_sn": (", long s, long n", ", s, n"),
    "_gi": (", I idx", ", idx"),
    "_gim": (", I idx, M m", ", idx, m"),
    "_g": (", L idx", ", idx"),
    "_gm": (", L idx, M m", ", idx, m"),
}
"""Suffix -> (parameters, arguments) after the pointer (and the value of a store)."""

STORAGE: dict[str, tuple[str, str, str, str]] = {
    "f32": ("F", "F", "", ""),
    "i32": ("I", "I", "", ""),
    "f64": ("D", "D", "", ""),
    "i64": ("L", "L", "", ""),
    "bf16": ("H", "F", "dec_bf16", "enc_bf16"),
    "f16": ("H", "F", "dec_f16", "enc_f16"),
    "i16": ("H", "I", "low_i16", "wrap_H"),
    "i8": ("B", "I", "low_i8", "wrap_B"),
    "u8": ("B", "I", "low_u8", "wrap_B"),
    "b8": ("B", "M", "dec_b8", "enc_b8"),
}
"""Storage type -> (raw kind, pack, raw to pack, pack to raw)."""


def memory_text(shape: Shape) -> str:
    """Definitions of ld_* and st_* for vector packs."""
    kinds = ["F", "I", "H", "B"] + (["D", "L"] if shape.has_wide else [])
    text = shape.fill(_CODECS) + "".join(_raw_text(shape, kind) for kind in kinds)
    return text + "".join(_typed_text(shape, name) for name, row in STORAGE.items() if row[0] in kinds)


def _raw_text(shape: Shape, kind: str) -> str:
    holes = {"K": kind, "e": _ELEMENT[kind]}
    text = shape.fill(_WHOLE, **holes) if kind not in "HB" else ""
    text += shape.fill(_STRIDED, strided=", ".join(f"p[{i} * s]" for i in range(shape.lanes)), **holes)
    for suffix, index in (("gi", "I"), ("g", "L")):
        if index == "L" and not shape.has_wide:
            continue
        text += shape.fill(_SCATTER, g=suffix, X=index, **holes)
        if kind in "HB":
            gathered = ", ".join(f"p[idx[{i}]]" for i in range(shape.lanes))
            text += shape.fill(_GATHER_LOOP, g=suffix, X=index, gathered=gathered, **holes)
        else:
            text += shape.fill(_GATHER, g=suffix, X=index, **holes, **_gather_holes(shape, kind, index))
    return text


def _gather_holes(shape: Shape, kind: str, index: str) -> dict[str, str]:
    """The instruction for `kind` elements at `index` offsets, and how it takes pointer, offsets and mask."""
    name = _gather_name(shape, kind, index)
    pointer = {"F": "float", "I": "int", "D": "double", "L": "long long"}[kind]
    zero = "(Q)" if kind == "L" else ""
    holes = {"gather": name, "x": "(Q)" if index == "L" else "", "k": zero, "c": f"(const {pointer}*)"}
    if shape.kind == "avx512":
        return {**holes, "all": "-1", "mask": "m"}
    lanes = "wide_M(m)" if kind in "DL" else "m"
    ones = "L{} - 1" if kind in "DL" else "I{} - 1"
    cast = "Q" if kind == "L" else kind
    return {**holes, "all": f"({cast})({ones})", "mask": f"({cast}){lanes}"}


def _gather_name(shape: Shape, kind: str, index: str) -> str:
    n, wide_element, wide_index = shape.lanes, kind in "DL", index == "L"
    suffix = {"F": "sf", "I": "si", "D": "df", "L": "di"}[kind]
    if shape.kind == "avx2":
        return f"gather{'d' if wide_index else 's'}iv{n}{suffix}" + ("256" if wide_index and not wide_element else "")
    widest = n * (8 if wide_element or wide_index else 4)
    count = 2 * n if wide_index and not wide_element else n
    return f"gather{'' if widest == 64 else '3'}{'d' if wide_index else 's'}iv{count}{suffix}"


def _typed_text(shape: Shape, storage: str) -> str:
    """ld_ and st_ of one storage type, each variant one line."""
    kind, pack, decode, encode = STORAGE[storage]
    cast = "" if storage in ("f32", "f64", "i32", "i64") else f"({{}}{_ELEMENT[kind]}*)"
    lines = []
    for suffix, (parameters, arguments) in VARIANTS.items():
        if "L idx" in parameters and not shape.has_wide:
            continue
        raw = f"get_{kind}{suffix}({cast.format('const ')}p{arguments})"
        value = f"{encode}(v)" if encode else "v"
        lines.append(f"{pack} ld_{storage}{suffix}(const {storage}* p{parameters}) {{ return {decode}({raw}); }}")
        lines.append(
            f"void st_{storage}{suffix}({storage}* p, {pack} v{parameters}) "
            f"{{ put_{kind}{suffix}({cast.format('')}p, {value}{arguments}); }}"
        )
    stream = f"put_{kind}_nt({cast.format('')}p, {f'{encode}(v)' if encode else 'v'})"
    lines.append(f"void st_{storage}_nt({storage}* p, {pack} v) {{ {stream}; }}")
    return "\n".join(lines) + "\n"
