"""The text of an issue for the maintainers of the exporter or the runtime."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from pytest_torchexport.judge.case import Prepared
from pytest_torchexport.results import reports
from pytest_torchexport.results.escaped import fenced
from pytest_torchexport.results.failures import by_name
from pytest_torchexport.results.text import failure_text
from pytest_torchexport.results.verdict import Verdict

EXPORTERS = {
    "trace": "torch.jit.trace",
    "script": "torch.jit.script",
    "export": "torch.export.export",
    "onnx": "torch.onnx.export(dynamo=True)",
    "onnx_legacy": "torch.onnx.export(dynamo=False)",
}
READ_IT = (
    "<!-- This text has code and names of the model. Read it before you publish it. Paths of the "
    "machine it was written on are left out. -->"
)
# A longer source or graph is left out: it is no help.
LINES = 200


def issue(verdict: Verdict, at: Prepared | None, script: str, graph: str) -> str:
    """Return the text; ``script`` and ``graph`` are those of the other files, or empty."""
    return "\n".join(_lines(verdict, at, script, graph)) + "\n"


def _lines(verdict: Verdict, at: Prepared | None, script: str, graph: str) -> Iterator[str]:
    what = by_name(verdict.failure or "Failure").title
    place = verdict.diagnosis.place
    operator = f" ({place.operator})" if place is not None else ""
    yield READ_IT
    yield f"# {EXPORTERS.get(verdict.target, verdict.target)}: {what}{operator}"
    yield from _block("What happens", failure_text(verdict), "text")
    source = at.reference.pristine.source() if at is not None else ""
    yield from _block("The code", source, "python")
    if script:
        yield from _block("A script that shows it, with the files attached", script, "python")
    yield from _block("The program", graph, "text")
    versions = [f"{name} {version}" for name, version in reports.environment().items()]
    yield from _block("Versions", "\n".join([*versions, platform.platform()]), "text")


def _block(title: str, text: str, language: str) -> Iterator[str]:
    """Yield a section with text in it; nothing if there is none, or too much."""
    if not text.strip() or len(text.splitlines()) > LINES:
        return
    yield from ("", f"## {title}", "", fenced(text.strip("\n").split("\n"), language))
