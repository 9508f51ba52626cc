"""A plugin of pytest, ``-p without_onnx``: its process finds no package of the extra ``[onnx]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

EXTRA = ("onnx", "onnx_ir", "onnxruntime", "onnxscript")


class WithoutExtra(PathFinder):
    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in EXTRA:
            return None
        return super().find_spec(fullname, path, target)


assert not [name for name in EXTRA if name in sys.modules]
sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtra
