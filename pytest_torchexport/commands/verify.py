"""The command ``verify``: is an artifact the one that passed, and at the sizes that it serves.

It starts in a moment, so that it can run before each start of a server: no torch, no reports.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pytest_torchexport.commands import GREEN, RED, CommandError, add_repeated, parse_dim, say
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.results import manifest
from pytest_torchexport.results.escaped import on_a_line
from pytest_torchexport.results.manifest import File, Manifest
from pytest_torchexport.results.plain import Unreadable


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit status: 1 if it is another artifact."""
    parser = argparse.ArgumentParser(
        program,
        usage="%(prog)s [-h] DIR [--sizes NAME=LOW..HIGH] [--sizes ...]",
        description=f"Compare the files of an artifact with its manifest, {manifest.NAME}.",
        epilog="Exit status: 0 if they are those that passed; 1 if one is another one, is missing "
        "or was added, or if a size was not verified; 2 for a manifest that cannot be read.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="the folder of the artifact")
    sizes = "sizes of a dim that it is to serve, for example batch=1..64"
    add_repeated(parser, "--sizes", "NAME=LOW..HIGH", sizes)
    given = parser.parse_args(arguments)
    asked = [parse_dim(text) for text in given.sizes]
    try:
        judged = _read(given.directory / manifest.NAME)
        found = manifest.files_in(given.directory)
    except OSError as error:
        raise CommandError(str(error)) from None
    problems = [*_problems(judged, found, asked)]
    if judged.status != manifest.PASSED:
        problems.append(f"{judged.file}: its verdict is {judged.status!r}")
    if problems:
        say(f"{given.directory}: {problem}" for problem in problems)
        return RED
    say(_verified(judged))
    return GREEN


def _read(path: Path) -> Manifest:
    try:
        return manifest.read(path.read_bytes())
    except FileNotFoundError:
        below = sorted(str(each.parent) for each in path.parent.rglob(path.name))
        step = (
            f"name one of {on_a_line(', '.join(below))}"
            if below
            else "pytest --torchexport-ship=DIR writes one for each artifact"
        )
        raise CommandError(f"{path}: there is none; {step}") from None
    except Unreadable as error:
        raise CommandError(f"{path}: {error}") from None


def _problems(
    judged: Manifest, there: Mapping[str, File], asked: Sequence[tuple[str, range]]
) -> Iterator[str]:
    """Yield a line for each file that is not as it was judged, and each dim at other sizes."""
    for name, passed in judged.files.items():
        file = there.get(name)
        if file is None:
            yield f"{name}: it was judged and is missing"
        elif file != passed:
            what = f"sha256 {file.sha256[:16]}..., judged {passed.sha256[:16]}..."
            if file.size != passed.size:
                what = f"it has {file.size} bytes instead of {passed.size}"
            yield f"{name}: it is not the file that was judged: {what}"
    for name in there:
        if name not in judged.files:
            yield f"{name}: it was not judged, and stands beside what was"
    for name, sizes in asked:
        if name not in judged.sizes:
            known = ", ".join(f"{each} {found}" for each, found in judged.sizes.items()) or "none"
            yield (
                f"{judged.file}: no size of {name!r} was verified; verified dims: {known}."
                f"{nearest(name, judged.sizes)}"
            )
            continue
        other = first_other(judged.sizes[name].verified, sizes)
        if other is not None:
            yield f"{judged.file}: {name}={other} was not verified; verified: {judged.sizes[name]}"


def first_other(verified: range | tuple[int, ...], asked: range) -> int | None:
    """Return the first size of those asked for that was not verified; None if all were."""
    if isinstance(verified, range) and verified.step == 1 and asked[0] in verified:
        asked = asked[verified[-1] + 1 - asked[0] :]  # those in a row may be too many to walk over
    return next((size for size in asked if size not in verified), None)


def _verified(judged: Manifest) -> Iterator[str]:
    sizes = "; ".join(f"{name} {found}" for name, found in judged.sizes.items())
    versions = ", ".join(f"{name} {version}" for name, version in judged.environment.items())
    yield f"{judged.file}: what passed ({judged.subject} on {judged.target}-{judged.device})"
    yield f"  sizes     {sizes or 'those of the example alone'}"
    yield f"  versions  {versions}{f', opset {judged.opset}' if judged.opset else ''}"
    for line in judged.weak:
        yield f"  warn      {line}"
