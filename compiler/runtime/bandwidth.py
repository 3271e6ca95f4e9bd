"""How fast one thread copies memory here, at each level of the caches: measured by a small kernel, kept in the store.

The roofline takes its slopes from it, and "85% of copy bandwidth" means: of these numbers. A rate counts the bytes read
and the bytes written, and not the line that a normal store to memory fetches first; buffers are kept and touched, so no
page fault is in it; time is this thread's processor time, so that a busy machine disturbs it less.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime

from ...ir.errors import BadInput, CompileError, StoreError
from .build import build_and_load, find_compiler
from .cpu import identify_machine, list_caches, measure_memory, name_cpu
from .store import Store, make_key

RATES = "bandwidth"  # kind of entry in the store
FLAGS = ("-O2", "-march=native", "-fPIC", "-shared", "-nostdlib", "-fno-exceptions", "-fno-rtti", "-Wno-psabi")
BLOCK = 256  # bytes that one step of the kernel copies
ORDERS = ((1, 0), (1, 1024), (1, 4096), (4, 256), (8, 256))  # pages in turn, bytes of prefetch ahead of the load
NORMAL, STREAMING, MEMCPY = range(3)
SAMPLE_SECONDS = 0.002
WARM_SECONDS = 0.02
LARGEST = 1 << 30  # bytes of the largest working set chosen by default
Variant = tuple[int, int, int]  # NORMAL, STREAMING or MEMCPY; pages in turn; bytes of prefetch
Runner = Callable[[Variant, int], float]  # runs a variant so many times; seconds
Progress = Callable[[int, int, str], None]  # samples taken, of how many, what is being measured

SOURCE = """\
// Copies `bytes` (a multiple of 256) from src to dst, `rounds` times over, no header needed.
#if defined(__AVX512F__)
#define WIDTH 64
#define STREAM "vmovntps %1, %0"
#elif defined(__AVX__)
#define WIDTH 32
#define STREAM "vmovntps %1, %0"
#elif defined(__SSE2__)
#define WIDTH 16
#define STREAM "movntps %1, %0"
#else
#define WIDTH 16
#endif
typedef float vec __attribute__((vector_size(WIDTH), may_alias));
enum { BLOCK = 256, VECS = BLOCK / WIDTH, PAGE = 4096 };

template <bool streaming> static inline void store(vec* to, vec x) {
#ifdef STREAM
  if (streaming) { asm volatile(STREAM : "=m"(*to) : "v"(x)); return; }
#endif
  *to = x;
}

template <bool streaming, bool prefetching>
static inline void copy_block(char* dst, const char* src, long ahead) {
  if (prefetching)
    for (int line = 0; line < BLOCK; line += 64) __builtin_prefetch(src + ahead + line);
  vec x[VECS];
  for (int j = 0; j < VECS; ++j) x[j] = ((const vec*)src)[j];
  for (int j = 0; j < VECS; ++j) store<streaming>((vec*)dst + j, x[j]);
  asm volatile("" ::: "memory");  // no call of memcpy, no round left out
}

// A block from each of `pages` pages in turn: more streams than one for the hardware's prefetchers to follow.
template <bool streaming, bool prefetching>
static void copy(char* dst, const char* src, long bytes, long pages, long ahead) {
  long start = 0;
  for (; pages > 1 && start + pages * PAGE <= bytes; start += pages * PAGE)
    for (long i = start; i < start + PAGE; i += BLOCK)
      for (long page = 0; page < pages; ++page)
        copy_block<streaming, prefetching>(dst + i + page * PAGE, src + i + page * PAGE, ahead);
  for (long i = start; i < bytes; i += BLOCK) copy_block<streaming, prefetching>(dst + i, src + i, ahead);
}

extern "C" int can_stream() {
#ifdef STREAM
  return 1;
#else
  return 0;
#endif
}

extern "C" void* memcpy(void*, const void*, unsigned long);

