"""Loads, stores and their addresses in C++.

An address is a pointer that is moved once per loop level, plus a distance along the lanes: none (one value for all),
1 (neighbours), a constant stride, or a pack of offsets (a gather).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...ir.expr import Expr, Load, data_in
from ...ir.index import Axis, Data, Div, Index, Mod, axes_of, axis_coefficient, linearize
from ...ir.tiles import Program, Put, Scratch
from ...ir.types import I16, Dim, DType, contiguous_strides, plus
from ..dims import print_dim
from ..ranges import fits_32, index_fits_32, is_within
from .ahead import Ask
from .prelude_strided import STORAGE as EVERY_OTHER
from .printer_names import identifier
from .printer_scope import Stack, Val, names_in, names_in_index
from .width import PACKS

if TYPE_CHECKING:
    from .printer_values import Values

STORAGE = {"bool": "b8"}
LINE = 64  # bytes of a cache line
BYTES = {
    "b8": 1, "i8": 1, "u8": 1, "i16": 2, "f16": 2, "bf16": 2, "i32": 4, "f32": 4, "i64": 8, "f64": 8,
}  # fmt: skip
SCRATCH = {"F": "f32", "D": "f64", "I": "i32", "L": "i64", "M": "b8"}


def storage_of(s: Scratch) -> str:
    """How the elements of a scratch array are stored."""
    return STORAGE.get(s.dtype.name, s.dtype.name) if s.narrow else SCRATCH[PACKS[s.dtype.name]]


@dataclass(frozen=True, slots=True)
class Place:
    """An array: its C++ name, storage type, strides of its indices, and the conversion that accesses need."""

    name: str
    storage: str
    strides: tuple[Dim, ...]
    cast: str = ""

    def at(self, pointer: str) -> str:
        """An address as an argument of loads and stores."""
        return f"{self.cast}({pointer})" if self.cast else pointer


@dataclass(frozen=True, slots=True)
class Address:
    """`pointer` is at the first lane; the others follow at `stride`, or stand at `offsets` (a pack I or L) from it."""

    pointer: str
    stride: Dim
    offsets: Val | None = None


class Memory:
    """Prints accesses. `checks` are the data indices that the kernel tests, in the order of its error codes."""

    def __init__(self, program: Program, stack: Stack, values: Values) -> None:
        self.stack = stack
        self.values = values
        self.prefetch = program.prefetch
        self.asked: frozenset[str] = frozenset()  # buffers whose next rows are asked for, and nothing else of them
        self.buffers = {b.name for b in (*program.inputs, *program.outputs)}
        self.checks: list[str] = []
        self.places: dict[str, Place] = {}
        for b in (*program.inputs, *program.outputs):
            if b.name not in self.places:
                storage = STORAGE.get(b.dtype.name, b.dtype.name)
                self.places[b.name] = Place(identifier(b.name, stack.taken), storage, (1,))
        for s in program.scratch:
            storage = storage_of(s)
            self.places[s.name] = Place(identifier(s.name, stack.taken), storage, contiguous_strides(s.shape))
        self.places_by_name = {place.name: place.storage for place in self.places.values()}

    def place_of(self, name: str, dtype: DType) -> Place:
        """The array as it is accessed for values of a type: 16-bit floats that are only moved are taken as integers."""
        place = self.places[name]
        return replace(place, storage="i16", cast="(i16*)") if self.moves_bits(name, dtype) else place

    def moves_bits(self, name: str, dtype: DType) -> bool:
        return dtype is I16 and self.places[name].storage in ("bf16", "f16")

    # --- loads ---------------------------------------------------------------------------------------------------

    def load(self, e: Load) -> Val:
        place, pack = self.place_of(e.name, e.dtype), PACKS[e.dtype.name]
        index = self.flat(e.index, place)
        self.check(index, e.guard)
        repeated = None if e.guard is not None or place.cast else self._load_repeated(place, pack, index)
        if repeated is not None:
            return repeated
        guard = None if e.guard is None else self.values.value(e.guard)
        address = self.address(place, index, names_in(e))
        if address.stride == 0 and address.offsets is None:
            return self._load_single(place, pack, address.pointer, guard)
        branch = guard if guard is not None and guard.single else None
        suffix, arguments = self._way(address, None if branch else guard)
        if address.stride == 2 and address.offsets is None and self.values.lanes > 1 and place.storage in EVERY_OTHER:
            suffix, arguments = self._way_of_every_other(None if branch else guard)
        call = self.values.need(f"ld_{place.storage}{suffix}")
        self.prefetch_ahead(address, e)
        text = f"{call}({', '.join([place.at(address.pointer), *arguments])})"
        if branch is not None:
            text = f"({branch.text} ? {text} : {self.values.to(Val('0', pack), pack, single=False)})"
        return Val(text, pack, False)

    def _load_repeated(self, place: Place, pack: str, index: Index) -> Val | None:
        """Few elements, each for several neighbouring lanes: x[c // 8]."""
        lanes, n = self.stack.lanes, self.values.lanes
        _, stride, varying = self.split(index)
        if lanes is None or not lanes.aligned or pack not in ("F", "I") or stride != 0 or len(varying) != 1:
            return None
        ((atom, step),) = varying
        if step != 1 or not isinstance(atom, Div) or not isinstance(atom.by, int) or n % atom.by:
            return None
        if atom.index.single_axis is not lanes.axis:
            return None
        by = atom.by
        count = f"{n // by}" if lanes.n is None else f"({lanes.n} + {by - 1}) / {by}"
        few = f"{self.values.need(f'ld_{place.storage}_n')}({self._pointer(place, index)}, {count})"
        return Val(f"{self.values.need(f'repeat_{pack}')}({few}, {by.bit_length() - 1})", pack, False)

    def _load_single(self, place: Place, pack: str, pointer: str, guard: Val | None) -> Val:
        text = self._read_one(place, pointer)
        if guard is None:
            return Val(text, pack)
        if guard.single:
            zero = {"F": "0.0f", "D": "0.0", "M": "false"}.get(pack, "0")
            return Val(f"({guard.text} ? {text} : {zero})", pack)
        # one element for all lanes, of which some do not read it
        self.values.need("any_M")
        value = Val(f"(any_M({guard.text}) ? {text} : 0)", pack)
        zero = self.values.to(Val("0", pack), pack, single=False)
        sel = self.values.need(f"sel_{pack}")
        return Val(f"{sel}({guard.text}, {self.values.to(value, pack, single=False)}, {zero})", pack, False)

    def _read_one(self, place: Place, pointer: str) -> str:
        if place.storage in ("bf16", "f16"):
            return f"{self.values.need(f'ld_{place.storage}', single=True)}({pointer})"
        if place.cast:
            return f"*{place.at(pointer)}"
        text = element(pointer)
        return f"({text} != 0)" if place.storage == "b8" else text

    def prefetch_ahead(self, address: Address, e: Load) -> None:
        """Asks for what a later tile will load; not for rows that every outer point reads again, nor for scratch."""
        lanes = self.stack.lanes
        if (
            not self.prefetch
            or lanes is None
            or lanes.n is not None
            or address.stride != 1
            or e.name not in self.buffers
            or e.name in self.asked
        ):
            return
        around = {a for scope in self.stack.scopes for a in scope.axes if not a.name.startswith(lanes.axis.name)}
        if around and not around & e.axes:
            return
        self.stack.emit(f"__builtin_prefetch((const char*)({address.pointer}) + {self.prefetch});")

    def ask(self, ask: Ask) -> None:
        """Asks for what this worker will touch after this pass."""
        place = self.places[ask.buffer]
        pointer = self.address(place, ask.index, names_in_index(ask.index)).pointer
        lanes, packs = self.stack.lanes, self.packs_of_line(place.storage)
        once = f"if (u % {packs} == 0) " if lanes is not None and lanes.packs > 1 and packs > 1 else ""
        self.stack.emit(f"{once}__builtin_prefetch({pointer}{', 1' if ask.writes else ''});")

    # --- stores --------------------------------------------------------------------------------------------------

    def put(self, s: Put, value: Val, streams: str | None = None) -> None:
        """Prints a store; `streams` is the condition under which it bypasses the caches."""
        place = self.place_of(s.target, s.value.dtype)
        index = self.flat(s.index, place)
        self.check(index, s.guard)
        guard = None if s.guard is None else self.values.value(s.guard)
        names = names_in_index(index) | {s.target}
        address = self.address(place, index, names)
        if address.stride == 0 and address.offsets is None:
            self._put_single(place, address.pointer, value, guard)
        else:
            suffix, arguments = self._way(address, guard)
            call = self.values.need(f"st_{place.storage}{suffix}")
            pack = {"f32": "F", "bf16": "F", "f16": "F", "f64": "D", "i64": "L", "b8": "M"}.get(place.storage, "I")
            text = self.values.to(value, pack, single=False)
            line = f"{call}({', '.join([place.at(address.pointer), text, *arguments])});"
            if streams not in (None, "true") and not text.isidentifier():
                self.values.need(pack)
                text = self.values.name(Val(text, pack, False), "v", self.stack.depth).text
                line = f"{call}({', '.join([place.at(address.pointer), text, *arguments])});"
            if streams is not None:
                line = self._stream(place, place.at(address.pointer), text, pack, streams)
            self.stack.emit(line)
        self.stack.forget(s.target)

    def _stream(self, place: Place, pointer: str, text: str, pack: str, condition: str) -> str:
        """A store around the caches. Parts of a cache line wait until the line is whole: parts alone are slow."""
        lanes = self.stack.lanes
        assert lanes is not None
        value = text
        if self.packs_of_line(place.storage) > 1:
            value = self.stack.fresh(f"{place.name}_line")
            self.values.need(pack)
            lanes.lines.append(f"{pack} {value}[{lanes.packs}];")
            value = f"{value}[u]"
        store = f"{self.values.need(f'st_{place.storage}_nt')}({pointer}, {value});"
        if condition != "true":
            plain = f"{self.values.need(f'st_{place.storage}')}({pointer}, {value});"
            store = f"if ({condition}) {store} else {plain}"
        if value == text:
            return store
        lanes.deferred.append(store)
        return f"{value} = {text};"

    def packs_of_line(self, storage: str) -> int:
        """Packs that fill a cache line."""
        return max(1, LINE // (self._bytes(storage) * self.values.lanes))

    def _put_single(self, place: Place, pointer: str, value: Val, guard: Val | None) -> None:
        if not value.single:
            raise AssertionError("lanes collide in one element")
        prefix = "" if guard is None else f"if ({guard.text}) "
        if place.storage in ("bf16", "f16"):
            call = self.values.need(f"st_{place.storage}", single=True)
            self.stack.emit(f"{prefix}{call}({pointer}, {value.text});")
            return
        into = f"*{place.at(pointer)}" if place.cast else element(pointer)
        self.stack.emit(f"{prefix}{into} = {value.text};")

    def _way(self, address: Address, guard: Val | None) -> tuple[str, list[str]]:
        """(suffix, further arguments) of the prelude's load or store for an address under a guard, at this loop's
        end.
        """
        lanes = self.stack.lanes
        assert lanes is not None
        if address.offsets is not None:
            kind, mask = "_gi" if address.offsets.pack == "I" else "_g", self._mask(guard)
            return (kind, [address.offsets.text]) if mask is None else (f"{kind}m", [address.offsets.text, mask])
        if guard is not None and address.stride == 1:
            return "_m", [str(self._mask(guard))]
        if guard is not None:
            offsets = f"{self.values.need('iota_I')}() * {print_dim(address.stride)}"
            return "_gim", [offsets, str(self._mask(guard))]
        if address.stride == 1:
            return ("", []) if lanes.n is None else ("_n", [lanes.n])
        step = print_dim(address.stride)
        return ("_s", [step]) if lanes.n is None else ("_sn", [step, lanes.n])

    def _way_of_every_other(self, guard: Val | None) -> tuple[str, list[str]]:
        """The same for a load of every other element, which takes no distance."""
        lanes = self.stack.lanes
        assert lanes is not None
        if guard is not None:
            return "_2m", [str(self._mask(guard))]
        return ("_2", []) if lanes.n is None else ("_2n", [lanes.n])

    def _mask(self, guard: Val | None) -> str | None:
        """The lanes that are in the axis and pass the guard; None: all."""
        live = self.live()
        if guard is None:
            return live
        text = self.values.to(guard, "M", single=False)
        return text if live is None else f"{self.values.need('and_M')}({text}, {live})"

    def live(self) -> str | None:
        """The mask of lanes before the end of the axis; None in a full pack."""
        lanes = self.stack.lanes
        if lanes is None or lanes.n is None:
            return None
        found = self.stack.find("live", lanes.level)
        if found is None:
            found = self.values.name(
                Val(f"{self.values.need('first_n_M')}({lanes.n})", "M", False), "live", lanes.level
            )
            self.stack.keep("live", found, lanes.level, frozenset())
        return found.text

    def pointer_to(self, name: str, index: Index) -> str:
        """The address of one element."""
        return self._pointer(self.places[name], index)

    def size_of(self, name: str) -> int:
        """Bytes of an element."""
        return self._bytes(self.places[name].storage)

    def _bytes(self, storage: str) -> int:
        return BYTES[storage]

    # --- addresses -----------------------------------------------------------------------------------------------

    def flat(self, index: tuple[Index, ...], place: Place) -> Index:
        return linearize(index, place.strides)

    def address(self, place: Place, index: Index, names: frozenset[str]) -> Address:
        single, stride, varying = self.split(index)
        pointer = self._pointer(place, single)
        if not varying:
            return Address(pointer, stride)
        whole = Index(tuple(varying))
        narrow = index_fits_32(whole) and all(fits_32(d.value) for d in data_in(whole))
        pack = "I" if narrow else "L"
        parts = [self.values.varying_term(a, c, pack) for a, c in varying]
        if stride != 0:
            parts.append(f"{self.values.need(f'iota_{pack}')}() * {print_dim(stride)}")
        return Address(pointer, stride, Val(" + ".join(parts), pack, False))

    def split(self, i: Index) -> tuple[Index, Dim, list[tuple[object, Dim]]]:
        """(the index at the first lane, its step from lane to lane, terms that differ between lanes irregularly)."""
        lanes = self.stack.lanes
        if lanes is None:
            return i, 0, []
        single: list[tuple[object, Dim]] = []
        varying: list[tuple[object, Dim]] = []
        stride: Dim = 0
        for atom, c in i.terms:
            step = self._step(atom)
            if step is None:
                varying.append((atom, c))
                continue
            single.append((atom, c))
            stride = plus(stride, c if step else 0)
        return Index(tuple(single), i.const), stride, varying

    def _step(self, atom: object) -> int | None:
        """0 where the atom is one value for the lanes of a pack, 1 where it grows by one from lane to lane, else
        None.
        """
        lanes = self.stack.lanes
        assert lanes is not None
        if atom is lanes.axis:
            return 1
        if isinstance(atom, Data):
            return None if self.stack.varies(atom.value) else 0
        index = Index(((atom, 1),))
        if isinstance(atom, Axis) or not self.stack.index_varies(index):
            return 0
        assert isinstance(atom, Div | Mod)
        if any(self.stack.varies(d.value) for d in data_in(index)) or not self._is_aligned(atom):
            return None
        return 0 if isinstance(atom, Div) else 1

    def _is_aligned(self, atom: Div | Mod) -> bool:
        """True when no pack crosses a multiple of the divisor: it divides pack starts, and the pack divides it."""
        lanes, n = self.stack.lanes, self.values.lanes
        assert lanes is not None
        if (
            not lanes.aligned
            or not isinstance(atom.by, int)
            or atom.by % n
            or axis_coefficient(atom.index, lanes.axis) != 1
        ):
            return False
        rest = [c for a, c in atom.index.terms if a is not lanes.axis] + [atom.index.const]
        return all(isinstance(c, int) and c % n == 0 for c in rest)

    def _pointer(self, place: Place, index: Index) -> str:
        """The address at the first lane: what outer loops know is added there, once."""
        by_level: dict[int, list[tuple[object, Dim]]] = {}
        for atom, c in index.terms:
            by_level.setdefault(self._level(atom), []).append((atom, c))
        pointer, done = place.name, []
        const = index.const
        for level in sorted(by_level):
            if level >= self.values.here:
                rest = [t for t in index.terms if t not in done]
                return moved(pointer, self.values.index_text(Index(tuple(rest), const)))
            terms = by_level[level]
            done += terms
            part = Index(tuple(terms), const)
            key = ("pointer", place.name, tuple(done), index.const)
            found = self.stack.find(key, level)
            if found is None:
                name = self.stack.fresh(f"{place.name}_{'_'.join(self._axis_names(terms))}", level)
                storage = self.places_by_name[place.name]
                self.stack.emit(f"{storage}* const {name} = {moved(pointer, self.values.index_text(part))};", level)
                found = Val(name, "L")
                self.stack.keep(key, found, level, names_in_index(Index(tuple(done))))
            pointer, const = found.text, 0
        return pointer if const == 0 else moved(pointer, print_dim(const))

    def _axis_names(self, terms: list[tuple[object, Dim]]) -> list[str]:
        return [a.name if isinstance(a, Axis) else "at" for a, _ in terms]

    def _level(self, atom: object) -> int:

        level = max((self.stack.level_of_axis(a) for a in axes_of(Index(((atom, 1),)))), default=0)
        for d in data_in(Index(((atom, 1),))):
            level = max(level, self.stack.level_of(d.value))
        return level

    # --- data indices --------------------------------------------------------------------------------------------

    def data(self, atom: Data) -> Val:
        """An index read from data, negative ones counted from the end."""
        level = self.stack.level_of(atom.value)
        found = self.stack.find(atom, level)
        if found is not None:
            return found
        val = self.values.inline(atom.value, level)
        if val.single:
            val = Val(self.values.to(val, "L"), "L")
        name = self.stack.fresh("at", level)
        kind = self.values.type_of(val)
        self.stack.emit(f"{kind} {name} = {val.text};", level)
        if atom.wrap and not is_within(atom):
            self.stack.emit(self._wrap(name, val, atom), level)
        found = Val(name, val.pack, val.single)
        self.stack.keep(atom, found, level, names_in(atom.value))
        return found

    def _wrap(self, name: str, val: Val, atom: Data) -> str:
        size = print_dim(atom.size)
        if val.single:
            return f"if ({name} < 0) {name} += {size};"
        zero = self._zero(val.pack)
        sel, lt = self.values.need(f"sel_{val.pack}"), self.values.need(f"lt_{val.pack}")
        return f"{name} = {sel}({lt}({name}, {zero}), {name} + {self._size(atom, val.pack)}, {name});"

    def _zero(self, pack: str) -> str:
        return f"{self.values.need(f'sp_{pack}')}(0)"

    def _size(self, atom: Data, pack: str) -> str:
        """The size of the indexed dimension; a dynamic one is far below 2^31 where 32-bit indices reach it."""
        size = print_dim(atom.size)
        return size if pack == "L" or size.isdigit() else f"(i32){size}"

    def check(self, index: Index, guard: Expr | None) -> None:
        """Leaves the kernel with a code where an index read from data is out of range, before anything is accessed."""
        for atom in data_in(index):
            if not is_within(atom):
                self._check_atom(atom, guard)

    def _check_atom(self, atom: Data, guard: Expr | None) -> None:
        level = self.stack.level_of(atom.value)
        if guard is not None:
            level = max(level, self.stack.level_of(guard))
        key = ("check", atom, guard)
        if self.stack.find(key, level) is not None:
            return
        val = self.data(atom)
        if str(atom) not in self.checks:
            self.checks.append(str(atom))
        code = self.checks.index(str(atom)) + 1
        condition = None if guard is None else self.values.value(guard)
        self.stack.emit(f"if ({self._is_bad(atom, val, condition)}) return {code};", level)
        names = names_in(atom.value) if guard is None else names_in(atom.value) | names_in(guard)
        self.stack.keep(key, val, level, names)

    def _is_bad(self, atom: Data, val: Val, guard: Val | None) -> str:
        if val.single:
            bad = f"(unsigned long){val.text} >= (unsigned long){print_dim(atom.size)}"
            if guard is None:
                return bad
            passes = guard.text if guard.single else f"{self.values.need('any_M')}({guard.text})"
            return f"{passes} && {bad}"
        ge, lt, either = (self.values.need(f) for f in (f"ge_{val.pack}", f"lt_{val.pack}", "or_M"))
        limit = f"{self.values.need(f'sp_{val.pack}')}({self._size(atom, val.pack)})"
        bad = f"{either}({lt}({val.text}, {self._zero(val.pack)}), {ge}({val.text}, {limit}))"
        mask = self._mask(guard)
        if mask is not None:
            bad = f"{self.values.need('and_M')}({bad}, {mask})"
        return f"{self.values.need('any_M')}({bad})"


def moved(pointer: str, distance: str) -> str:
    """A pointer some elements further on."""
    return f"{pointer} - {distance[1:]}" if distance.startswith("-") else f"{pointer} + {distance}"


def element(pointer: str) -> str:
    """What a pointer points to."""
    base, _, rest = pointer.partition(" + ")
    if not base.isidentifier():
        return f"*({pointer})"
    return f"{base}[{rest or 0}]"
