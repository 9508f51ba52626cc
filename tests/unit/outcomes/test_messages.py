"""outcomes/messages.py: what a report keeps of an exception and its causes."""

from __future__ import annotations

import itertools

import pytest

from pytest_torchexport.outcomes.messages import condense, innermost, message_and_line

ADVICE = "Failed to convert the exported program to an ONNX model. This is step 3/3\n- If there is"
NODE = "Error when translating node %add. See the stack trace for more information."


NO_RESHAPE = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Reshape node. "
    "Name:'node_view' Status Message: /src/onnxruntime/core/reshape_helper.h:91 "
    "onnxruntime::ReshapeHelper(const Shape&, bool) input_size == size was false. "
    "The input tensor cannot be reshaped: {3}"
)
NO_CEIL = "AssertionError: op <built-in function ceil> is not in _SYM_OPS"
UNSAVED = (
    "Failed serializing node ceil\n\nOriginal exception Traceback (most recent call last):\n"
    f'  File "torch/serialize.py", line 2159, in serialize_graph\n    handle(node)\n{NO_CEIL}'
)


def chained(*errors):
    """Return the first error, raised from the second, and so on."""
    for outer, cause in itertools.pairwise(errors):
        outer.__cause__ = cause
    return errors[0]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (IndexError(), "IndexError: IndexError"),
        (
            chained(RuntimeError(ADVICE), ValueError(NODE), IndexError("list index")),
            f"IndexError: list index; then ValueError: {NODE}",
        ),
        (
            chained(RuntimeError("in aten.add: list index"), IndexError("list index")),
            "IndexError: list index; then RuntimeError: in aten.add:",
        ),
        (
            chained(RuntimeError("list index\n\nfrom user code:\nx[3]"), IndexError("list index")),
            "IndexError: list index",
        ),
    ],
)
def test_a_reason_is_the_root_cause_and_then_the_first_outer_text_that_says_more(error, reason):
    assert condense(error)[0] == reason


LINES = (
    "Arguments for call are not valid.",
    "The following variants are available:",
    "  ",
    "  aten::add.Tensor(Tensor self, Tensor other) -> Tensor:",
    "  Expected a value of type 'Tensor' for argument 'other' but instead found type 'List[int]'.",
    "  ",
    "  aten::add.Scalar(Tensor self, Scalar other) -> Tensor:",
    "  Expected a value of type 'number' for argument 'other' but instead found type 'List[int]'.",
    "",
    "The original call is:",
    "    return x + [1]",
)
OVERLOADS = "\n".join(LINES)


def test_of_many_overloads_the_first_is_kept_and_the_call():
    reason = condense(RuntimeError(OVERLOADS))[0]
    assert reason.count("Expected a value") == 1
    assert reason.endswith("The original call is: return x + [1]")


def test_lines_of_numbers_of_a_tensor_are_left_out():
    rows = "\n".join("-2.9143 -9.7252  inf" for _ in range(3))
    blocks = f"(1,.,.) = \nColumns 1 to 100.01 *\n{rows}\n\nColumns 11 to 20{rows}"
    text = f"detaching the gradient\nTensor:\n{blocks}\n[ torch.FloatTensor{{2,3,20}} ]"
    assert condense(RuntimeError(text))[0] == (
        "RuntimeError: detaching the gradient Tensor: [ torch.FloatTensor{2,3,20} ]"
    )


def test_of_a_script_the_line_that_raised_is_shown_not_the_functions_first():
    text = (
        "The following operation failed in the TorchScript interpreter.\n"
        "Traceback of TorchScript (most recent call last):\n"
        f'  File "{__file__}", line 7, in forward\n'
        "    def forward(self, x):\n        if x.sum() > 0:\n           ~~~~~~~ <--- HERE\n"
        "RuntimeError: no"
    )
    assert condense(RuntimeError(text))[1].text == "import pytest"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (NO_RESHAPE, "node node_view (Reshape): The input tensor cannot be reshaped: {3}"),
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid rank for input: x Got: 2",
            "Invalid rank for input: x Got: 2",
        ),
        (UNSAVED, f"Failed serializing node ceil; {NO_CEIL}"),
    ],
)
def test_an_error_is_told_without_the_place_in_the_sources_of_who_raised_it(text, shown):
    assert message_and_line(RuntimeError(text)) == (shown, None)


@pytest.mark.parametrize(
    "said",
    [
        f'\n  File "{__file__}", line 7\n    def forward(self, x):\n        return F.apply(x)\n',
        f"\n/lib/site-packages/torch/autograd/function.py(625): apply\n{__file__}(7): forward\n",
    ],
    ids=["script", "trace"],
)
def test_a_call_that_stays_python_has_the_line_that_makes_it(said):
    text = "Could not export Python function call 'F'"
    shown, where = message_and_line(RuntimeError(f"{text}. Remove calls to Python:{said}"))
    assert (shown, where.text) == (text, "import pytest")


def test_without_a_line_of_the_user_the_line_of_a_librarys_model_is_told(tmp_path):
    def raised_in(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("def forward():\n    raise ValueError\n")
        scope = {}
        exec(compile(path.read_text(), str(path), "exec"), scope)
        with pytest.raises(ValueError) as caught:
            scope["forward"]()
        error = caught.value
        return error.with_traceback(error.__traceback__.tb_next)  # without this file's frame

    library = tmp_path / "site-packages"
    where = condense(raised_in(library / "timm" / "layers.py"))[1]
    assert (where.place, where.text) == ("timm/layers.py:2", "raise ValueError")
    assert condense(raised_in(library / "torch" / "nn.py"))[1] is None


# -- the frame to name -----------------------------------------------------------------------------

LIBRARY = "/env/lib/python3.11/site-packages"
USER, MODEL = "/project/net.py", f"{LIBRARY}/timm/layers.py"
OTHER = f"{LIBRARY}/torch/functional.py"
CALLS = f"{LIBRARY}/torch/nn/modules/module.py"


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ((OTHER, USER, MODEL), 1),
        ((OTHER, MODEL, CALLS, USER), 1),  # a wrapper calls a library's module
        ((MODEL, MODEL, CALLS, MODEL, CALLS, USER), 0),
        ((MODEL, USER, CALLS), 1),  # the user calls a library's function
        ((CALLS, MODEL, USER), 2),
        ((OTHER, MODEL), 1),
        ((OTHER, CALLS), None),
        ((), None),
    ],
)
def test_the_frame_to_name_is_the_users_or_that_of_the_librarys_module_it_calls(files, named):
    assert innermost(files) == named
