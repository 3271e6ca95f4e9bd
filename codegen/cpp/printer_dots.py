"""Sums of narrow products as instructions: s + (a0 * b0 + a1 * b1) of bf16, s + (a0 * b0 + .. + a3 * b3) of bytes.

The elements of an operand are one word a lane. They are loaded as such where they are neighbours in memory, else put
together from packs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...ir.expr import Const, Expr, Load, Op, Rewriter, const, data_in
from ...ir.index import Axis, Index, axes_of
from ...ir.tiles import Put
from ...ir.types import BF16, F32, I8, I32, U8, DType
from ..fields import Field, find_field
from ..products.bits import Bit, find_bit, find_planes, steps_by
from ..products.fields import DIGITS, Lookup, find_byte, find_lookup
from ..products.find import is_exact
from ..ranges import fits_in, value_range
from ..text import strip
from .printer_memory import Memory, Place
from .printer_scope import Val, names_in

if TYPE_CHECKING:
    from .printer_values import Values

COUNTS = {BF16: 2, I8: 4, U8: 4}  # elements of a word
ONE, ONES = const(1.0, F32), "0x3f803f80"  # a word of two bf16
SHIFT = const(128, I32)  # added to signed bytes, it makes them unsigned


class Dots:
    """Prints sums of products, and stores of words; `pairs` and `quads`: which instructions there are."""

    def __init__(self, values: Values, memory: Memory, pairs: bool, quads: bool) -> None:
        self.values = values
        self.memory = memory
        self.stack = values.stack
        self.count = {F32: 2 if pairs else 0, I32: 4 if quads else 0}

    def sum(self, e: Op) -> Val | None:
        """`e` as one instruction; None where it is none."""
        count = self.count.get(e.dtype, 0)
        if not count or self.stack.lanes is None or not self.stack.varies(e):
            return None
        terms = _terms(e.args[1])
        sides = _sides(terms) if len(terms) == count else None
        if sides is None:
            return None
        if e.dtype is F32:
            words = [self._pair(side) for side in sides]
            function, pack = "dot_pairs_F", "F"
        else:
            words = self._quads(*sides)
            function, pack = "dot_quads_I", "I"
        if any(w is None for w in words):
            return None
        start = self.values.to(self.values.value(e.args[0]), pack, single=False)
        texts = ", ".join(w.text for w in words if w is not None)
        return Val(f"{self.values.need(function)}({strip(start)}, {texts})", pack, False)

    def stores(self, body: Sequence[object], k: int) -> int:
        """Prints the stores from `body[k]` that fill a word, as one; how many those are."""
        first = body[k]
        if not isinstance(first, Put) or self.stack.lanes is None or first.guard is not None:
            return 0
        place = self.memory.places[first.target]
        dtype = next((d for d in COUNTS if d.name == place.storage), None)
        count = 0 if dtype is None else COUNTS[dtype]
        group = [s for s in body[k : k + count] if isinstance(s, Put) and s.target == first.target and s.guard is None]
        if dtype is None or not self.count[dtype.compute] or len(group) < count:
            return 0
        flats = [self.memory.flat(s.index, place) for s in group]
        if not self._are_neighbours(flats) or self.memory.split(flats[0])[1] == 0:
            return 0
        word = self._computed([_wide(s.value) for s in group], dtype)
        self._store(place, flats[0], word)
        self.stack.forget(first.target)
        return count

    # --- words ---------------------------------------------------------------------------------------------------

    def _pair(self, side: list[Expr]) -> Val | None:
        if all(e is ONE for e in side):
            return Val(f"{self.values.need('sp_I')}({ONES})", "I", False)
        if not all(isinstance(e, Op) and e.name == "cast" and e.args[0].dtype is BF16 for e in side):
            return None
        return self._kept(side, BF16)

    def _quads(self, a: list[Expr], b: list[Expr]) -> list[Val | None]:
        """The words of the unsigned side, and those of the signed one."""
        for unsigned, signed in ((a, b), (b, a)):
            if all(fits_in(e, U8) for e in unsigned) and all(fits_in(e, I8) for e in signed):
                return [self._kept(unsigned, U8), self._kept(signed, I8)]
        return [None]

    def _kept(self, side: list[Expr], dtype: DType) -> Val:
        """The words of a side: made once in the lanes loop."""
        key = ("word", dtype.kind, *side)
        found = self.stack.find(key, self.stack.depth)
        if found is None:
            word = self._word(side, dtype)
            found = self.values.name(Val(self.values.to(word, "I", single=False), "I", False), "w", self.stack.depth)
            self.stack.keep(key, found, self.stack.depth, frozenset().union(*map(names_in, side)))
        return found

    def _word(self, side: list[Expr], dtype: DType) -> Val:
        if all(e is side[0] and isinstance(e, Const) for e in side):
            byte = int(side[0].value) & 255 if isinstance(side[0], Const) else 0
            return Val(f"0x{byte:02x}{byte:02x}{byte:02x}{byte:02x}", "I")
        plain = [e.args[0] for e in side if isinstance(e, Op) and e.name == "add" and e.args[1] is SHIFT]
        if len(plain) == len(side):
            loaded = self._loaded(plain)
            if loaded is not None:
                return Val(f"({loaded.text} ^ 0x80808080)", "I", loaded.single)
        loaded = self._loaded(side)
        return self._computed(side, dtype) if loaded is None else loaded

    def _loaded(self, side: list[Expr]) -> Val | None:
        """The words as they stand in memory."""
        loads = [e.args[0] for e in side if isinstance(e, Op) and e.name == "cast" and isinstance(e.args[0], Load)]
        parts = [e for e in loads if isinstance(e, Load) and e.guard is None and e.name not in self.stack.bound]
        if len(parts) < len(side) or any(e.name != parts[0].name or e.dtype not in COUNTS for e in parts):
            return None
        place = self.memory.places[parts[0].name]
        flats = [self.memory.flat(e.index, place) for e in parts]
        if place.storage != parts[0].dtype.name or not self._are_neighbours(flats):
            return None
        address = self.memory.address(place, flats[0], names_in(parts[0]))
        if address.stride == 0:
            return Val(f"*(const word4u*)({address.pointer})", "I")
        self.memory.prefetch_ahead(replace(address, stride=1), parts[0])
        pointer = address.pointer
        suffix, rest = self._rest()
        return Val(f"{self.values.need(f'ld_i32{suffix}')}((i32*)({pointer}){rest})", "I", False)

    def _computed(self, side: list[Expr], dtype: DType) -> Val:
        """The words of values that are computed: rounded to bf16, or integers that fit bytes."""
        if dtype is BF16:
            wide = [_unrounded(e) for e in side]
            looked = self._looked_up(wide)
            if looked is not None:
                return looked
            exact = all(is_exact(e) for e in wide)
            texts = [strip(self.values.to(self.values.value(e), "F", single=False)) for e in wide]
            return Val(f"{self.values.need('pair_exact_F' if exact else 'pair_F')}({', '.join(texts)})", "I", False)
        texts = [strip(self.values.to(self.values.value(e), "I", single=False)) for e in side]
        return Val(f"{self.values.need('quad_I')}({', '.join(texts)})", "I", False)

    def _looked_up(self, side: list[Expr]) -> Val | None:
        """Two bf16 that are functions of 4 bits each, from a table in a register; None where they are not."""
        known = self._looked_up_bytes(side) or self._looked_up_planes(side)
        if known is not None:
            return known
        found = [d for d in map(find_lookup, side) if d is not None]
        digits = [d.digit for d in found]
        if len(found) < 2 or self.values.lanes != 16 or not all(self.stack.varies(d) for d in digits):
            return None
        same = found[0].entries == found[1].entries
        fields = [f for f in map(find_field, digits) if f is not None]
        word = self._field_word(fields) if same else None
        states = 1 << fields[0].bits if word is not None else DIGITS
        if found[0].base is not None:
            table = self._table_in_memory(found[0], states) if same else None
        else:
            words = [w for d in found for w in d.words[:states] * (DIGITS // states)]
            table = self._table(words) if len(words) == 2 * DIGITS else None
        if table is None:
            return None
        if word is not None:
            return Val(f"{self.values.need('lookup_fields_I')}({table.text}, {word.text})", "I", False)
        byte = _byte_of(digits) if same else None
        parts = digits if byte is None else [byte]
        index = ", ".join(strip(self.values.to(self.values.value(d), "I", single=False)) for d in parts)
        function = self.values.need("lookup_I" if byte is None else "lookup_nibbles_I")
        return Val(f"{function}({table.text}, {index})", "I", False)

    def _looked_up_planes(self, side: list[Expr]) -> Val | None:
        """Two bf16 that are the same function of some bits: one mask of memory for a bit of all words."""
        lanes, found = self.stack.lanes, [p for p in map(find_planes, side) if p is not None]
        if self.values.lanes != 16 or lanes is None or not lanes.aligned or len(found) < 2:
            return None
        first, other = found
        same = first.words == other.words and len(first.bits) == len(other.bits)
        if not same or (first.entry and first.entry.entries) != (other.entry and other.entry.entries):
            return None
        bits = [
            (find_bit(a), find_bit(b), steps_by(a, lanes.axis)) for a, b in zip(first.bits, other.bits, strict=True)
        ]
        here = Rewriter()
        if any(a is None or b is None or step != 2 or a.place(here) + 1 != b.place(here) for a, b, step in bits):
            return None
        states = 1 << len(bits)
        if first.entry is None:
            words = list(first.words) * max(1, 2 * DIGITS // states)
            tables = [self._table(words[k : k + 2 * DIGITS]) for k in range(0, len(words), 2 * DIGITS)]
        else:
            table = self._table_in_memory(first.entry, states)
            tables = [] if table is None else [table]
        word = "I{}"
        for k, bit in enumerate(map(find_bit, first.bits)):
            pointer = None if bit is None else self._bits_at(bit)
            if pointer is None or not tables:
                return None
            suffix, rest = self._rest()
            word = f"{self.values.need(f'add_bits_I{suffix}')}({word}, {pointer}{rest}, {1 << k})"
        function = self.values.need("lookup_fields_I" if len(tables) == 1 else f"lookup_{len(bits)}_I")
        return Val(f"{function}({', '.join(t.text for t in tables)}, {word})", "I", False)

    def _bits_at(self, bit: Bit) -> str | None:
        """The address of the byte whose lowest bit is that of the first lane."""
        if bit.byte.name not in self.memory.buffers:
            return None
        place = self.memory.places[bit.byte.name]
        return self.memory.pointer_to(bit.byte.name, self.memory.flat(bit.byte.index, place))

    def bit(self, e: Expr) -> Val | None:
        """Single bits of memory, one for each lane; None where an expression is something else."""
        lanes, bit = self.stack.lanes, find_bit(e)
        if bit is None or lanes is None or not lanes.aligned or self.values.lanes % 8:
            return None
        pointer = self._bits_at(bit) if steps_by(e, lanes.axis) == 1 else None
        if pointer is None:
            return None
        suffix, rest = self._rest()
        return Val(f"{self.values.need(f'bits_I{suffix}')}({pointer}{rest})", "I", False)

    def _looked_up_bytes(self, side: list[Expr]) -> Val | None:
        """Two bf16 that are odd functions of neighbouring bytes, from a table in four registers."""
        lanes = self.stack.lanes
        if self.values.lanes != 16 or lanes is None or lanes.n is not None:
            return None
        found = [f for f in map(find_byte, side) if f is not None]
        if len(found) < 2 or len({(byte.name, words) for byte, words in found}) > 1:
            return None
        byte, words = found[0]
        if byte.name not in self.memory.buffers:
            return None
        place = self.memory.places[byte.name]
        flats = [self.memory.flat(b.index, place) for b, _ in found]
        if not self._are_neighbours(flats) or self.memory.split(flats[0])[1] == 0:
            return None
        tables = [self._table(list(words[k : k + 2 * DIGITS])).text for k in range(0, len(words), 2 * DIGITS)]
        address = self.memory.address(place, flats[0], names_in(byte))
        self.memory.prefetch_ahead(replace(address, stride=1), byte)
        text = f"{self.values.need('lookup_bytes_I')}({', '.join(tables)}, {address.pointer})"
        return Val(text, "I", False)

    def _table_in_memory(self, found: Lookup, states: int) -> Val | None:
        """A register of the entries of a table, rounded to bf16, in the outermost loop that knows where they are."""
        assert found.table is not None and found.base is not None
        name, base = found.table.name, found.base
        storage = self.memory.places[name].storage
        if self.stack.index_varies(base) or name not in self.memory.buffers or storage not in ("f32", "bf16", "f16"):
            return None
        high = value_range(found.digit)
        assert high is not None
        key, level = ("table", name, base, states), self._level(base)
        table = self.stack.find(key, level)
        if table is None:
            held = f"{self.values.need(f'ld_{storage}_n')}({self.memory.pointer_to(name, base)}, {high[1] + 1})"
            order = ", ".join(str(k % states) for k in range(DIGITS))
            self.values.needs.add((self.values.lanes, "I"))
            text = f"{self.values.need('table_F')}({held}, I{{{order}}})"
            table = self.values.name(Val(text, "I", False), "table", level)
            self.stack.keep(key, table, level, frozenset({name}))
        return table

    def _level(self, index: Index) -> int:
        return max((self.stack.level_of_axis(a) for a in axes_of(index)), default=0)

    def _table(self, words: list[int]) -> Val:
        """A register of 32 words of 16 bits, at the kernel's beginning."""
        pairs = ", ".join(f"{words[k] | words[k + 1] << 16:#010x}" for k in range(0, len(words), 2))
        table = self.stack.find(("table", pairs), 0)
        if table is None:
            name = self.stack.fresh("table", 0)
            self.values.needs.add((self.values.lanes, "I"))
            self.values.needs.add((self.values.lanes, "U"))
            self.stack.emit(f"const I {name} = (I)U{{{pairs}}};", 0)
            table = Val(name, "I", False)
            self.stack.keep(("table", pairs), table, 0, frozenset())
        return table

    def _field_word(self, fields: list[Field]) -> Val | None:
        """Words whose halves end in the bits of two fields that lie 2 bytes apart; None where they do not."""
        if len(fields) < 2 or len({(f.byte.name, f.low, f.bits) for f in fields}) > 1 or fields[0].bits > 4:
            return None
        first = fields[0].byte
        if any(f.byte.guard is not None or f.byte.name not in self.memory.buffers for f in fields):
            return None
        place = self.memory.places[first.name]
        flats = [self.memory.flat(f.byte.index, place) for f in fields]
        behind = flats[0].const % 2 if isinstance(flats[0].const, int) else 0
        base = flats[0] - behind
        _, stride, varying = self.memory.split(base)
        if flats[0] + 2 != flats[1] or stride != 4 or varying or any(list(data_in(i)) for i in flats):
            return None
        key = ("fields", first.name, base)
        word = self.stack.find(key, self.stack.depth)
        if word is None:
            address = self.memory.address(place, base, names_in(first))
            self.memory.prefetch_ahead(replace(address, stride=1), first)
            suffix, rest = self._rest()
            call = f"{self.values.need(f'ld_i32{suffix}')}((i32*)({address.pointer}){rest})"
            word = self.values.name(Val(call, "I", False), "w", self.stack.depth)
            self.stack.keep(key, word, self.stack.depth, names_in(first))
        shift = 8 * behind + fields[0].low
        return Val(f"{word.text} >> {shift}", "I", False) if shift else word

    def _store(self, place: Place, index: Index, word: Val) -> None:
        pointer = self.memory.address(place, index, frozenset()).pointer
        suffix, rest = self._rest()
        call = self.values.need(f"st_i32{suffix}")
        self.stack.emit(f"{call}((i32*)({pointer}), {strip(word.text)}{rest});")

    def _rest(self) -> tuple[str, str]:
        """The suffix of loads and stores at this loop's end, and the argument they take then."""
        lanes = self.stack.lanes
        assert lanes is not None
        return ("", "") if lanes.n is None else ("_n", f", {lanes.n}")

    def _are_neighbours(self, flats: list[Index]) -> bool:
        """True for elements side by side, which are the same for all lanes, or behind which are those of the next."""
        if any(list(data_in(i)) for i in flats) or any(flats[0] + k != i for k, i in enumerate(flats)):
            return False
        _, stride, varying = self.memory.split(flats[0])
        return stride in (0, len(flats)) and not varying


