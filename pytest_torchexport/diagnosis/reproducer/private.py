"""Take paths of this machine out of a text that other people will read."""

from __future__ import annotations

import re
from pathlib import Path

_INSTALLED = re.compile(r"[^\s\"'(:,=]*/site-packages/")


def without_private_paths(text: str, root: Path | None) -> str:
    """Return the text with paths as they are below the project, and ``~`` for the home directory.

    ``root`` is the project's directory; the working directory counts as well.
    """
    text = _INSTALLED.sub("", text)
    own = {str(folder) for folder in (root, Path.cwd()) if folder is not None}
    for folder in sorted(own - {"/"}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    home = str(Path.home())
    return text.replace(home, "~") if home != "/" else text
