"""commands/comment.py: one comment, edited in place, and only if something changed."""

from __future__ import annotations

import os

import pytest
from fake_providers import TOKEN, serving, variables
from sample import HOSTILE, failed, item, run_of, verdict

from pytest_torchexport.commands import comment
from pytest_torchexport.commands.providers import PROVIDERS
from pytest_torchexport.results import json

OLD = run_of(item("t.py::a", verdict()), item("t.py::b", failed()))
WORSE = run_of(item("t.py::a", failed()), item("t.py::b", verdict()))
GREEN = run_of(item("t.py::a", verdict()), item("t.py::b", verdict()))
RED = run_of(item(f"t.py::{HOSTILE}", failed(reason=HOSTILE)))
SLOWER = run_of(item("t.py::a", verdict(seconds={"export": 9.0})), item("t.py::b", failed()))
MARKER = "<!-- pytest-torchexport: torchexport. -->"


@pytest.fixture(params=sorted(PROVIDERS))
def board(request, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("GITHUB_", "GITLAB_", "CI_")):
            monkeypatch.delenv(name)
    with serving(request.param) as served:
        for name, value in variables(request.param, served).items():
            monkeypatch.setenv(name, value)
        served.provider = request.param
        yield served


@pytest.fixture
def call(board, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(new, old=None, *arguments):
        (tmp_path / "new.json").write_text(json.render(new))
        given = ["new.json", "--provider", board.provider, *arguments]
        if old is not None:
            (tmp_path / "old.json").write_text(json.render(old))
            given += ["--old", "old.json"]
        board.seen.clear()
        status = comment.main("comment", given)
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        return status, out, err

    return run


def test_the_comment_is_created_edited_and_left_alone(call, board):
    assert call(OLD, OLD) == (0, "comment: nothing changed, so there is none\n", "")
    assert board.texts == []
    assert call(WORSE, OLD)[:2] == (0, "comment: created\n")
    (text,) = board.texts
    assert text.startswith(f"{MARKER}\r\n**torchexport: 1 new failure, 1 fixed**\r\n")
    assert call(WORSE, OLD)[:2] == (0, "comment: left as it is\n")
    assert board.seen == ["list"]
    assert call(GREEN, OLD)[:2] == (0, "comment: edited\n")
    assert board.texts[0].startswith(f"{MARKER}\n**torchexport: 1 fixed**\n")
    assert call(OLD, OLD)[:2] == (0, "comment: edited\n")
    assert board.texts == [f"{MARKER}\n**torchexport: no change**\n"]


def test_without_an_earlier_run_only_what_is_not_green_is_news(call, board):
    assert "there is none" in call(GREEN)[1]
    assert "created" in call(run_of(*GREEN.items, complete=False))[1]
    assert "edited" in call(RED)[1]
    assert "edited" in call(GREEN)[1]
    assert board.texts == [f"{MARKER}\n**torchexport: all green again**\n"]


def test_a_slower_export_alone_makes_no_comment(call, board):
    old = run_of(item("t.py::a", verdict(seconds={"export": 1.0})), item("t.py::b", failed()))
    assert "there is none" in call(SLOWER, old)[1]
    assert board.seen == ["list"]


def test_a_comment_of_somebody_else_is_never_edited(call, board):
    for number in range(3):
        board.add("somebody", f"{MARKER}\n{number}")
    board.add("bot", f"text\n{MARKER}")
    before = board.texts
    assert "created" in call(RED)[1]
    assert board.texts[:4] == before
    assert board.seen == ["list", "list", "create"]
    assert "left as it is" in call(RED)[1]


def test_each_gate_has_its_own_comment(call, board):
    call(RED)
    call(RED, None, "--name", "torchexport.gpu")
    assert len(board.texts) == 2


def test_hostile_names_stay_text(call, board):
    call(RED)
    (text,) = board.texts
    markup = "".join(text.split("````")[::2])  # without the block of code
    assert markup.count("<!--") == 1  # the marker
    assert "<script" not in markup
    assert "@me" not in markup
    assert "\udc80" not in text


def test_a_job_that_may_not_comment_is_not_red(call, board, monkeypatch):
    forbidden = '{"errors": [{"type": "FORBIDDEN", "message": "not accessible by integration"}]}'
    for status in (403, 200) if board.provider == "github" else (403,):
        board.answer = (status, forbidden)
        done, out, err = call(RED)
        assert (done, err) == (0, "")
        assert out.startswith("no comment: ")
        assert "permission" in out or "role" in out
    token = "GITHUB_TOKEN" if board.provider == "github" else "GITLAB_TOKEN"
    monkeypatch.delenv(token)
    assert f"the variable {token} is not set" in call(RED)[1]
    monkeypatch.delenv("GITHUB_REF", raising=False)
    monkeypatch.delenv("CI_MERGE_REQUEST_IID", raising=False)
    assert "this job does not run for a " in call(RED)[1]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((500, "{}"), "500 Internal Server Error"),
        ((401, "{}"), "401 Unauthorized"),
        # The token would go to wherever a redirect leads.
        ((302, "{}"), "302 Found"),
        ((200, "<html>"), "Expecting value"),
        ((200, "{}"), "an answer without"),
    ],
)
def test_a_server_that_fails_is_an_error(call, board, answer, why):
    board.answer = answer
    status, out, err = call(RED)
    assert (status, out) == (2, "")
    assert why in err
    assert board.url in err


def test_a_dry_run_connects_to_nobody(call, board, monkeypatch):
    for name in variables(board.provider, board):
        monkeypatch.delenv(name)
    status, out, _ = call(WORSE, OLD, "--dry-run")
    assert (status, board.seen) == (0, [])
    assert out.startswith(f"{MARKER}\n**torchexport: 1 new failure, 1 fixed**\n")
    assert out.endswith("dry run: comment\n")
    assert call(OLD, OLD, "--dry-run")[1].endswith("dry run: nothing to say\n")


def test_a_name_that_could_end_the_marker_is_refused(call):
    status, _, err = call(RED, None, "--name", "a --> b")
    assert status == 2
    assert "--name 'a --> b': legal are" in err
