"""Read local variables of torch's frames that its exceptions and warnings do not mention.

Separate because names of local variables change more easily than any other names of torch.
"""

from __future__ import annotations

import sys
import traceback
from types import FrameType

import torch


def is_printing(frame: FrameType | None) -> bool:
    """Return True if a frame is inside the printing of a tensor.

    No number that this reads gets into a program. The text of an error may hold a tensor, and while
    a trace runs torch warns of each of its numbers. False if torch has no ``torch._tensor_str``.
    """
    printing = getattr(sys.modules.get("torch._tensor_str"), "__file__", None)
    while frame is not None:
        if frame.f_code.co_filename == printing:
            return True
        frame = frame.f_back
    return False


def places_of(error: BaseException) -> list[str]:
    """Return the places in the user's code that an exporter knew and its exception does not say.

    As texts with ``File "model.py", line 12``, from the frames of the exception: what
    torch.jit.script was about to compile (``loc``, a ``SourceRange``), and the node that the ONNX
    exporter translated (``node``). Empty if there are no such variables. The innermost comes first.
    """
    found: list[str] = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "torch" not in frame.f_code.co_filename:
            continue
        loc, node = frame.f_locals.get("loc"), frame.f_locals.get("node")
        if type(loc).__name__ == "SourceRange":
            found.append(str(loc))
        stack = node.meta.get("stack_trace") if isinstance(node, torch.fx.Node) else None
        found += [stack] if isinstance(stack, str) else []
    return found[::-1]