def _are_pairs(a: Expr, b: Expr, lanes: Axis) -> bool:
    """True where two bits are neighbours, and behind them are those of the next lane."""
    first, other, here = find_bit(a), find_bit(b), Rewriter()
    if first is None or other is None or first.byte.name != other.byte.name:
        return False
    return steps_by(a, lanes) == 2 and first.place(here) + 1 == other.place(here)


def _byte_of(digits: list[Expr]) -> Expr | None:
    """The byte of which two digits are the lower and the upper half; None where they are something else."""
    low, high = digits
    if not (isinstance(low, Op) and isinstance(high, Op) and low.name == "and" and high.name == "shr"):
        return None
    byte, mask, shift = low.args[0], low.args[1], high.args[1]
    halves = isinstance(mask, Const) and isinstance(shift, Const) and (mask.value, shift.value) == (DIGITS - 1, 4)
    return byte if halves and byte is high.args[0] and fits_in(byte, U8) else None


def _terms(e: Expr) -> list[Expr]:
    """What is added up from left to right."""
    if isinstance(e, Op) and e.name == "add":
        return [*_terms(e.args[0]), e.args[1]]
    return [e]


def _sides(terms: list[Expr]) -> tuple[list[Expr], list[Expr]] | None:
    products = [t for t in terms if isinstance(t, Op) and t.name == "mul"]
    if len(products) < len(terms):
        return None
    return [t.args[0] for t in products], [t.args[1] for t in products]


def _wide(e: Expr) -> Expr:
    """A value that is stored narrow, before its conversion."""
    return e.args[0] if isinstance(e, Op) and e.name == "cast" and e.args[0].dtype is e.dtype.compute else e


def _unrounded(e: Expr) -> Expr:
    """The f32 value of which a side is the bf16: itself, where there is no such thing."""
    inner = e.args[0] if isinstance(e, Op) and e.name == "cast" and e.dtype is F32 else e
    rounded = isinstance(inner, Op) and inner.name == "cast" and inner.dtype is BF16
    return inner.args[0] if rounded and isinstance(inner, Op) and inner.args[0].dtype is F32 else e
