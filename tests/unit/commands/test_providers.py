"""commands/providers.py: which merge request a job is for, and where its comments are.

What the providers do with comments is tested with ``comment``, against servers of our own.
"""

from __future__ import annotations

import json

import pytest

from pytest_torchexport.commands.providers import CannotPost, GitHub, GitLab, NothingToPost

JOB = {"GITHUB_TOKEN": "t", "GITHUB_REPOSITORY": "team/models"}


@pytest.mark.parametrize("event", ['{"pull_request": {"number": 12}}', "{}", "no JSON", None])
def test_the_pull_request_is_that_of_the_event_else_that_of_the_ref(tmp_path, event):
    path = tmp_path / "event.json"
    if event is not None:
        path.write_text(event)
    found = GitHub(JOB | {"GITHUB_EVENT_PATH": str(path), "GITHUB_REF": "refs/pull/5/merge"})
    assert found._where["number"] == (12 if event and "number" in event else 5)


def test_a_push_has_no_pull_request(tmp_path):
    path = tmp_path / "event.json"
    path.write_text(json.dumps({"ref": "refs/heads/main"}))
    with pytest.raises(NothingToPost, match="not run for a pull request"):
        GitHub(JOB | {"GITHUB_EVENT_PATH": str(path), "GITHUB_REF": "refs/heads/pull/5/x"})


def test_a_merge_request_of_a_fork_is_in_the_project_it_goes_to():
    job = {"CI_MERGE_REQUEST_IID": "7", "GITLAB_TOKEN": "t", "CI_API_V4_URL": "https://x/api/v4"}
    here = GitLab(job | {"CI_PROJECT_ID": "3"})
    there = GitLab(job | {"CI_PROJECT_ID": "3", "CI_MERGE_REQUEST_PROJECT_ID": "4"})
    assert here._notes == "https://x/api/v4/projects/3/merge_requests/7/notes"
    assert there._notes == "https://x/api/v4/projects/4/merge_requests/7/notes"


def test_an_address_that_is_a_file_is_refused():
    found = GitHub(JOB | {"GITHUB_REF": "refs/pull/5/merge", "GITHUB_GRAPHQL_URL": "file:///etc"})
    with pytest.raises(CannotPost, match="no address of a web server"):
        list(found.own())
