"""The gate for CI: action.yml, .github/workflows/gate.yml and templates/gate.yml.

Their commands run here as a shell runs them, on reports made by hand: ``python -m pytest`` and pip are replaced, the
commands of the package are not. Only GitHub and GitLab themselves can run the whole.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sample import HOSTILE, failed, item, run_of, verdict

from pytest_torchexport.config.validate import KNOWN_MODES
from pytest_torchexport.results import json

ROOT = Path(__file__).parents[1]
if not (ROOT / "action.yml").exists():
    pytest.skip("a sdist has no gate", allow_module_level=True)
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
# YAML takes the key "on" for a boolean.
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/gate.yml").read_text(encoding="utf-8"))
SPEC, JOBS = yaml.safe_load_all((ROOT / "templates/gate.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "name" in step}
STEPS_OF_JOBS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
USES = [step for step in [*ACTION["runs"]["steps"], *STEPS_OF_JOBS] if "uses" in step]
SCRIPTS = {
    **{f"action, {name}": step["run"] for name, step in STEPS.items() if "run" in step},
    **{f"workflow, {i}": step["run"] for i, step in enumerate(STEPS_OF_JOBS) if "run" in step},
    **{
        f"GitLab, {name}, {part}": "\n".join(job[part])
        for name, job in JOBS.items()
        for part in ("before_script", "script")
        if part in job
    },
}
EXPRESSION = re.compile(r"\$\{\{ *([\w.-]+) *\}\}")
INPUT = re.compile(r"\$\[\[ *inputs\.([\w-]+) *\]\]")
INJECTED = "-k 'a or b' $(touch pwned) `touch pwned` ; touch pwned"

GREEN = run_of(item("t.py::a", verdict()))
RED = run_of(item(f"t.py::{HOSTILE}$(touch pwned)`touch pwned`", failed(reason="$(touch pwned)")))
PYTHON = f"""#!{sys.executable} -I
import os, shutil, sys
if sys.argv[1:3] == ["-m", "pytest"]:
    with open(os.environ["CALLS"], "a") as calls:
        print(sys.argv[3:], os.environ["PYTEST_ADDOPTS"].strip(), file=calls)
    report = sys.argv[sys.argv.index("--torchexport-report") + 1].removeprefix("json:")
    if "SAMPLE" in os.environ:
        shutil.copy(os.environ["SAMPLE"], report)
    if "WRITES" in os.environ:
        os.makedirs("torchexport-known", exist_ok=True)
        with open("torchexport-known/" + os.environ["WRITES"], "w") as known:
            known.write("version = 1")
    sys.exit(int(os.environ.get("PYTEST_STATUS", "0")))
if sys.argv[1:3] == ["-m", "pip"]:
    with open(os.environ["CALLS"], "a") as calls:
        print(*sys.argv[3:], sep="|", file=calls)
    sys.exit(0)
os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
"""
# GitHub's command, which says which comments it finds.
GH = """#!/bin/sh
printf '%s|' "$@" >> "$CALLS.gh"
for last; do :; done
case "$last" in
  body=@*) cat "${last#body=@}" >> "$CALLS.gh" ;;
  *) printf '%s' "$FOUND" ;;
