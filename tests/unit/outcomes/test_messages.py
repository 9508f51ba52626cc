"""outcomes/messages.py: what a report keeps of an exception and its causes."""

from __future__ import annotations

import itertools

import pytest

from pytest_torchexport.outcomes.messages import MAX_OUTER, condense

ADVICE = "Failed to convert the exported program to an ONNX model. This is step 3/3\n- If there is"
NODE = "Error when translating node %add. See the stack trace for more information."


def chained(*errors):
    """Return the first error, raised from the second, and so on."""
    for outer, cause in itertools.pairwise(errors):
        outer.__cause__ = cause
    return errors[0]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (IndexError("list index"), "IndexError: list index"),
        (IndexError(), "IndexError: IndexError"),
        (
            chained(RuntimeError(ADVICE), ValueError(NODE), IndexError("list index")),
            f"IndexError: list index; then ValueError: {NODE}",
        ),
        (chained(RuntimeError(ADVICE), IndexError("list index")), "IndexError: list index"),
        (
            chained(RuntimeError("in aten.add: list index"), IndexError("list index")),
            "IndexError: list index; then RuntimeError: in aten.add:",
        ),
        (
            chained(RuntimeError("list index\n\nfrom user code:\nx[3]"), IndexError("list index")),
            "IndexError: list index",
        ),
        (
            chained(RuntimeError("a" * 999), IndexError("list index")),
            f"IndexError: list index; then RuntimeError: {'a' * MAX_OUTER}",
        ),
    ],
)
def test_a_reason_is_the_root_cause_and_then_the_first_outer_text_that_says_more(error, reason):
    assert condense(error)[0] == reason
