"""eager/queries.py: what forward asks about its run is found with its lines, and can be answered."""

from __future__ import annotations

import linecache
import os
import signal
import threading

import pytest
import torch
from torch import nn
from torch.jit import is_tracing

from pytest_torchexport.eager.queries import answering, queries, survives
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.torch_state import GradMode
from pytest_torchexport.torch_private.circumstances import export_queries

X = torch.ones(2)
ASKS = {name: getattr(*place) for name, place in export_queries().items()}
TRACING = {"torch.jit.is_tracing": True}
GRAD = {"torch.is_grad_enabled": False}


def found(function, names=ASKS, grad_mode=GradMode.GRAD):
    return queries(Subject.of(function, grad_mode), Call((X,)), 0, names)


def once(x):
    return x + 1 if torch.jit.is_tracing() else x


def by_name(x):
    return x + 1 if is_tracing() else x


def twice(x):
    x = x + 1 if is_tracing() else x
    return x + 10 if is_tracing() else x


@pytest.mark.parametrize("name", ASKS)
def test_what_is_asked_is_found_with_its_line(name):
    def forward(x):
        return x + bool(ASKS[name]()) if name == "torch.jit.is_tracing" else x + bool(ask(name))

    (query,) = found(forward)
    assert query.name == name
    assert "ask" in query.lines[0].text.lower()
    assert query.where == query.lines[-1]


def ask(name):
    owner, attribute = export_queries()[name]
    return getattr(owner, attribute)()  # asks


def test_a_function_that_was_imported_by_name_is_found_and_answered():
    (query,) = found(by_name)
    assert "is_tracing()" in query.where.text
    assert answering(by_name, TRACING)(X).tolist() == [2, 2]
    assert by_name(X).tolist() == [1, 1]
    assert found(once, ("torch.jit.is_scripting",)) == ()


def test_an_answer_is_given_at_the_places_that_are_named():
    first, second = found(twice)
    assert answering(twice, TRACING)(X).tolist() == [12, 12]
    assert answering(twice, TRACING, [first])(X).tolist() == [2, 2]
    assert answering(twice, TRACING, [second])(X).tolist() == [11, 11]
    assert answering(twice, TRACING, [])(X).tolist() == [1, 1]


def library(tmp_path, **sources):
    """Return the namespaces of the modules of an installed package."""
    spaces = {}
    for name, source in sources.items():
        path = tmp_path / "site-packages" / "lib" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        linecache.checkcache(str(path))
        space = spaces[name] = {"torch": torch, "nn": nn, **spaces}
        exec(compile(source, str(path), "exec"), space)
    return spaces


def test_a_librarys_question_has_its_line_its_asker_and_the_users_line(tmp_path):
    spaces = library(
        tmp_path,
        helper="def is_lib_compiling():\n    return torch.compiler.is_compiling()\n",
        block=(
            "class Block(nn.Module):\n    def forward(self, x):\n"
            "        return x * 2 if helper['is_lib_compiling']() else x\n"
        ),
    )
    block = spaces["block"]["Block"]()

    def forward(x):
        return block(x)

    (query,) = found(forward)
    assert [line.text for line in query.lines] == [
        "return torch.compiler.is_compiling()",
        "return x * 2 if helper['is_lib_compiling']() else x",
        "return block(x)",
    ]
    assert query.lines[0].file.endswith("lib/helper.py")
    assert not query.of_torch
    # The line that uses the answer is named, and not a helper's that only asks.
    (alone,) = found(block)
    assert {query.where, alone.where} == {query.lines[1]}


def test_torchs_layers_ask_too_and_its_other_code_does_not_count():
    layer = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True).eval()
    asked = queries(Subject.of(layer, GradMode.GRAD), Call((torch.ones(1, 2, 4),)), 0, GRAD)
    assert {(query.of_torch, query.where) for query in asked} == {(True, None)}
    assert found(nn.Linear(2, 2)) == ()


def test_the_functions_are_put_back_if_forward_raises():
    def forward(x):
        torch.jit.is_tracing()
        raise ValueError("stop")

    before = {name: getattr(function, "__code__", function) for name, function in ASKS.items()}
    assert len(found(forward)) == 1
    with pytest.raises(ValueError, match="stop"):
        answering(forward, TRACING)(X)
    after = {name: getattr(*place) for name, place in export_queries().items()}
    assert {name: getattr(f, "__code__", f) for name, f in after.items()} == before


def test_other_threads_get_the_real_answer():
    answers = []

    def forward(x):
        thread = threading.Thread(target=lambda: answers.append(is_tracing()))
        thread.start()
        thread.join()
        answers.append(is_tracing())
        return x

    answering(forward, TRACING)(X)
    assert answers == [False, True]


def test_code_that_ends_the_process_is_tried_in_a_fork():
    def dies(x):
        if is_tracing():
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    def survives_with(function):
        return survives(Subject.of(function), Call((X,)), 0, TRACING, found(function))

    assert not survives_with(dies)
    assert survives_with(once)