// how: 0 normal stores, 1 non-temporal stores, 2 the C library's memcpy
extern "C" void copy_bytes(char* dst, const char* src, long bytes, long rounds, int how, long pages, long ahead) {
  for (long round = 0; round < rounds; ++round) {
    if (how == 2) memcpy(dst, src, bytes);
    else if (how == 1 && ahead) copy<true, true>(dst, src, bytes, pages, ahead);
    else if (how == 1) copy<true, false>(dst, src, bytes, pages, 0);
    else if (ahead) copy<false, true>(dst, src, bytes, pages, ahead);
    else copy<false, false>(dst, src, bytes, pages, 0);
    asm volatile("" ::: "memory");
#ifdef STREAM
    if (how == 1) asm volatile("sfence" ::: "memory");
#endif
  }
}
"""


@dataclass(frozen=True, slots=True)
class CopyRate:
    """Copying within one level. `working_set`: bytes of source and target together; rates: bytes/s, read + written.

    Each rate is the median of the samples in the best of ORDERS: with normal stores, with non-temporal ones (0.0 where
    the processor has none), and by the C library.
    """

    level: str
    working_set: int
    normal: float
    streaming: float
    memcpy: float

    @property
    def best(self) -> float:
        return max(self.normal, self.streaming, self.memcpy)


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What one measuring found, from the nearest level to memory. `date` is UTC; `load` the load average then."""

    cpu: str
    machine: str
    date: str
    load: float
    compiler_version: str
    rates: tuple[CopyRate, ...]

    def at(self, working_set: int) -> CopyRate:
        """Return the rates of the nearest level whose measured working set is no smaller; of memory beyond."""
        fitting = [rate for rate in self.rates if rate.working_set >= working_set]
        return fitting[0] if fitting else self.rates[-1]


