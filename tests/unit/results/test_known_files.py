"""results/known_files.py: the files are read in every point, written whole, and lose nothing."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from known_entries import ENTRY, other

from pytest_torchexport.results import known_files, reports
from pytest_torchexport.results.known_failure import KnownFailure
from pytest_torchexport.results.known_files import Changes, KnownFilesError, file_of, parse, render

FILE = "tests/test_net/TestNet.test_it.toml"
TEXT = """\
version = 1

[[failure]]
test = "a.py::test"
target = "onnx"
device = "cpu"
subject = "Net"
failure = "OutputsDiffer"
reason = "why"
"""


def entries(directory):
    return [each.entry for each in known_files.read(directory)]


@pytest.fixture
def apply(tmp_path):
    def run(directory=tmp_path / "known", **changes):
        return known_files.apply(directory, Changes(**changes), tmp_path / "lock")

    return run


def test_what_is_written_is_read_again_and_written_the_same(tmp_path, apply):
    directory = tmp_path / "known"
    bare = KnownFailure(
        test="a.py::test", target="t", device="cpu", subject="f", failure="LoadFailed", reason="r"
    )
    apply(added=[ENTRY, bare, other(2)])
    assert sorted(entries(directory), key=str) == sorted([ENTRY, bare, other(2)], key=str)
    text = (directory / FILE).read_text()
    assert text.count("[[failure]]") == 2
    assert render(each.entry for each in reversed(parse(text, FILE, directory))) == text
    assert "until = 2027-06-30" in text.splitlines()


def test_characters_that_do_not_show_are_escaped_and_a_file_with_a_surrogate_can_be_read(
    tmp_path, apply
):
    apply(added=[dataclasses.replace(ENTRY, reason="why \udcff \u202e")])
    assert "\\u202e" in (tmp_path / "known" / FILE).read_text(encoding="utf-8")
    assert [each.reason for each in entries(tmp_path / "known")] == ["why \ufffd \u202e"]


def test_the_file_is_named_after_file_class_and_test():
    assert file_of(ENTRY.test) == FILE
    assert file_of("test_a.py::test_b") == "test_a/test_b.toml"
    assert file_of("../up/test_a.py::test_b") == "up/test_a/test_b.toml"


def test_only_files_whose_entries_change_are_written(tmp_path, apply):
    directory = tmp_path / "known"
    apply(added=[ENTRY, other(2, test="a.py::test")])
    by_hand = "# mine\n" + (directory / "a/test.toml").read_text()
    (directory / "a/test.toml").write_text(by_hand)
    assert apply(added=[ENTRY]) == []
    apply(removed=[ENTRY])
    assert not (directory / "tests").exists()
    assert (directory / "a/test.toml").read_text() == by_hand


def test_an_entry_is_found_wherever_a_merge_has_put_it(tmp_path, apply):
    directory = tmp_path / "known"
    apply(added=[ENTRY])
    (directory / FILE).rename(directory / "elsewhere.toml")
    assert entries(directory) == [ENTRY]
    apply(added=[ENTRY])
    assert entries(directory) == [ENTRY]
    apply(removed=[ENTRY])
    assert entries(directory) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1", "version = 2", ":1: version 2; a newer pytest-torchexport has written it"),
        ("version = 1", "", ":1: it has no version"),
        ("version = 1", "version = 1\nextra = 3", ":2: unknown key 'extra'"),
        ('"onnx"', '"onnx', ":5: no TOML"),
        ("[[failure]]\n", "<<<<<<< ours\n[[failure]]\n", ":3: it has conflict markers; keep the"),
        ("[[failure]]", "[failure]", ":1: entries have to begin with a line [[failure]]"),
        ('reason = "why"\n', "", ":3: 'reason' is missing or empty; mend this entry"),
        ('"why"', '"  "', ":3: 'reason' is missing or empty"),
        ('"why"', "3", ":3: 'reason' is not a string"),
        ("reason =", "raeson =", ":3: unknown key 'raeson', did you mean 'reason'?"),
        ('"OutputsDiffer"', '"Outputs"', ":3: 'failure': 'Outputs' is no failure class"),
        ('"OutputsDiffer"', '"Failure"', ":3: 'failure': an error of the plugin itself"),
        ('"why"', '"why"\nuntil = "soon"', ":3: 'until' is no date; write it like 2030-12-31"),
        ('"why"', '"why"\nwhen = "soon!"', ":3: 'when': 'soon!' is no requirement"),
        ('"why"', '"why"\noutputs = [1]', ":3: 'outputs' is not a list of strings"),
        ('"why"', '"why"\nsizes = { batch = "some" }', ":3: 'some' is no pattern of sizes"),
        ('"why"', '"why"\npartial = 1', ":3: 'partial' is not true or false"),
        ('"why"', '"why"\nerror = "big"', ":3: 'error' is not a number"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_line_and_next_step(
    tmp_path, apply, old, new, message
):
    directory, text = tmp_path / "known", TEXT.replace(old, new)
    path = directory / "a/test.toml"
    reports.write(path, TEXT)
    assert len(entries(directory)) == 1
    path.write_text(text)
    for act in (lambda: known_files.read(directory), lambda: apply(added=[ENTRY])):
        with pytest.raises(KnownFilesError) as found:
            act()
        assert f"a/test.toml{message}" in str(found.value)
    assert path.read_text() == text
    assert list(directory.rglob("*.toml")) == [path]


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    whole = render([ENTRY, other(2)])
    read = set()
    for end in range(len(whole)):
        try:
            found = parse(whole[:end], "a.toml", tmp_path)
        except KnownFilesError:
            continue
        read.add(len(found))
        assert {each.entry.identity for each in found} <= {ENTRY.identity, other(2).identity}
    assert read <= {0, 1, 2}


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from test_known_files import other\n"
        "from pytest_torchexport.results import known_files\n"
        "number = int(sys.argv[1]); directory = Path('known')\n"
        "for each in range(number * 10, number * 10 + 10):\n"
        "    changes = known_files.Changes(added=[other(each)])\n"
        "    known_files.apply(directory, changes, Path('lock'))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
        )
        for number in range(3)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert {each.subject for each in entries(tmp_path / "known")} == {f"Net{n}" for n in range(30)}


@pytest.mark.parametrize("writes", [0, 1])
def test_a_run_that_is_killed_while_it_writes_loses_nothing(tmp_path, apply, monkeypatch, writes):
    directory = tmp_path / "known"
    apply(added=[ENTRY, other(2, test="b.py::test")])
    moved = dataclasses.replace(ENTRY, test="new.py::test")
    done = []

    def killed(path, text):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        write(path, text)

    write = reports.write
    monkeypatch.setattr(reports, "write", killed)
    monkeypatch.setattr(known_files.Path, "unlink", lambda *_, **__: killed(None, None))
    with pytest.raises(KeyboardInterrupt):
        apply(added=[moved], removed=[ENTRY])
    left = {each.identity for each in entries(directory)}
    assert other(2, test="b.py::test").identity in left
    assert left & {ENTRY.identity, moved.identity}


def test_a_file_that_another_run_removes_meanwhile_has_no_entries(tmp_path, apply, monkeypatch):
    apply(added=[ENTRY, other(3, test="b.py::test")])
    real = Path.read_text

    def read_text(path, **how):
        if path.name == "test.toml":
            path.unlink()
        return real(path, **how)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert entries(tmp_path / "known") == [ENTRY]
