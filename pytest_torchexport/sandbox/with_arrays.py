"""Answers of a child without torch, as many processes that serve ONNX files have none.

The file's loader knows the library; what it returns takes and gives Arrays (``sandbox.wire``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_torchexport.sandbox import child, wire


class WithArrays:
    """One file of a library that runs without torch."""

    codec = wire.ARRAYS

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        (load, read), confined, _ = child.guarded(message, message["load"], message["read"])
        path = Path(message["path"])
        self._loaded = load(path, message["device"])
        found = read(path, self._loaded).as_plain(foreign=not message["trusted"])
        return {"found": found, "confined": confined}

    def state(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"state": {}}

    def run(self, message: dict[str, Any]) -> dict[str, Any]:
        returned = self._loaded(*message["args"], **message["kwargs"])
        return {"returned": returned, "state": {}}


ANSWERS = WithArrays()
