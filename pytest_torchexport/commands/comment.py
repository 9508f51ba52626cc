"""The command ``comment``: one comment on a merge request, edited in place, and only on change."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence

from pytest_torchexport.commands.files import read_merged
from pytest_torchexport.commands.providers import (
    PROVIDERS,
    CannotPost,
    Comment,
    NothingToPost,
    Provider,
)
from pytest_torchexport.commands.shell import GREEN, USAGE, CommandError, say
from pytest_torchexport.results import reports
from pytest_torchexport.results.delta import delta
from pytest_torchexport.results.entries import entries
from pytest_torchexport.results.verdict import RunResults

# Machines differ, so times alone are not worth a message to everybody.
NOT_ALONE = ("slower export", "slower artifact")


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit status: 2 if the comment could not be written."""
    parser = argparse.ArgumentParser(
        program,
        description="Comment on the merge request of this CI job what it changed. There is one "
        "comment, which is edited in place, and none as long as nothing changed.",
        epilog="Exit status: 0, also if there is nothing to say or this job may not comment; 2 for "
        "a wrong argument, a file that cannot be read, or a server that does not answer.",
    )
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="a JSON report, or a folder")
    parser.add_argument(
        "--old", metavar="REPORT", help="a JSON report of the target branch, to compare with"
    )
    parser.add_argument(
        "--provider", required=True, choices=sorted(PROVIDERS), help="where the comment goes"
    )
    parser.add_argument(
        "--name",
        default="torchexport",
        help="tells apart the comments of several gates (letters, digits, '.', '_', '-')",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the comment, and connect to nobody"
    )
    given = parser.parse_args(arguments)
    try:
        marker = _marker(given.name)
        results = _results(given.reports, given.old)
        news, text = _text(results)
        body = f"{marker}\n{text}"
        if given.dry_run:
            say([*body.splitlines(), "", f"dry run: {'comment' if news else 'nothing to say'}"])
        else:
            provider = PROVIDERS[given.provider](os.environ)
            say([f"comment: {_post(provider, marker, body, news=news)}"])
    except NothingToPost as reason:
        say([f"no comment: {reason}"])
    except (CommandError, CannotPost) as error:
        say([f"{program}: {error}"], sys.stderr)
        return USAGE
    return GREEN


def _marker(name: str) -> str:
    """Return the first line of the comment, which nobody sees and by which it is found again."""
    if not name or not all(char.isascii() and (char.isalnum() or char in "._-") for char in name):
        raise CommandError(f"--name {name!r}: legal are letters, digits, '.', '_' and '-'")
    return f"<!-- pytest-torchexport: {name}. -->"


def _results(paths: Sequence[str], old: str | None) -> RunResults:
    results, _ = read_merged(paths)
    return results if old is None else dataclasses.replace(results, before=read_merged([old])[0])


def _text(results: RunResults) -> tuple[bool, str]:
    """Return if there is news, and the text of the comment."""
    if results.before is None:
        news = not results.complete or any(entry.fails for entry in entries(results.items))
        short = "all green again"
    else:
        found = delta(results.before, results)
        news = any(change.kind not in NOT_ALONE for change in found.changes)
        short = str(found)
    text = reports.rendered("comment", results) if news else f"**torchexport: {short}**\n"
    # Paths may hold bytes that are no UTF-8; Python keeps them as surrogates, no server does.
    return news, text.encode("utf-8", "backslashreplace").decode()


def _post(provider: Provider, marker: str, body: str, *, news: bool) -> str:
    """Bring the comment up to date and return what was done."""
    own = next((each for each in provider.own() if each.text.startswith(marker)), None)
    if own is None:
        if not news:
            return "nothing changed, so there is none"
        provider.create(body)
        return "created"
    if _same(own, body):
        return "left as it is"
    provider.edit(own, body)
    return "edited"


def _same(own: Comment, body: str) -> bool:
    """Return True if the texts are the same but for what a server does to ends of lines."""
    return own.text.replace("\r\n", "\n").strip() == body.strip()
