"""Hash-consing: equal nodes are one object, so equality is `is`, hashing is free and shared work is done once."""

from __future__ import annotations

import threading
from typing import Any
from weakref import ref

SWEEP = 4096  # entries of a table before those of dead nodes are looked for


class Interned(type):
    """Metaclass of frozen dataclasses (eq=False) whose instances are unique by field values.

    A class defines `intern_key`; one whose fields Python may call equal though they differ (0.0 and -0.0, 1 and True)
    says so by `values_need_care`.
    """

    by_args: _Table | None  # most calls repeat earlier arguments: these are looked up without making an object
    by_key: _Table

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
        super().__init__(name, bases, namespace)
        cls.by_args = None if namespace.get("values_need_care") else _Table()
        cls.by_key = _Table()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """The unique instance."""
        by_args = None if kwargs else cls.by_args
        if by_args is None:
            return cls._unique(args, kwargs)
        found = by_args.get(args)
        node = None if found is None else found()
        if node is None:
            node = cls._unique(args, kwargs)
            by_args.keep(args, node)
        return node

    def _unique(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        node = super().__call__(*args, **kwargs)
        return cls.by_key.keep(node.intern_key(), node)


class _Table(dict[Any, "ref[Any]"]):
    """Weak references by key. A `WeakValueDictionary` is this with a callback an entry, at three times the cost."""

    __slots__ = ("limit", "lock")

    def __init__(self) -> None:
        self.limit = SWEEP
        self.lock = threading.Lock()

    def keep(self, key: Any, node: Any) -> Any:
        """The living node of this key: `node` where there is none yet."""
        with self.lock:
            found = self.get(key)
            known = None if found is None else found()
            if known is not None:
                return known
            self[key] = ref(node)
            if len(self) > self.limit:
                self._sweep()
            return node

    def _sweep(self) -> None:
        """Drop the entries of dead nodes. What they refer to dies with them, and goes with the next sweep."""
        for key in [k for k, found in self.items() if found() is None]:
            del self[key]
        self.limit = max(SWEEP, 2 * len(self))
