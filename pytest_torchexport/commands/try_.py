"""The command ``try``: check a module without a test, and print the test to paste.

torch is imported only when the arguments can be right: their mistakes are told at once.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_torchexport.commands import GREEN, RED, CommandError, add_repeated, parse_dim, say
from pytest_torchexport.config.advice import setting_lines
from pytest_torchexport.config.options import parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.config.validate import device_names, nearest, target_names
from pytest_torchexport.results.failures import ExportRefused, SpecError
from pytest_torchexport.results.source_line import is_users, source_line
from pytest_torchexport.results.summary import detail_lines, summary_lines
from pytest_torchexport.results.text import failure_texts
from pytest_torchexport.results.verdict import ItemResult, Verdict

# Sizes in place of a tensor: ``2,3``, ``float32[2, 3]`` or ``x=int64[2]``.
SIZES = re.compile(r"(\w+ *= *)?(?:(?:torch\.)?([a-z]+\d*)\[ *)?(\d+(?: *, *\d+)*)(\])? *")
FORMS = 'legal: package.module:Net, path/to/file.py:Net, "package.module:Net(hidden=8)"'


@dataclass(frozen=True)
class Trial:
    """The trial of one subject. ``source``: the expression of Python that makes the subject."""

    subject: Any
    source: str
    module: ModuleType
    inputs: Sequence[str]
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The name of the subject's class, or of the function."""
        return getattr(self.subject, "__name__", type(self.subject).__name__)


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit status: 1 if a check fails."""
    given = _parser(program).parse_args(arguments)
    try:
        targets = target_names(given.target) if given.target else Settings().targets
        (device,) = device_names([given.device])
        shapes: dict[str, str] = {}
        for text in given.shape:
            name, equals, shape = text.partition("=")
            if not name or not equals:
                raise ValueError(f"--shape {text!r} is no shape; legal: 'x=batch 3 height width'")
            shapes[name.strip()] = shape.strip()
        dims = dict(parse_dim(text) for text in given.dim)
        export = _export_options(given.export_option)
        declared = {"shapes": shapes or None, "dims": dims or None, "export_options": export}
        options = parse_check_options({**declared, "max_examples": given.max_examples})
    except (SpecError, ValueError) as error:
        raise CommandError(str(error)) from None
    trial = _trial(given.subject, given.input, given.seed)

    from pytest_torchexport import engine
    from pytest_torchexport.inputs.pytrees import Call

    verdicts = []
    for target in targets:
        plan = Plan(
            target=target,
            device=device,
            options=options,
            named=bool(given.target),
            seed=given.seed,
        )
        if sys.stderr.isatty():  # an export may take a minute
            say([f"checking {target} ..."], sys.stderr)
        verdicts.append(engine.check(trial.subject, [Call(*trial.arguments)], plan))
        if verdicts[-1].failure == SpecError.__name__:  # a mistake in the call, and so of each
            raise CommandError("\n".join([verdicts[-1].reason, *verdicts[-1].details]))
    say(_report(trial, verdicts, whole=given.verbose))
    ranges = {name: (sizes[0], sizes[-1]) for name, sizes in dims.items()}
    say(_test(trial, verdicts, {"shapes": shapes, "dims": ranges, "export_options": export}))
    if any(each.status == "failed" for each in verdicts):
        return RED
    if not any(each.status == "passed" for each in verdicts):
        say(["no target was judged"], sys.stderr)
        return RED
    return GREEN


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program,
        description="Check a module on export targets without a test, and print a test to paste.",
        epilog="Exit status: 0 if a target passed and none failed; 1 if one failed or none was "
        "judged; 2 if the module, its arguments or its inputs are wrong.",
    )
    parser.add_argument(
        "subject",
        metavar="MODULE:NAME",
        help=f"a class, an expression that makes a module, or a function to check; {FORMS}",
    )
    call = (
        "an argument of forward, a Python expression: torch.randn(2, 3), or "
        "mask=torch.ones(2, dtype=torch.bool)"
    )
    add_repeated(parser, "--input", "PYTHON", call)
    shape = "dims of an argument, as the marker's shapes: 'x=batch 3 height width'"
    add_repeated(parser, "--shape", "NAME=SHAPE", shape)
    dim = "the legal sizes of a dim; without --shape the first axis is 'batch'"
    add_repeated(parser, "--dim", "NAME=LOW..HIGH", dim)
    targets = f"targets to check (default: {','.join(Settings().targets)})"
    parser.add_argument(
        *("--target", "--targets"), action="append", default=[], metavar="NAMES", help=targets
    )
    add_repeated(parser, "--export-option", "TARGET.NAME=PYTHON", "of the exporter, as in a marker")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--max-examples", metavar="N", help="calls to draw per target")
    parser.add_argument("--seed", type=int, default=0, help="of weights and calls (default: 0)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print all details")
    return parser


def _export_options(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the value of each ``onnx.opset_version=20`` by target and name."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.+)", text)
        try:
            value = ast.literal_eval(match[3]) if match else None
        except (ValueError, SyntaxError):
            match = None
        if match is None:
            raise ValueError(f"--export-option {text!r}: legal is onnx.opset_version=20")
        found.setdefault(match[1], {})[match[2]] = value
    return found


# -- the subject and its call ----------------------------------------------------------------------


def _trial(text: str, inputs: Sequence[str], seed: int) -> Trial:
    """Import and make the subject and the arguments of its call. Raises CommandError."""
    match = re.fullmatch(r"(.+?\.py|[\w.]+):(.+)", text)
    if match is None:
        raise CommandError(f"{text!r} names no class; {FORMS}")
    place, source = match[1], match[2].strip()
    _names_in(source, f"{text!r} has no expression of Python behind the colon; {FORMS}")
    for each in inputs:
        call = f"--input {each!r} is no expression of Python, such as torch.randn(2, 3)"
        _names_in(f"_({each})", call)
        if meant := _tensor_meant(each):
            raise CommandError(f"--input {each!r} is no tensor: did you mean {meant}?")
    module = _of_file(Path(place)) if place.endswith(".py") else _imported(place, place)

    import torch

    names = {**vars(module), "torch": torch}
    torch.manual_seed(seed)
    subject = _evaluated(source, names, text)
    if isinstance(subject, type):
        source = f"{source}()"
        subject = _evaluated(source, names, text)
    if not callable(subject):
        raise CommandError(f"{text} is a {type(subject).__name__}, which cannot be called")
    call = f"_({', '.join(inputs)})"
    taken = {**names, "_": lambda *args, **kwargs: (args, kwargs)}
    return Trial(subject, source, module, inputs, _evaluated(call, taken, "--input"))


def _tensor_meant(text: str) -> str:
    """Return the tensor that sizes in its place stand for; empty for any other text."""
    match = SIZES.fullmatch(text)
    if match is None or bool(match[2]) != bool(match[4]) or not (match[2] or "," in match[3]):
        return ""
    name, dtype, sizes, _ = match.groups(default="")
    sizes = ", ".join(re.findall("[0-9]+", sizes))
    if "int" in dtype:
        return f"{name}torch.randint(10, ({sizes},), dtype=torch.{dtype})"
    if dtype == "bool":
        return f"{name}torch.ones({sizes}, dtype=torch.bool)"
    other = f", dtype=torch.{dtype}" if dtype not in ("", "float", "float32") else ""
    return f"{name}torch.randn({sizes}{other})"


def _names_in(source: str, problem: str) -> set[str]:
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError):
        raise CommandError(problem) from None
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _evaluated(source: str, names: Mapping[str, Any], shown: str) -> Any:
    """Return the value of an expression of the command line. Raises CommandError."""
    try:
        return eval(source, dict(names))  # noqa: S307 - it is the user's own command line
    except Exception as error:
        meant = nearest(error.name or "", names) if isinstance(error, NameError) else ""
        raise CommandError(f"{shown}: {_told(error)}.{meant}") from None


def _of_file(path: Path) -> ModuleType:
    """Import a file under the name that it has in its package, so that its own imports work."""
    if not path.is_file():
        raise CommandError(f"{path}: no such file")
    path = path.resolve()
    folder, names = path.parent, [path.stem]
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    sys.path.insert(0, str(folder))
    module = _imported(".".join(names), str(path))
    found = getattr(module, "__file__", None) or "built in"
    if Path(found).resolve() != path:
        raise CommandError(
            f"{path}: Python already has another module {module.__name__} ({found}); "
            "rename the file"
        )
    return module


def _imported(name: str, shown: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise CommandError(
            f"{shown} cannot be imported: {_told(error)}; {FORMS}. Python looks in the current "
            "directory and in PYTHONPATH"
        ) from None


def _told(error: BaseException) -> str:
    """Return the error, with the user's innermost line: ``ValueError: no (net.py:12  f())``."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [
        source_line(frame.filename, frame.lineno)
        for frame in frames
        if frame.lineno and is_users(frame.filename)
    ]
    return f"{type(error).__name__}: {error}{f' ({lines[-1]})' if lines else ''}"


