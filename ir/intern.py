"""Hash-consing: equal nodes are one object, so equality is `is`, hashing is free and shared work is done once."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar


class Interned(type):
    """Metaclass of frozen dataclasses (eq=False) whose instances are unique by field values.

    A class defines `intern_key`; one whose fields Python may call equal though they differ (0.0 and -0.0, 1 and True)
    says so by `values_need_care`.
    """

    _by_args: ClassVar[dict[type, weakref.WeakValueDictionary[Any, Any]]] = {}
    _tables: ClassVar[dict[type, weakref.WeakValueDictionary[Any, Any]]] = {}

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """The unique instance. Most calls repeat earlier arguments: these are looked up without making an object."""
        by_args = Interned._by_args.get(cls)
        if by_args is None:
            by_args = Interned._by_args.setdefault(cls, weakref.WeakValueDictionary())
        repeated = not kwargs and not getattr(cls, "values_need_care", False)
        if repeated:
            found = by_args.get(args)
            if found is not None:
                return found
        node = super().__call__(*args, **kwargs)
        table = Interned._tables.get(cls)
        if table is None:
            table = Interned._tables.setdefault(cls, weakref.WeakValueDictionary())
        node = table.setdefault(node.intern_key(), node)
        if repeated:
            by_args[args] = node
        return node
