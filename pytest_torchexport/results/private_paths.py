"""Take paths of this machine out of a text that others will read."""

from __future__ import annotations

import re
from pathlib import Path

# A path, among other things. Each search begins where a word does: a recipe in base64 is one word
# of a megabyte.
_WORD = re.compile(r"[^\s\"'(:,=]+")
_INSTALLED = "/site-packages/"


def without_private_paths(text: str, root: Path | None) -> str:
    """Return the text with paths as they are below the project, and ``~`` for the home directory.

    ``root`` is the project's directory; the working directory counts as well.
    """
    text = _WORD.sub(lambda word: word[0].rpartition(_INSTALLED)[2], text)
    own = {str(folder) for folder in (root, Path.cwd()) if folder is not None}
    for folder in sorted(own - {"/"}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    home = str(Path.home())
    return text.replace(home, "~") if home != "/" else text
