"""Read the sizes of a dim in one argument: ``batch=1..16``.

Separate from the inputs: ``verify`` reads sizes too, where torch is not.
"""

from __future__ import annotations

import re

from pytest_torchexport.commands.shell import CommandError
from pytest_torchexport.config.named_dims import parse_sizes


def parse_dim(text: str) -> tuple[str, range]:
    """Return the name and the sizes of ``batch=1..16``. Raises CommandError."""
    found = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?:\.\.(\d+))?", text.strip())
    if found is None:
        raise CommandError(f"{text!r} is not a dim with its sizes; legal: batch=1..16, batch=8")
    name, low, high = found.groups()
    try:
        sizes = parse_sizes(name, (int(low), int(high or low)))
    except ValueError as error:
        raise CommandError(str(error)) from None
    assert isinstance(sizes, range)
    return name, sizes
