"""Rewrite the outputs that README.md and the pages of the documentation quote.

``python docs/make_outputs.py [page ...]`` runs each quoted command and rewrites the quotes that are
out of date, on all pages or on the named ones. Run it after you change a message.
tests/test_docs.py compares with the same functions.

A quote is a comment that names the command (and the folder, if it is not the repository), with a
block of text below::

    <!-- output of `pytest test_device.py` in `docs/snippets` -->
    ```text
    FAILED ...
    ```

A quote may leave lines out; ``...`` can mark the place. Numbers and spaces are not compared,
because they differ between runs and machines.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PROGRAMS = {
    "pytest": (sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
    "python": (sys.executable,),
}
OUTPUT = re.compile(
    r"<!-- output of `(?P<command>(?:pytest|python) [^`]+)`(?: in `(?P<folder>[^`]+)`)? -->\n"
    r"```text\n(?P<text>.*?)```",
    re.DOTALL,
)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?")
LEFT_OUT = ("", "...")
# A quoted line and a printed line that are less alike than this are different lines.
SIMILAR = 0.4
SECONDS = 300


@dataclass(frozen=True)
class Quote:
    """A quoted output. ``folder`` is "" if the command runs in the repository itself."""

    page: Path
    command: str
    folder: str
    text: str

    @property
    def name(self) -> str:
        """Return the page and the command, for messages and test ids."""
        return f"{self.page.relative_to(ROOT).as_posix()}: {self.command}"

    @property
    def wanted(self) -> list[str]:
        """Return the quoted lines without the ones that stand for lines left out."""
        return [line for line in self.text.splitlines() if line.strip() not in LEFT_OUT]


def quotes(pages: Sequence[Path] = tuple(PAGES)) -> list[Quote]:
    """Return the quoted outputs of these pages, in order."""
    return [
        Quote(page, match["command"], match["folder"] or "", match["text"])
        for page in pages
        for match in OUTPUT.finditer(page.read_text(encoding="utf-8"))
    ]


@cache
def output_of(command: str, folder: str, scratch: Path) -> tuple[str, ...]:
    """Run the command in the repository, or in a copy of one of its folders below ``scratch``.

    Return the printed lines. Raises RuntimeError if the command could not run at all.
    """
    directory = ROOT
    if folder:
        directory = scratch / Path(folder).name
        hidden = shutil.ignore_patterns(".*")
        shutil.copytree(ROOT / folder, directory, ignore=hidden, dirs_exist_ok=True)
    # These would change the output: the seed of a CI, a worker of xdist, options in variables.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "CI" and not name.startswith(("PYTEST_", "TOX_"))
    }
    program, *arguments = shlex.split(command)
    done = subprocess.run(
        [*PROGRAMS[program], *arguments],
        cwd=directory,
        env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return tuple(line.rstrip() for line in done.stdout.splitlines())


def plain(line: str) -> str:
    """Return the line without numbers and spaces, which differ between runs and machines."""
    return " ".join(NUMBER.sub("#", line).split())


def missing_line(quote: Quote, printed: Sequence[str]) -> str | None:
    """Return the first quoted line that is not printed, or not in this order; else None."""
    rest = iter(map(plain, printed))
    return next((line for line in quote.wanted if plain(line) not in rest), None)


def rewritten(quote: Quote, printed: Sequence[str]) -> str:
    """Return the quote's text, each line replaced by the printed line that is most like it.

    Lines that the quote leaves out stay out. Raises LookupError if no printed line is like one.
    """
    found = iter(_aligned(quote.wanted, printed))
    lines = [line if line.strip() in LEFT_OUT else next(found) for line in quote.text.splitlines()]
    return "".join(f"{line}\n" for line in lines)


def _aligned(wanted: Sequence[str], printed: Sequence[str]) -> list[str]:
    """Return one printed line per wanted one, in order, with the largest sum of similarities."""
    # best[i][j]: the largest sum for the wanted lines from i on and the printed lines from j on.
    best = [[0.0] * (len(printed) + 1) for _ in range(len(wanted) + 1)]
    for i in reversed(range(len(wanted))):
        for j in reversed(range(len(printed))):
            taken = _similarity(plain(wanted[i]), plain(printed[j])) + best[i + 1][j + 1]
            best[i][j] = max(taken, best[i][j + 1])
    lines, j = [], 0
    for i, line in enumerate(wanted):
        while j < len(printed) and best[i][j] == best[i][j + 1]:
            j += 1
        if j == len(printed) or not _similarity(plain(line), plain(printed[j])):
            raise LookupError(f"no printed line is like {line!r}: edit the quote by hand")
        lines.append(printed[j])
        j += 1
    return lines


@cache
def _similarity(one: str, other: str) -> float:
    ratio = difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()
    return ratio if ratio >= SIMILAR else 0.0


def update(quote: Quote, scratch: Path) -> bool:
    """Rewrite the quote on its page if it is out of date. Return True if it was."""
    printed = output_of(quote.command, quote.folder, scratch)
    if missing_line(quote, printed) is None:
        return False
    text = quote.page.read_text(encoding="utf-8")
    quote.page.write_text(text.replace(quote.text, rewritten(quote, printed)), encoding="utf-8")
    return True


def main() -> int:
    """Update the quotes of the pages that the command line names. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, help="pages to update (default: all)")
    pages = [page.resolve() for page in parser.parse_args().pages] or PAGES
    status = 0
    with tempfile.TemporaryDirectory() as scratch:
        for quote in quotes(pages):
            try:
                print("rewritten" if update(quote, Path(scratch)) else "up to date", quote.name)
            except LookupError as error:
                print("FAILED    ", quote.name, error)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
