"""The checks: one property per file, and the file's name is the check's name.

A check is a function of a subject and its cases that raises its Failure. Names are known without
importing torch, because a marker's ``checks=`` is judged while pytest collects.
"""

from __future__ import annotations

import pkgutil
from functools import lru_cache

__all__ = ["names"]


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Every known check, without importing any."""
    return tuple(sorted(info.name for info in pkgutil.iter_modules(__path__)))
