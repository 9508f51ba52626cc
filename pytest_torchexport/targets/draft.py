"""Ask ``torch.export.draft_export`` what else stands in the way of an export that torch refused.

It goes on where ``torch.export`` stops, with the numbers of the example. Separate because it
exports once more: only after a refusal, and within a limit of time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from pytest_torchexport.inputs.dynamic_shapes import dynamic_shapes, without_names
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.torch_state import suppress_output
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.torch_export_shared import Capturable, forget_earlier_exports
from pytest_torchexport.torch_private.drafts import draft_failures, drafts_recorded

MOST = 5


def drafted(
    subject: Callable[..., Any], example: Call, spec: InputSpec, told: SourceLine | None
) -> tuple[str, ...]:
    """Return a line for each further place at which ``torch.export`` would refuse the subject.

    ``told`` is the place that is known. Empty if this torch has no draft_export. Raises what it
    raises: it fails too if a size comes from values.
    """
    if not hasattr(torch.export, "draft_export"):
        return ()
    capturable = Capturable.of(subject, example, spec)
    shapes = next(dynamic_shapes(spec, example, capturable.signature))
    forget_earlier_exports()
    try:
        # It keeps a log there.
        with (
            tempfile.TemporaryDirectory(prefix="torchexport-") as logs,
            mock.patch.object(tempfile, "tempdir", logs),
            suppress_output(),
            drafts_recorded(),
        ):
            program = torch.export.draft_export(
                capturable.module,
                example.args,
                dict(example.kwargs),
                dynamic_shapes=without_names(shapes),
            )
    finally:
        forget_earlier_exports()
    further = [
        _line(kind, what, where)
        for kind, what, where in draft_failures(program)
        if where is None or told is None or where.place != told.place
    ]
    lines = [line for line in dict.fromkeys(further) if line]
    left = [f"... and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return (*lines[:MOST], *left)


def _line(kind: str, what: str, where: SourceLine | None) -> str:
    if kind == "MISSING_FAKE_KERNEL":
        return f"the next refusal: {what} has no fake kernel"
    if kind == "MISMATCHED_FAKE_KERNEL":
        return f"the next refusal: the fake kernel of {what} returns something else than the kernel"
    if kind == "DATA_DEPENDENT_ERROR" and where is not None:
        return f"the next refusal: {where}"
    return ""