esac
exit "${GH_STATUS:-0}"
"""


# -- what the files say ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_is_legal_and_takes_values_from_variables_alone(name):
    script = SCRIPTS[name]
    shell = "sh" if name.startswith("GitLab") else "bash"
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # An expression is put into the script as text, so that a name of a branch could be a command.
    assert "${{" not in script
    assert "$[[" not in script
    if found := shutil.which("shellcheck"):
        subprocess.run([found, "-s", shell, "-"], input=script, text=True, check=True)


def test_only_actions_of_github_and_our_own_are_used_and_each_has_a_version():
    assert len(USES) > 5
    for step in USES:
        own = step["uses"] == "./.torchexport-action"
        assert own or re.fullmatch(r"actions/[\w/-]+@v\d+", step["uses"]), step["uses"]


def test_no_checkout_leaves_a_token_for_the_tests():
    checkouts = [step for step in USES if step["uses"].startswith("actions/checkout@")]
    assert len(checkouts) == 3
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)
    assert WORKFLOW["jobs"]["shard"]["permissions"] == {"contents": "read"}
    assert all("TOKEN" not in str(STEPS[name]) for name in STEPS if name != "Comment")


def test_the_workflow_and_the_template_offer_what_the_action_does():
    offered = WORKFLOW[True]["workflow_call"]["inputs"]
    for step in USES:
        if step["uses"] == "./.torchexport-action":
            assert set(step["with"]) <= set(ACTION["inputs"])
            used = re.findall(r"inputs\.([\w-]+)", str(step["with"]))
            assert set(used) <= set(offered)
    inputs = SPEC["spec"]["inputs"]
    assert inputs["known"]["options"] == list(KNOWN_MODES)
    assert set(INPUT.findall(str(JOBS))) == set(inputs)


# -- what the commands do --------------------------------------------------------------------------


class Machine:
    """A machine of CI: runs scripts in ``work``, with our ``python`` first on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self.calls, self.temp = folder / "calls", folder / "temp"
        self.summary = folder / "summary.md"
        for path in (folder / "bin", self.work, self.temp):
            path.mkdir()
        for name, text in {"python": PYTHON, "gh": GH}.items():
            command = folder / "bin" / name
            command.write_text(text)
            command.chmod(command.stat().st_mode | stat.S_IXUSR)
        subprocess.run(["git", "init", "-q"], cwd=self.work, check=True)
        self.variables = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CALLS": str(self.calls),
            "CI": "true",
        }

    def sample(self, results, *, status=0, known="") -> None:
        """Have the next ``python -m pytest`` write these results, and this file of known failures."""
        (self.folder / "sample.json").write_text(json.render(results))
        self.variables |= {"SAMPLE": f"{self.folder}/sample.json", "PYTEST_STATUS": str(status)}
        self.variables |= {"WRITES": known} if known else {}

    def shell(self, script: str, **more: str) -> subprocess.CompletedProcess[str]:
        # As the systems call a shell, but for -u: a variable that nobody sets is a typing error.
        shell = ["bash", "--noprofile", "--norc", "-euo", "pipefail", "-c"]
        if "GITHUB_ACTION_PATH" not in more:
            shell = ["sh", "-eu", "-c"]
        done = subprocess.run(
            [*shell, script],
            cwd=self.work,
            env=self.variables | more,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not list(self.folder.rglob("pwned"))
        return done

    def action(self, *names: str, event="pull_request", **inputs: str) -> tuple[int, str]:
        """Run steps of the action as GitHub does; return the status of the last one and the log."""
        given = {name: each.get("default", "") for name, each in ACTION["inputs"].items()}
        given |= {name.replace("_", "-"): value for name, value in inputs.items()}
        outputs: dict[str, str] = {}
        log, status = "", 0
        for name in names:
            step = STEPS[name]
            values = {f"inputs.{key}": value for key, value in given.items()}
            values |= {f"steps.report.outputs.{key}": value for key, value in outputs.items()}
            values["github.event.pull_request.number"] = "7"
            own = {
                key: EXPRESSION.sub(lambda found: values.get(found[1], ""), value)  # noqa: B023 - called at once
                for key, value in step["env"].items()
            }
            out = self.folder / "output"
            out.write_text("")
            runner = {
                "GITHUB_ACTION_PATH": str(ROOT),
                "GITHUB_EVENT_NAME": event,
                "GITHUB_OUTPUT": str(out),
                "GITHUB_REPOSITORY": "a/b",
                "GITHUB_STEP_SUMMARY": str(self.summary),
                "RUNNER_TEMP": str(self.temp),
            }
            done = self.shell(step["run"], **{**runner, **own})
            outputs |= dict(line.split("=", 1) for line in out.read_text().splitlines())
            log, status = log + done.stdout + done.stderr, done.returncode
            if status:
                break
        return status, log

    def gitlab(self, job: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the scripts of a job as GitLab does; inputs are given by name, as in ``known=``."""
        given = {key: str(each.get("default", "")) for key, each in SPEC["spec"]["inputs"].items()}
        inputs = {key: more.pop(key.replace("-", "_"), value) for key, value in given.items()}
        own = {
            name: INPUT.sub(lambda found: inputs[found[1]], value)
            for name, value in JOBS[job]["variables"].items()
        }
        parts = (SCRIPTS[f"GitLab, {job}, {part}"] for part in ("before_script", "script"))
        return self.shell("\n".join(parts), **own, **more)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_one_job_runs_the_tests_and_reports_and_comments(machine):
    (machine.work / ".torchexport/test_a").mkdir(parents=True)
    (machine.work / ".torchexport/test_a/reproduce.py").write_text("")
    machine.sample(RED, status=1, known="a.toml")
    machine.variables["FOUND"] = ""
    given = {"pytest_args": INJECTED, "known": "create", "known_reason": "$(x)"}
    status, log = machine.action("Run the tests", "Report", "Comment", "Verdict", **given)
    assert status == 1, log
    call = machine.calls.read_text()
    assert call.rstrip().endswith(INJECTED)
    assert "'--torchexport-shard', '1/1', '--torchexport-known', 'create'" in call
    assert "'--torchexport-known-reason', '$(x)'" in call
    assert "::error file=net.py,line=12" in log
    assert machine.summary.read_text().startswith("**torchexport: 1 failed**")
    report = machine.temp / "torchexport/report"
    assert "+version = 1" in (report / "torchexport-known.patch").read_text()
    assert "<html" in (report / "report.html").read_text()
    assert (machine.temp / "torchexport/reproducers/test_a/reproduce.py").is_file()
    assert json.read((machine.work / "torchexport-earlier/report.json").read_text()).items
    # What the steps of others keep is what ours have written.
    kept = [step["with"]["path"] for step in USES if re.search("upload|cache", step["uses"])]
    assert len(kept) == 5
    for path in kept:
        temp = path.replace("${{ runner.temp }}", str(machine.temp))
        assert any((machine.work / temp).iterdir()), path


def test_what_is_installed_comes_from_the_input_and_from_the_action_itself(machine):
    machine.action("Install", install="-e '.[a, b]'\ntorch==2.13.0 $(touch pwned)", extras="onnx")
    machine.action("Install", extras="")
    machine.action("Install", merge="4", install="-e .")
    assert machine.calls.read_text().splitlines() == [
        "install|-e|.[a, b]|torch==2.13.0|$(touch|pwned)",
        f"install|{ROOT}[onnx]",
        f"install|{ROOT}",
        f"install|{ROOT}",
    ]


def test_shards_are_merged_compared_with_the_earlier_run_and_all_must_be_there(machine):
    (machine.work / "torchexport-earlier").mkdir()
    earlier = run_of(item("t.py::a", failed()), item("t.py::b", verdict()))
    (machine.work / "torchexport-earlier/report.json").write_text(json.render(earlier))
    for number, results in (("1", GREEN), ("2", run_of(item("t.py::b", verdict())))):
        machine.sample(results, known=f"{number}.toml", status=5 if number == "2" else 0)
        given = {"shard": f"{number}/2", "known": "create", "known_reason": "why"}
        status, log = machine.action("Run the tests", "Verdict", **given)
        subprocess.run(["git", "rm", "-rfq", "torchexport-known"], cwd=machine.work, check=True)
        assert status == 0, log
        shards = machine.temp / "torchexport/shards"
        shutil.move(machine.temp / "torchexport/shard", shards / f"torchexport-shard-{number}")
    status, log = machine.action("Report", "Verdict", merge="2")
    assert status == 0, log
    assert machine.summary.read_text().startswith("**torchexport: 1 fixed**")
    report = machine.temp / "torchexport/report"
    subprocess.run(
        ["git", "apply", f"{report}/torchexport-known.patch"], cwd=machine.work, check=True
    )
    assert sorted(path.name for path in machine.work.rglob("*.toml")) == ["1.toml", "2.toml"]

    # The earlier report may be of a later version.
    newer = json.render(GREEN).replace('"version": 2', '"version": 9')
    (machine.work / "torchexport-earlier/report.json").write_text(newer)
    status, log = machine.action("Report", "Verdict", merge="2")
    assert status == 0, log
    assert "::notice::the earlier report cannot be read" in log

    status, log = machine.action("Report", "Verdict", merge="3")
    assert status == 2
    assert "2 of 3 reports are there" in log


def test_a_run_without_a_report_and_a_failure_that_is_not_ours_make_the_gate_red_too(machine):
    machine.variables["PYTEST_STATUS"] = "4"
    status, log = machine.action("Run the tests", "Report", "Comment", "Verdict")
    assert status == 2
    assert "no *.json file is in this folder" in log
    machine.sample(GREEN, status=1)
    status, log = machine.action("Run the tests", "Report", "Verdict")
    assert status == 1
    assert "::error::all exports are green, but pytest failed" in log


def test_the_code_of_a_fork_gets_no_token_that_can_write(machine):
    status, log = machine.action("Run the tests", event="pull_request_target")
    assert status == 2
    assert "::error::pull_request_target" in log
    assert not machine.calls.exists()


def test_a_red_gate_comments_and_its_comment_is_kept_up_to_date(machine):
    def commented(results, found="", **more):
        machine.sample(results)
        machine.variables |= {"FOUND": found, **more}
        calls = machine.folder / "calls.gh"
        calls.unlink(missing_ok=True)
        status, log = machine.action("Run the tests", "Report", "Comment", token="secret-token")
        assert status == 0
        assert "secret-token" not in log
        return calls.read_text().split("api|--"), log

    marker = "<!-- pytest-torchexport: torchexport. -->\n**torchexport: 1 "
    (_, search, written), _ = commented(RED)
    assert search.startswith("paginate|repos/a/b/issues/7/comments|--jq|.[] | select(.body")
    assert written.startswith("silent|repos/a/b/issues/7/comments|--field|body=@")
    assert f"{marker}failed**" in written
    (_, _, edited), _ = commented(GREEN, found="31\n32")
    assert edited.startswith("silent|--method|PATCH|repos/a/b/issues/comments/31|--field|body=@")
    assert f"{marker}gone**" in edited
    assert len(commented(GREEN)[0]) == 2  # nothing is found, and nothing is written
    assert "::warning::the comment was not written" in commented(RED, GH_STATUS="1")[1]


def test_the_gate_of_gitlab_runs_merges_and_comments(machine):
    given = {"pytest_args": INJECTED, "known_reason": "$(x)", "shards": "2"}
    given |= {"CI_JOB_TOKEN": "job", "CI_COMMIT_BRANCH": "main", "CI_NODE_TOTAL": "2"}
    machine.sample(GREEN)
    more = {
        "install": "-e '.[a, b]' $(touch pwned)",
        "requirement": "the-plugin[onnx] @ git+https://a/b",
    }
    done = machine.gitlab("torchexport", CI_NODE_INDEX="1", **given, **more)
    assert done.returncode == 0, done.stderr
    installed = machine.calls.read_text().splitlines()[:2]
    assert installed == [
        "install|-e|.[a, b]|$(touch|pwned)",
        "install|the-plugin[onnx] @ git+https://a/b",
    ]
    machine.sample(RED, status=1, known="a.toml")
    done = machine.gitlab("torchexport", CI_NODE_INDEX="2", known="create", **given)
    assert done.returncode == 1
    call = machine.calls.read_text()
    assert call.rstrip().endswith(INJECTED)
    assert "'--torchexport-shard', '2/2', '--torchexport-known', 'create'" in call
    assert "'--torchexport-known-reason', '$(x)'" in call
    given |= {"CI_API_V4_URL": "http://127.0.0.1:9", "CI_PROJECT_ID": "1"}
    done = machine.gitlab("torchexport-gate", **given, **more)
    assert done.returncode == 1, done.stderr
    assert "no earlier report to compare with" in done.stderr
    installed = machine.calls.read_text().splitlines()[-1:]
    assert installed == ["install|the-plugin @ git+https://a/b"]
    report = machine.work / "torchexport-report"
    assert "+version = 1" in (report / "torchexport-known.patch").read_text()
    assert JOBS["torchexport-note"]["needs"] == ["torchexport-gate"]
    assert "torchexport-report/comment.md" in str(JOBS["torchexport-note"]["script"])
    assert (report / "comment.md").read_text().startswith("**torchexport: 1 failed, 1 passed**")
    assert (report / "summary.md").read_text().startswith("**torchexport: 1 failed, 1 passed**")
    for job in ("torchexport", "torchexport-gate"):
        paths = JOBS[job]["artifacts"]["paths"]
        there = [path for path in paths if (machine.work / path).is_dir()]
        assert there == [path for path in paths if path != ".torchexport/"]
