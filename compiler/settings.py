"""Every option of treadle, declared once: type, default, variable, help, and whether it changes the code we generate.

    settings.debug                            what is in force here: an int, and the type checker knows it
    with settings.override(debug=3): ...      an explicit argument, for this block and this thread of execution
    TREADLE_DEBUG=3 python train.py           the environment

Precedence: explicit argument, then environment, then default. `treadle doctor` prints the table.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, overload

from ..ir.errors import SettingError

T = TypeVar("T")
PREFIX = "TREADLE_"

# A context variable: concurrent compilations do not see one another's overrides. A thread starts with none of them;
# who hands work to a thread hands it `settings.snapshot()` too.
_overrides: ContextVar[Mapping[str, object]] = ContextVar("treadle_settings", default={})  # noqa: B039 - never mutated


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What values an option takes: in words, as a parser of arguments and of text, and by name where they are few."""

    takes: str
    parse: Callable[[object], T]  # raises ValueError
    choices: tuple[str, ...] = ()


class Option(Generic[T]):
    """One option. As an attribute of `settings` it reads as its value; its name is the name it is declared by."""

    def __init__(self, kind: Kind[T], default: T, help: str, *, changes_code: bool = False):
        self.kind = kind
        self.default = default
        self.help = help
        self.changes_code = changes_code
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, settings: None, owner: type) -> Option[T]: ...
    @overload
    def __get__(self, settings: Settings, owner: type) -> T: ...
    def __get__(self, settings: Settings | None, owner: type) -> Option[T] | T:
        return self if settings is None else self.resolve()[0]

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    def resolve(self) -> tuple[T, str]:
        """Return the value in force and where it comes from: argument, environment or default."""
        overrides = _overrides.get()
        if self.name in overrides:
            return self.parse(overrides[self.name]), "argument"
        text = os.environ.get(self.variable, "")
        if text:
            return self.parse(text, where=self.variable), "environment"
        return self.default, "default"

    def parse(self, value: object, where: str = "") -> T:
        """Return `value` (an argument, or text from the environment) as this option's type, or raise SettingError."""
        try:
            return self.kind.parse(value)
        except ValueError:
            problem = f"option {self.name!r} takes {self.kind.takes}"
            raise SettingError(problem, got=value, choices=self.kind.choices, where=where) from None


def whole_number(low: int, high: int | None = None) -> Kind[int]:
    """An integer of `low` to `high`, both included."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
        if number < low or (high is not None and number > high):
            raise ValueError
        return number

    return Kind(f"an integer of {low} to {high}" if high is not None else f"an integer of at least {low}", parse)


def one_of(*choices: str) -> Kind[str]:
    """One of a few words."""

    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return Kind(" | ".join(choices), parse, choices)


def _parse_flag(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    word = str(value).lower()
    if not isinstance(value, bool | int | str) or word not in words:
        raise ValueError
    return words[word]


def _parse_path(value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError
    path = Path(os.path.expanduser(os.fspath(value)))
    return path if path.parts[:1] == ("~",) else path.absolute()  # no home directory is known: not a folder named ~


def _parse_optional_path(value: object) -> Path | None:
    return None if value is None else _parse_path(value)


def _parse_text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _parse_size(value: object) -> int:
    """2147483648, "2 GiB", "500M": units are powers of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(value).strip().lower())
    if isinstance(value, bool) or not isinstance(value, int | str) or found is None:
        raise ValueError
    number, unit = found.groups()
    return int(float(number) * 1024 ** " kmgt".index(unit or " "))


YES_OR_NO = Kind("yes or no", _parse_flag)
DIRECTORY = Kind("a directory", _parse_path)
OPTIONAL_DIRECTORY = Kind("a directory", _parse_optional_path)
TEXT = Kind("a text", _parse_text)
SIZE = Kind("a number of bytes, such as 500 MiB or 2G", _parse_size)


def _default_cache_dir() -> Path:
    """~/.cache/treadle; where no home directory is known, one of this user's own among the temporary files."""
    path = _parse_path(os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "treadle"))
    return path if path.is_absolute() else _make_temporary_dir() or path


def _make_temporary_dir() -> Path | None:
    """A directory that this user will find again and nobody else can write to: what is stored there is run."""
    path = Path(tempfile.gettempdir(), f"treadle-{os.getuid()}")
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return path if private else None


class Row(NamedTuple):
    """A line of the table of options."""

    name: str
    value: str
    source: str
    variable: str
    takes: str
    changes_code: bool
    help: str


