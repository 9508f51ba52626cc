"""Read the sizes of a dim in one argument: ``batch=1..16``.

Separate from the inputs: ``verify`` reads sizes too, where torch is not.
"""

from __future__ import annotations

import re

from pytest_torchexport.commands.shell import CommandError


def parse_dim(text: str) -> tuple[str, range]:
    """Return the name and the sizes of ``batch=1..16``. Raises CommandError."""
    found = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?:\.\.(\d+))?", text.strip())
    if found is None:
        raise CommandError(f"{text!r} is not a dim with its sizes; legal: batch=1..16, batch=8")
    name, low, high = found.groups()
    sizes = range(int(low), int(high or low) + 1)
    if not sizes:
        raise CommandError(f"{text!r}: low {low} is above high {high}")
    return name, sizes
