"""A child that answers with ONNX Runtime alone, as the process that serves an ONNX file often does: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_torchexport.sandbox import arrays, child


class WithOnnxruntime:
    """One ONNX file."""

    codec = arrays.CODEC

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        """Load it, and say what is known of it."""
        files, confined = child.opened(message)
        path = Path(message["path"])
        self._loaded = files.load(path, message["device"])
        return {"found": files.read(path, self._loaded).as_plain(), "confined": confined}

    def look(self, message: dict[str, Any]) -> dict[str, Any]:
        """A session has no state."""
        return {"state": {}}

    def run(self, message: dict[str, Any]) -> dict[str, Any]:
        """One call."""
        returned = self._loaded(*message["args"], **message["kwargs"])
        return {"returned": returned, "state": {}}


ANSWERS = WithOnnxruntime()