class Settings:
    """The options of treadle. There is one instance, `settings`."""

    __slots__ = ()

    debug = Option(
        whole_number(0, 5),
        0,
        "what is printed: 1 a line per graph, 2 its kernels and why, 3 schedules, 4 sources, 5 the IR after each pass",
    )
    dump = Option(OPTIONAL_DIRECTORY, None, "write numbered files there: the IR after each pass, the sources, the plan")
    cache_dir = Option(DIRECTORY, _default_cache_dir(), "where compiled kernels and plans are stored")
    cache_size = Option(
        SIZE,
        2 * 1024**3,
        "bytes that are stored there, about: beyond, what was used longest ago is removed; 0: everything stays",
    )
    numerics = Option(
        one_of("fast", "strict"),
        "fast",
        "fast: the laws may reorder sums, within bounds; strict: only rewrites exact in IEEE arithmetic",
        changes_code=True,
    )
    verify = Option(YES_OR_NO, False, "check each kernel against the interpreter before its first use")
    fallback = Option(
        one_of("aten", "error"),
        "aten",
        "what happens to a region that treadle fails on: it runs through ATen, or the error is raised",
    )
    target = Option(
        one_of("auto", "avx512", "avx2", "scalar"),
        "auto",
        "the instruction set to print C++ for; auto asks the processor",
        changes_code=True,
    )
    rng = Option(
        one_of("eager", "philox"),
        "eager",
        "random numbers: eager draws them from ATen's generator, the very numbers of an eager run; philox computes them"
        " inside kernels, from a seed that each call draws there",
        changes_code=True,
    )
    autotune = Option(
        YES_OR_NO,
        False,
        "measure the few schedules of each kernel that look best and keep the quickest, as mode max-autotune does",
    )
    cuda_graphs = Option(
        YES_OR_NO,
        False,
        "on a GPU, capture the launches of a graph once and replay them, as mode reduce-overhead does",
    )
    keep_casts = Option(
        YES_OR_NO,
        False,
        "keep each rounding to a narrow type that the model spells out, also where a kernel need not round",
        changes_code=True,
    )
    gemm = Option(
        one_of("auto", "library", "own"),
        "auto",
        "products of matrices, and convolutions as such: auto leaves to libraries what those do as quickly (on a GPU"
        " all but products of few rows whose weights are unpacked on the way); library leaves all to them; own takes"
        " all that kernels can compute",
        changes_code=True,
    )
    amx = Option(
        one_of("never", "tuned", "always"),
        "tuned",
        "tile registers (AMX) for products of bf16 and of bytes on a CPU that has them; the kernels are tested by"
        " emulation and have so far run on no such processor: never; tuned: as candidates of autotune, for products"
        " that kernels compute anyway; always: in place of libraries and of vectors, wherever products fit them",
        changes_code=True,
    )
    hoist = Option(
        one_of("never", "auto", "all"),
        "never",
        "what an inference graph computes of parameters and buffers alone, on a CPU: auto keeps what is smaller than"
        " they are (weights that autocast narrows) and small tables, beside them in memory, and computes it again when"
        " they change; all keeps a transposed copy too of each weight stored [in, out], as large as the weight; a write"
        " through .data that changes few elements may go unseen",
    )
    compiler = Option(TEXT, "g++", "the C++ compiler to call: a name on PATH or a path", changes_code=True)
    threads = Option(whole_number(0), 0, "threads of a CPU kernel; 0: as many as torch uses", changes_code=True)

    @contextmanager
    def override(self, **values: object) -> Iterator[Settings]:
        """Put `values` in force within the block, in this thread of execution. Raises SettingError before it begins."""
        checked = {name: self.option(name).parse(value) for name, value in values.items()}
        token = _overrides.set({**_overrides.get(), **checked})
        try:
            yield self
        finally:
            _overrides.reset(token)

    def option(self, name: str) -> Option:
        """Return the declaration of an option. Raises SettingError, which lists those that exist."""
        if name not in OPTIONS:
            raise SettingError("no such option", got=name, choices=OPTIONS)
        return OPTIONS[name]

    def snapshot(self) -> dict[str, object]:
        """Return every option's value in force here: `override(**snapshot)` restores them in another thread."""
        return {name: option.resolve()[0] for name, option in OPTIONS.items()}

    def cache_key(self) -> str:
        """Return the options that change generated code, as one canonical line of JSON."""
        parts = {name: option.resolve()[0] for name, option in OPTIONS.items() if option.changes_code}
        return json.dumps(parts, sort_keys=True)

    def rows(self) -> list[Row]:
        """Return the table of options, in the order of their declaration."""
        return [
            Row(name, str(value), source, option.variable, option.kind.takes, option.changes_code, option.help)
            for name, option in OPTIONS.items()
            for value, source in [option.resolve()]
        ]

    def check_environment(self) -> list[str]:
        """Return one line for each TREADLE_ variable that is set and that no option reads: a typing error, mostly."""
        known = [option.variable for option in OPTIONS.values()]
        stray = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
        return [str(SettingError("no option reads this variable", got=name, choices=known)) for name in stray]

    if not TYPE_CHECKING:  # a type checker is to see the declared names only

        def __getattr__(self, name: str) -> object:
            raise AttributeError(str(SettingError("no such option", got=name, choices=OPTIONS)))

    def __setattr__(self, name: str, value: object) -> None:
        raise SettingError(
            f"settings are not assigned to: write `with settings.override({name}=...)` or set {PREFIX}{name.upper()}",
            got=value,
        )


OPTIONS: dict[str, Option] = {name: option for name, option in vars(Settings).items() if isinstance(option, Option)}
settings = Settings()
