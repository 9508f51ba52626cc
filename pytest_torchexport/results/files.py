"""Write files that others will read: whole or not at all, and without paths of this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

# While the files of a failure are written, their directory has a name that begins so.
HALF = ".half-"


def write(path: Path, text: str) -> None:
    """Write the whole file or nothing; make its directory if needed.

    A link is kept, and the file that it leads to is written. Raises OSError, also if something else
    than a regular file is there: a device, a pipe, a directory, a link that leads to itself.
    """
    path = Path(os.path.realpath(path))
    if os.path.lexists(path) and not path.is_file():
        raise OSError("it is not a regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    # No file of tempfile: only its owner may read it, and another user may upload the report.
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # A path may hold bytes that are no UTF-8; Python keeps them as surrogates.
        with half.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # a machine that stops then has the old file or the new one
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


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
