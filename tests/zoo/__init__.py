"""Tiny random models of many `transformers` architectures: `ARCHITECTURES` maps a name to how its model is built."""

from __future__ import annotations

from .architecture import Architecture
from .sound import SOUND
from .text import TEXT
from .vision import VISION

ARCHITECTURES: dict[str, Architecture] = {row.name: row for row in (*TEXT, *VISION, *SOUND)}

__all__ = ["ARCHITECTURES", "Architecture"]
