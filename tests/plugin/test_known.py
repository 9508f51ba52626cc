"""Known failures as a user meets them: xfail, fixed, different, moved; what is written, and what never is."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from slow import slow

from pytest_torchexport import __main__ as program

SUITE = """
@pytest.mark.torchexport('mirror', 'liar', max_examples=1, checks=['parity'])
def test_net(torchexport, x):
    torchexport.check(Net(), x)
"""
CREATE = ("--torchexport-known=create", "--torchexport-known-reason=the team knows")
TIGHTEN = "--torchexport-known=tighten"
FILE = "torchexport-known/test_it/test_net.toml"
TWO = SUITE + SUITE.replace("test_net", "test_other")
FILES = ["test_it/test_net.toml", "test_it/test_other.toml"]


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def known(pytester):
    """The files of known failures: path to text."""

    def texts(directory="torchexport-known"):
        root = pytester.path / directory
        paths = sorted(root.rglob("*.toml"))
        return {str(path.relative_to(root)): path.read_text() for path in paths}

    return texts


def replaced_target(pytester, text):
    """Let the target ``liar`` make another artifact."""
    conftest = pytester.path / "conftest.py"
    body = re.sub(
        r"(def liar.*?    return )[^\n]*", rf"\1{text}", conftest.read_text(), flags=re.DOTALL
    )
    conftest.write_text(body)


def test_a_quiet_run_names_the_files_that_it_wrote_and_nothing_else(suite, run, text_of):
    suite(SUITE)
    text = text_of(run(*CREATE, "-q"))
    assert "written, to be committed: torchexport-known/test_it/test_net.toml" in text
    assert "known from now on" not in text
    assert "to be committed" not in text_of(run("-q"))


def test_what_is_created_is_an_xfail_until_it_is_fixed(suite, run, text_of, known, pytester):
    suite(SUITE)
    run().assert_outcomes(passed=1, failed=1)
    assert not (pytester.path / "torchexport-known").exists()

    created = run(*CREATE)
    created.assert_outcomes(passed=1, xfailed=1)
    assert "known from now on: 1 failure" in text_of(created)
    assert "written, to be committed: torchexport-known/test_it/test_net.toml" in text_of(created)
    (text,) = known().values()
    for line in (
        'test = "test_it.py::test_net"',
        'target = "liar"',
        'failure = "OutputsDiffer"',
        'outputs = ["output"]',
        'reason = "the team knows"',
    ):
        assert line in text.splitlines()

    again = run("-rx", "--torchexport-report=json:report.json")
    again.assert_outcomes(passed=1, xfailed=1)
    assert "the team knows (torchexport-known/test_it/test_net.toml:5)" in text_of(again)
    assert "known: 1 failure (see torchexport-known)" in text_of(again)
    items = json.loads((pytester.path / "report.json").read_text())["items"]
    (match,) = next(item["known"] for item in items if "liar" in item["nodeid"])
    assert (match["status"], match["known"]["reason"]) == ("known", "the team knows")
    assert run(*CREATE).ret == 0
    assert list(known().values()) == [text]

    replaced_target(pytester, "module")
    fixed = run()
    fixed.assert_outcomes(passed=1, failed=1)
    shown = text_of(fixed)
    assert (
        "Fixed: OutputsDiffer of Net on liar-cpu (output, values) does not occur any more" in shown
    )
    assert "torchexport-known/test_it/test_net.toml:5: the team knows" in shown
    assert TIGHTEN in shown
    assert list(known().values()) == [text]

    run(TIGHTEN).assert_outcomes(passed=2)
    assert known() == {}
    run().assert_outcomes(passed=2)


def test_another_failure_of_a_known_item_is_red_and_says_what_is_known(
    suite, run, text_of, pytester
):
    suite(SUITE)
    run(*CREATE)
    replaced_target(pytester, "lambda x: (module(x), module(x))")
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    shown = text_of(result)
    assert "known    another failure (torchexport-known/test_it/test_net.toml:5)" in shown
    assert "OutputsDiffer is known, this is StructureDiffers" in shown
    assert "different: test_it.py::test_net[liar-cpu]: StructureDiffers of Net" in shown


def test_a_test_that_moved_keeps_its_known_failure_and_tighten_renames_the_entry(
    suite, run, text_of, known, pytester
):
    suite(SUITE)
    run(*CREATE)
    (pytester.path / "test_it.py").rename(pytester.path / "test_new.py")
    moved = run()
    moved.assert_outcomes(passed=1, xfailed=1)
    assert (
        "moved: test_new.py::test_net[liar-cpu]: known of test_it.py::test_net with Net"
        in text_of(moved)
    )
    assert list(known()) == ["test_it/test_net.toml"]
    assert "moved: test_new.py::test_net[liar-cpu]" in text_of(run("-q"))
    run(TIGHTEN).assert_outcomes(passed=1, xfailed=1)
    assert list(known()) == ["test_new/test_net.toml"]
    assert 'test = "test_new.py::test_net"' in known()["test_new/test_net.toml"]


def test_what_was_accepted_until_a_date_is_red_afterwards_and_can_be_accepted_again(
    suite, run, text_of, known, pytester
):
    suite(SUITE)
    run(*CREATE)
    path = pytester.path / FILE
    path.write_text(path.read_text() + "until = 2020-01-01\n")
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    assert "it was accepted until 2020-01-01" in text_of(result)
    run(*CREATE).assert_outcomes(passed=1, xfailed=1)
    assert "until" not in known()["test_it/test_net.toml"]


@slow
def test_two_tests_that_claim_one_known_failure_are_red(suite, run, text_of, pytester):
    suite(SUITE)
    run(*CREATE)
    suite(SUITE.replace("test_net", "test_a") + SUITE.replace("test_net", "test_b"))
    result = run()
    result.assert_outcomes(passed=2, failed=1, xfailed=1)
    assert "claims the known failure of test_it.py::test_net too" in text_of(result)
    run(TIGHTEN)
    assert (pytester.path / FILE).exists()


def test_ci_writes_nothing_but_a_patch_that_git_applies(
    suite, run, text_of, known, pytester, monkeypatch
):
    suite(SUITE)
    run(*CREATE)
    before = known()
    replaced_target(pytester, "module")
    monkeypatch.setenv("CI", "true")
    result = run(TIGHTEN, "--torchexport-report=json:out/report.json")
    result.assert_outcomes(passed=1, failed=1)
    assert known() == before
    assert "git apply out/torchexport-known.patch" in text_of(result)
    assert known("out/torchexport-known-proposed") == {}
    subprocess.run(["git", "init", "-q"], check=True, cwd=pytester.path)
    subprocess.run(["git", "apply", "out/torchexport-known.patch"], check=True, cwd=pytester.path)
    assert known() == {}
    run().assert_outcomes(passed=2)
    replaced_target(pytester, "lambda x: module(x) + 1")
    result = run(*CREATE, "--torchexport-report=github:-")
    result.assert_outcomes(passed=1, failed=1)
    again = '--torchexport-known=create --torchexport-known-reason="the team knows"'
    assert f"torchexport-known.patch, or pytest {again}" in text_of(result)
    subprocess.run(
        ["git", "apply", ".torchexport/torchexport-known.patch"], check=True, cwd=pytester.path
    )
    run().assert_outcomes(passed=1, xfailed=1)


def test_what_did_not_run_is_kept(suite, run, known, pytester):
    suite(SUITE + SUITE.replace("test_net", "test_other"))
    run(*CREATE)
    before = known()
    replaced_target(pytester, "module")
    run(TIGHTEN, "-k", "test_other")
    assert list(known()) == ["test_it/test_net.toml"]
    assert known()["test_it/test_net.toml"] == before["test_it/test_net.toml"]
    run(TIGHTEN, "--torchexport-targets=mirror")
    assert list(known()) == ["test_it/test_net.toml"]


def test_a_test_that_is_not_defined_on_this_machine_is_kept(suite, run, known):
    suite(SUITE)
    run(*CREATE).assert_outcomes(passed=1, xfailed=1)
    before = known()

    elsewhere = SUITE.strip().replace("\n", "\n    ")
    suite(f"if not torch.ones(1).all():\n    {elsewhere}\ndef test_other(): pass\n")
    run(TIGHTEN).assert_outcomes(passed=1)
    assert known() == before

    suite("def test_other(): pass\n")
    run(TIGHTEN).assert_outcomes(passed=1)
    assert known() == {}


def test_a_file_that_is_wrong_is_refused_and_left_as_it_is(suite, run, text_of, pytester):
    suite(SUITE)
    run(*CREATE)
    path = pytester.path / FILE
    text = path.read_text().replace("reason", "raeson")
    path.write_text(text)
    for arguments in ((), (TIGHTEN,), CREATE):
        result = run(*arguments)
        assert result.ret == 4
        shown = text_of(result)
        assert f"{FILE}:5: unknown key 'raeson', did you mean 'reason'?; mend this entry" in shown
        assert "Traceback" not in shown
    assert path.read_text() == text


def test_create_without_a_reason_is_a_usage_error(suite, run, text_of):
    suite(SUITE)
    result = run("--torchexport-known=create")
    assert result.ret == 4
    assert "--torchexport-known-reason='...'" in text_of(result)


@slow
def test_with_xdist_the_workers_say_what_they_left_out(suite, run_apart, text_of, known, pytester):
    suite(TWO)
    run_apart("-n", "2", *CREATE)
    (pytester.path / "test_it.py").rename(pytester.path / "test_new.py")
    for arguments, why in (
        ([], "2 items were deselected"),
        (["test_new.py"], "only test_new.py was asked for"),
    ):
        result = run_apart("-n", "2", "-k", "mirror", *arguments)
        assert "left: 2 known failures of tests that are gone" in text_of(result)
        assert why in text_of(result)
        assert list(known()) == FILES
    run_apart("-n", "2", TIGHTEN)
    assert list(known()) == ["test_new/test_net.toml", "test_new/test_other.toml"]


@slow
def test_with_xdist_the_controller_alone_writes_and_sees_two_claims(
    suite, run_apart, text_of, known, pytester
):
    suite(SUITE)
    run_apart("-n", "2", *CREATE).assert_outcomes(passed=1, xfailed=1)
    assert list(known()) == ["test_it/test_net.toml"]
    suite(SUITE.replace("test_net", "test_a") + SUITE.replace("test_net", "test_b"))
    result = run_apart("-n", "2", "--dist=each", "--tx=2*popen")
    shown = text_of(result)
    assert "claims the known failure of test_it.py::test_net too" in shown
    suite("def test_plain(): pass\n")
    run_apart("-n", "2", TIGHTEN)
    assert known() == {}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-k", "test_other and mirror or test_plain"], "3 items were deselected"),
        (["-k", "test_plain"], "4 items were deselected"),
        (["--deselect", "test_new.py"], "4 items were deselected"),
        (["--torchexport-shard=1/3"], "4 items were deselected"),
        (["test_a.py"], "only test_a.py was asked for"),
        (["test_a.py::test_plain"], "only test_a.py::test_plain was asked for"),
        (["--torchexport-targets=mirror"], "leaves out targets"),
        (["--torchexport-devices=cpu", "-k", "mirror"], "--torchexport-devices leaves out devices"),
        (["-x"], "4 items did not run to the end"),
        (["--ignore=test_new.py"], "--ignore leaves out files"),
        (["--runxfail"], "--runxfail ignores known failures"),
    ],
)
def test_a_run_that_selects_keeps_the_entries_of_tests_that_moved_and_says_why(
    suite, run, text_of, known, pytester, arguments, why
):
    suite(TWO)
    run(*CREATE)
    before = known()
    (pytester.path / "test_it.py").rename(pytester.path / "test_new.py")
    pytester.makepyfile(test_a="def test_plain(): assert False")
    result = run(TIGHTEN, "-q", *arguments)
    assert known() == before
    (line,) = [line for line in text_of(result).splitlines() if line.startswith("left:")]
    assert line.startswith("left: 2 known failures of tests that are gone (torchexport-known/")
    assert line.endswith(why)


def test_a_run_that_selects_moves_only_the_entries_of_what_it_ran(suite, run, known, pytester):
    suite(TWO)
    run(*CREATE)
    (pytester.path / "test_it.py").rename(pytester.path / "test_new.py")
    run(TIGHTEN, "-k", "test_other")
    assert list(known()) == ["test_it/test_net.toml", "test_new/test_other.toml"]


def test_a_renamed_function_that_was_not_run_keeps_its_entry(suite, run, known):
    suite(TWO)
    run(*CREATE)
    suite(TWO.replace("test_net", "test_new"))
    run(TIGHTEN, "-k", "test_other")
    assert list(known()) == FILES
    run(TIGHTEN)
    assert list(known()) == ["test_it/test_new.toml", "test_it/test_other.toml"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("pytest.skip('not today')", "test_new.py::test_net[liar-cpu] was not judged"),
        (
            "try:\n        torchexport.check(Net(), x)\n    finally:\n        assert False",
            "not judged",
        ),
    ],
)
def test_a_test_that_was_not_judged_may_be_the_one_that_moved(
    suite, run, text_of, known, pytester, body, why
):
    suite(SUITE)
    run(*CREATE)
    before = known()
    suite(SUITE.replace("torchexport.check(Net(), x)", body))
    (pytester.path / "test_it.py").rename(pytester.path / "test_new.py")
    assert why in text_of(run(TIGHTEN))
    assert known() == before


def test_what_this_machine_does_not_run_may_have_moved_too(suite, run, text_of, known, pytester):
    suite(SUITE)
    run(*CREATE)
    path = pytester.path / FILE
    cuda = path.read_text().replace('device = "cpu"', 'device = "cuda"')
    suite(f"pytest.importorskip('no_such_module')\n{SUITE}")
    (pytester.path / "test_it.py").rename(pytester.path / "test_new.py")
    assert "test_new.py was not collected" in text_of(run(TIGHTEN))
    assert list(known()) == ["test_it/test_net.toml"]
    path.write_text(path.read_text() + 'when = ["torch < 1"]\n')
    suite("def test_plain(): pass\n")
    (pytester.path / "test_new.py").unlink()
    assert "it is accepted only when torch < 1" in text_of(run(TIGHTEN))
    assert list(known()) == ["test_it/test_net.toml"]
    path.write_text(cuda)
    assert "nothing was checked on cuda" in text_of(run(TIGHTEN))
    assert list(known().values()) == [cuda]


def test_shards_of_targets_leave_a_patch_that_moves_all_entries(
    suite, run, known, pytester, monkeypatch
):
    suite(SUITE.replace("'mirror', 'liar'", "'liar', 'raiser'"))
    run(*CREATE)
    (pytester.path / "test_it.py").rename(pytester.path / "test_new.py")
    monkeypatch.setenv("CI", "true")
    for target in ("liar", "raiser"):
        run(f"--torchexport-targets={target}", f"--torchexport-report=json:out/{target}/a.json")
    program.main(["render", "out/liar", "out/raiser", "--known-patch=all.patch"])
    subprocess.run(["git", "init", "-q"], check=True, cwd=pytester.path)
    subprocess.run(["git", "apply", "all.patch"], check=True, cwd=pytester.path)
    (text,) = known().values()
    assert list(known()) == ["test_new/test_net.toml"]
    assert re.findall('target = "(.*)"', text) == ["liar", "raiser"]