def measure_copy_bandwidth(
    store: Store, compiler: str, *,
    megabytes: float | None = None, samples: int = 7, progress: Progress | None = None,
) -> Bandwidth:  # fmt: skip
    """Measure and keep the copy rates of one thread at every level: about 5 s with the default sizes.

    megabytes  the working set for memory, source and target together; by default four times the last cache
    progress   called before each sample with (taken, total, level)

    Raises CompileError where the kernel cannot be built, BadInput for counts that are not positive, or not to be held.
    """
    most = measure_memory() / 2 / 2**20
    if samples < 1 or (megabytes is not None and not 2 * BLOCK / 2**20 <= megabytes <= most):
        expected = f"samples of at least 1, megabytes above 0 and up to half of memory ({most:.0f})"
        raise BadInput("this cannot be measured", expected=expected, got=f"{samples} and {megabytes}")
    library = build_and_load(SOURCE, FLAGS, compiler, store)
    sizes = choose_working_sets(None if megabytes is None else int(megabytes * 2**20))
    rates = []
    for index, (level, size) in enumerate(sizes):

        def report(taken: int, index: int = index, level: str = level) -> None:
            if progress is not None:
                progress(index * samples + taken, len(sizes) * samples, level)

        rates.append(_measure_level(library, level, size, samples, report))
    if progress is not None:
        progress(len(sizes) * samples, len(sizes) * samples, "done")
    found = Bandwidth(
        cpu=name_cpu(),
        machine=identify_machine(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        load=round(os.getloadavg()[0], 2),
        compiler_version=find_compiler(compiler, store).version,
        rates=tuple(rates),
    )
    with suppress(StoreError):  # measured all the same
        store.put_json(RATES, _make_rates_key(), asdict(found))
    return found


def load_bandwidth(store: Store) -> Bandwidth | None:
    """Return what was last measured on a machine like this one, or None."""
    kept = store.get_json(RATES, _make_rates_key())
    if kept is None:
        return None
    return Bandwidth(**{**kept, "rates": tuple(CopyRate(**rate) for rate in kept["rates"])})


def choose_working_sets(memory_bytes: int | None = None) -> list[tuple[str, int]]:
    """Return (level, bytes) from the nearest cache to memory: well inside of each cache, well outside of the last."""
    chosen: list[tuple[str, int]] = []
    last = 0
    for item in list_caches():
        # The last cache is shared, and other processes fill their part of it.
        size = item.size // 2 if item.shared_by == 1 and item.level < 3 else min(item.size // 4, 32 << 20)
        if size > last:
            chosen.append((f"L{item.level}", size))
        last = max(last, item.size)
    default = min(max(4 * last, 128 << 20), LARGEST, max(measure_memory() // 8, 16 << 20))
    return [*chosen, ("memory", memory_bytes or default)]


def _make_rates_key() -> str:
    return make_key("copy", SOURCE, FLAGS, [item.name for item in fields(CopyRate)], identify_machine())


def _measure_level(
    library: ctypes.CDLL, level: str, working_set: int, samples: int, report: Callable[[int], None]
) -> CopyRate:
    """Sample all variants in turn, so that a slow phase of the machine meets all of them."""
    memcmp = ctypes.CDLL(None).memcmp
    memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    size = max(working_set // 2 // BLOCK * BLOCK, BLOCK)
    stores = (NORMAL, STREAMING) if library.can_stream() else (NORMAL,)
    variants = [(how, *order) for how in stores for order in ORDERS] + [(MEMCPY, 1, 0)]
    with _touched_buffers(size) as (dst, src):
        run = _make_runner(library, dst, src, size)
        rounds = {variant: _choose_rounds(run, variant) for variant in variants}
        taken: dict[Variant, list[float]] = {variant: [] for variant in variants}
        for index in range(samples):
            report(index)
            for variant in variants:
                seconds = run(variant, rounds[variant])
                taken[variant].append(2 * size * rounds[variant] / max(seconds, 1e-9))
        if memcmp(dst, src, size):
            raise CompileError(f"the copy kernel copies wrongly at {level}", hint="report it, with your compiler")
    medians = {variant: statistics.median(rates) for variant, rates in taken.items()}
    best = [max((rate for (used, *_), rate in medians.items() if used == how), default=0.0) for how in range(3)]
    return CopyRate(level, 2 * size, *map(float, map(round, best)))


def _make_runner(library: ctypes.CDLL, dst: int, src: int, size: int) -> Runner:
    copy = library.copy_bytes
    copy.restype = None
    copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_long,
                     ctypes.c_int, ctypes.c_long, ctypes.c_long]  # fmt: skip

    def run(variant: Variant, rounds: int) -> float:
        begin = time.thread_time_ns()
        copy(dst, src, size, rounds, *variant)
        return (time.thread_time_ns() - begin) / 1e9

    return run


def _choose_rounds(run: Runner, variant: Variant) -> int:
    """Return how many rounds take about SAMPLE_SECONDS, after running long enough to be warm."""
    rounds, spent = 1, 0.0
    while True:
        seconds = run(variant, rounds)
        spent += seconds
        if seconds >= SAMPLE_SECONDS or spent >= WARM_SECONDS:
            return max(1, round(rounds * SAMPLE_SECONDS / max(seconds, 1e-9)))
        rounds *= 2


@contextmanager
def _touched_buffers(size: int) -> Iterator[tuple[int, int]]:
    """Yield the addresses of a target and a source of `size` bytes whose pages are there and hold noise."""
    distance = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE  # equal offsets in a page, as large tensors have
    with mmap.mmap(-1, 2 * distance) as memory:
        anchor = ctypes.c_char.from_buffer(memory)
        dst = ctypes.addressof(anchor)
        src = dst + distance
        noise = os.urandom(4096 - 1)  # no period of the page size: a misplaced copy shows
        ctypes.memset(dst, 0, size)
        for start in range(0, size, len(noise)):
            ctypes.memmove(src + start, noise, min(len(noise), size - start))
        try:
            yield dst, src
        finally:
            del anchor  # the mapping cannot close while something points into it
