"""What a converter gets wrong: modules that compute one thing in eager and another while being captured."""

from __future__ import annotations

import torch


def captured() -> bool:
    """Whether a trace, a script or an export is being made of what calls this."""
    return torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling()
