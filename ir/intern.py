"""Hash-consing: equal nodes are one object, so equality is `is`, hashing is free and shared work is done once."""

from __future__ import annotations

import weakref
from typing import Any


class Interned(type):
    """Metaclass of frozen dataclasses (eq=False) whose instances are unique by field values.

    A class may define `intern_key` to tell apart values that Python calls equal (0.0 and -0.0, 1 and True).
    """

    _tables: dict[type, weakref.WeakValueDictionary[Any, Any]] = {}

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        node = super().__call__(*args, **kwargs)
        table = Interned._tables.get(cls)
        if table is None:
            table = Interned._tables.setdefault(cls, weakref.WeakValueDictionary())
        return table.setdefault(node.intern_key(), node)
