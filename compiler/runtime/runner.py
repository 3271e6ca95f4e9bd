"""How Python calls the kernels of a segment: one function of C that reads the addresses of tensors and launches.

It is printed behind the kernels of every translation unit, needs no header of Python's, and is bound to a segment as
a builtin: a call of one small kernel costs a quarter of what packing pointers in Python and calling by ctypes does.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

RUNNER = "treadle_run"
NAME_OF_ADDRESS = sys.intern("data_ptr")

# The runner returns 0, or the code of the kernel that failed with 1 + the number of its launch in the upper 16 bits.
RUNNER_SOURCE = """\
// The few functions of Python's C interface that the runner needs.
struct Object;
extern "C" Object *PyObject_VectorcallMethod(Object *name, Object *const *args, unsigned long count, Object *names);
extern "C" Object *PyLong_FromLong(long value);
extern "C" void *PyLong_AsVoidPtr(Object *number);
extern "C" void Py_DecRef(Object *object);
extern "C" void *PyEval_SaveThread();
extern "C" void PyEval_RestoreThread(void *state);

// Runs the launches of one segment: code holds their number, then for each the function, its pointers, its sizes.
static int run_segment(const long *code, void *const *table) {
  typedef int (*Kernel)(void *const *, const long *, char *, long);
  const long threads = (long)table[2] < (long)table[1] ? (long)table[2] : (long)table[1];
  const long launches = *code++;
  for (long launch = 0; launch < launches; ++launch) {
    Kernel kernel = (Kernel)*code++;
    const long count = *code++;
    void *pointers[count + 1];
    for (long k = 0; k < count; ++k) pointers[k] = table[*code++];
    const long dims = *code++;
    long sizes[dims + 1];
    for (long k = 0; k < dims; ++k) sizes[k] = (long)table[*code++];
    if (const int bad = kernel(pointers, sizes, (char *)table[0], threads)) return (int)((launch + 1) << 16) + bad;
  }
  return 0;
}

// Called from Python with the table's address (0: a copy of the segment's own), the number of threads where the
// segment is the first, and tensors, whose addresses go to the table from word code[2] on.
extern "C" Object *treadle_run(Object *self, Object *const *args, long count) {
  const long *code = (const long *)PyLong_AsVoidPtr(self);
  void **table = (void **)PyLong_AsVoidPtr(args[0]);
  void *own[table ? 1 : code[1] + 1];
  if (!table) {
    table = own;
    for (long k = 0; k < code[1]; ++k) own[k] = ((void *const *)code[0])[k];
  }
  void **word = table + code[2];
  long k = 1;
  if (code[3]) *word++ = PyLong_AsVoidPtr(args[k++]);
  for (; k < count; ++k) {
    Object *address = PyObject_VectorcallMethod((Object *)code[4], args + k, 1, nullptr);
    if (!address) return nullptr;
    *word++ = PyLong_AsVoidPtr(address);
    Py_DecRef(address);
  }
  void *state = PyEval_SaveThread();
  const int bad = run_segment(code + 5, table);
  PyEval_RestoreThread(state);
  return PyLong_FromLong(bad);
}
"""

_methods: dict[int, _Method] = {}  # a builtin refers to its definition, which nobody else keeps
Runner = Callable[..., int]  # (table, threads if the segment is the first, tensors...) -> 0, or what failed
METH_FASTCALL = 0x80


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int),
                ("doc", ctypes.c_char_p))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Segment:
    """What the runner reads of a segment. `code` is the memory; the rest is kept alive with it."""

    code: Any
    template: Any

    def set_launches(self, words: Sequence[int]) -> None:
        self.code[HEADER_WORDS:] = words


HEADER_WORDS = 5


def encode(template: Any, first_word: int, launches: Sequence[int], *, is_first: bool) -> Segment:
    """template  the table that is copied where a call brings none (a ctypes array)
    first_word  where the first of the call's values goes; of the first segment that is the number of threads
    """
    words = [ctypes.addressof(template), len(template), first_word, int(is_first), id(NAME_OF_ADDRESS), *launches]
    return Segment((ctypes.c_long * len(words))(*words), template)


def bind_runner(library: ctypes.CDLL) -> Callable[[Segment], Runner]:
    """Binds segments to the runner of a library. What it returns lives no longer than library and segment."""
    make = ctypes.pythonapi["PyCFunction_NewEx"]
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    address = ctypes.cast(getattr(library, RUNNER), ctypes.c_void_p)
    assert address.value is not None
    method = _methods.setdefault(address.value, _Method(RUNNER.encode(), address, METH_FASTCALL, None))

    def bind(segment: Segment) -> Runner:
        return make(ctypes.addressof(method), ctypes.addressof(segment.code), None)

    return bind