# -- the report ------------------------------------------------------------------------------------


def _report(trial: Trial, verdicts: Sequence[Verdict], *, whole: bool) -> Iterator[str]:
    items = [
        ItemResult(
            nodeid=f"{trial.name}[{each.target}-{each.device}]",
            outcome=each.status,
            verdicts=(each,),
            target=each.target,
            device=each.device,
        )
        for each in verdicts
    ]
    for text in failure_texts([each for each in verdicts if each.status == "failed"], whole=whole):
        yield from (text, "")
    if whole:
        yield from (*detail_lines(items), "")
    yield from (*summary_lines(items, whole=whole), *setting_lines(items), "")


def _test(
    trial: Trial, verdicts: Sequence[Verdict], declared: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Yield a test with the marker, without targets that make no artifact; on all, if none do."""
    red = [
        each
        for each in verdicts
        if each.status == "failed" and each.failure != ExportRefused.__name__
    ]
    without = [each for each in verdicts if each.status != "passed" and each not in red]
    kept = [each.target for each in verdicts if each not in without]
    remarks = [
        f"{what} {', '.join(f'{each.target}: {each.failure or each.skip}' for each in those)}"
        for what, those in (("red now:", red), ("without" if kept else "refused now:", without))
        if those
    ]
    call = ", ".join(trial.inputs)
    names = _names_in(f"_({trial.source}, {call})", "")
    own = sorted((names & {*vars(trial.module)}) - {"torch"})
    marker = [f'"{target}"' for target in kept or [each.target for each in verdicts]]
    marker += [f"{name}={said}".replace("'", '"') for name, said in declared.items() if said]
    remark = f" ({'; '.join(remarks)})" if remarks else ""
    yield f"To paste into a test file{remark}:"
    yield from ("", "import pytest")
    if "torch" in names:
        yield "import torch"
    yield from (f"from {trial.module.__name__} import {', '.join(own)}", "")
    yield f"@pytest.mark.torchexport({', '.join(marker)})"
    yield f"def test_{trial.name.lower()}():"
    yield f"    {trial.source}({call})"
