"""Read and write the comments on a merge request of GitHub or GitLab, from a CI job of it.

Apart from ``comment.py``, which decides what to say: here are addresses, tokens and permissions.
Only comments that the token's own user wrote are looked at, since anybody can copy a marker.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SECONDS = 30
PER_PAGE = 100


class NothingToPost(Exception):
    """A job has no merge request, no token, or no permission. The text of it says which."""


class CannotPost(Exception):
    """The server refused, or did not answer as documented."""


@dataclass(frozen=True)
class Comment:
    """A comment that the token's user wrote; ``id`` is the provider's name for it."""

    id: str
    text: str


class Provider(Protocol):
    """The comments of one merge request. The methods raise NothingToPost and CannotPost."""

    def own(self) -> Iterable[Comment]:
        """Return the comments that the token's user wrote."""

    def create(self, text: str) -> None:
        """Write a new comment."""

    def edit(self, comment: Comment, text: str) -> None:
        """Replace the text of a comment."""


# -- GitHub ----------------------------------------------------------------------------------------

_COMMENTS = """
query($owner: String!, $name: String!, $number: Int!, $after: String) {
  repository(owner: $owner, name: $name) {
    pullRequest(number: $number) {
      id
      comments(first: 100, after: $after) {
        pageInfo { hasNextPage endCursor }
        nodes { id body viewerDidAuthor }
      }
    }
  }
}
"""
_CREATE = """
mutation($id: ID!, $body: String!) {
  addComment(input: {subjectId: $id, body: $body}) { clientMutationId }
}
"""
_EDIT = """
mutation($id: ID!, $body: String!) {
  updateIssueComment(input: {id: $id, body: $body}) { clientMutationId }
}
"""
_READ_ONLY = (
    "the token may only read. A pull request from a fork has no other: the step summary has the "
    "report. In all other cases give the job the permission 'pull-requests: write'"
)


class GitHub:
    """The comments of the pull request that a workflow of GitHub runs for."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Read the variables of the job. Raises NothingToPost if one is missing."""
        number = _pull_request(environment)
        if number is None:
            raise NothingToPost("this job does not run for a pull request")
        self._token = _variable(environment, "GITHUB_TOKEN")
        owner, _, name = _variable(environment, "GITHUB_REPOSITORY").partition("/")
        self._url = environment.get("GITHUB_GRAPHQL_URL") or "https://api.github.com/graphql"
        self._where = {"owner": owner, "name": name, "number": number}
        self._id = ""

    def own(self) -> Iterator[Comment]:
        """Yield the comments that the token's user wrote."""
        after = None
        while True:
            data = self._ask(_COMMENTS, **self._where, after=after)
            try:
                request = data["repository"]["pullRequest"]
                self._id, page = request["id"], request["comments"]
                for node in page["nodes"]:
                    if node["viewerDidAuthor"]:
                        yield Comment(node["id"], node["body"])
                more, after = page["pageInfo"]["hasNextPage"], page["pageInfo"]["endCursor"]
            except (KeyError, TypeError) as error:
                raise CannotPost(f"{self._url}: an answer without {error}") from None
            if not more:
                return

    def create(self, text: str) -> None:
        """Write a new comment, after ``own``."""
        self._ask(_CREATE, id=self._id, body=text)

    def edit(self, comment: Comment, text: str) -> None:
        """Replace the text of a comment."""
        self._ask(_EDIT, id=comment.id, body=text)

    def _ask(self, query: str, **variables: Any) -> Any:
        answer, _ = _request(
            "POST",
            self._url,
            {"Authorization": f"Bearer {self._token}"},
            {"query": query, "variables": variables},
            _READ_ONLY,
        )
        if not isinstance(answer, dict):
            raise CannotPost(f"{self._url}: an answer without an object")
        if errors := answer.get("errors"):
            if all(isinstance(each, dict) and each.get("type") == "FORBIDDEN" for each in errors):
                raise NothingToPost(_READ_ONLY)
            raise CannotPost(f"{self._url}: {json.dumps(errors):.500}")
        return answer.get("data")


def _pull_request(environment: Mapping[str, str]) -> int | None:
    """Return the number of the pull request that the job runs for."""
    try:
        event = json.loads(Path(environment["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
        return int(event["pull_request"]["number"])
    except (KeyError, TypeError, ValueError, OSError):
        found = re.match(r"refs/pull/(\d+)/", environment.get("GITHUB_REF", ""))
        return int(found[1]) if found else None


# -- GitLab ----------------------------------------------------------------------------------------


class GitLab:
    """The notes of the merge request that a pipeline of GitLab runs for."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Read the variables of the job. Raises NothingToPost if one is missing."""
        number = environment.get("CI_MERGE_REQUEST_IID")
        if not number:
            raise NothingToPost("this job does not run for a merge request")
        self._token = _variable(
            environment,
            "GITLAB_TOKEN",
            "; a pipeline of a fork, or of an unprotected branch if the variable is protected, "
            "has none",
        )
        self._api = _variable(environment, "CI_API_V4_URL")
        # The pipeline of a merge request from a fork runs in the fork.
        project = environment.get("CI_MERGE_REQUEST_PROJECT_ID") or _variable(
            environment, "CI_PROJECT_ID"
        )
        self._notes = f"{self._api}/projects/{project}/merge_requests/{number}/notes"

    def own(self) -> Iterator[Comment]:
        """Yield the notes that the token's user wrote."""
        try:
            user = self._ask("GET", f"{self._api}/user")[0]["id"]
            page = "1"
            while page:
                url = f"{self._notes}?per_page={PER_PAGE}&page={page}"
                notes, headers = self._ask("GET", url)
                for note in notes:
                    if note["author"]["id"] == user:
                        yield Comment(str(note["id"]), note["body"])
                page = headers.get("X-Next-Page", "")
        except (KeyError, TypeError) as error:
            raise CannotPost(f"{self._api}: an answer without {error}") from None

    def create(self, text: str) -> None:
        """Write a new note."""
        self._ask("POST", self._notes, {"body": text})

    def edit(self, comment: Comment, text: str) -> None:
        """Replace the text of a note."""
        self._ask("PUT", f"{self._notes}/{comment.id}", {"body": text})

    def _ask(
        self, method: str, url: str, body: Mapping[str, Any] | None = None
    ) -> tuple[Any, Mapping[str, str]]:
        forbidden = "GITLAB_TOKEN may not comment: it needs the scope 'api' and the role Developer"
        return _request(method, url, {"PRIVATE-TOKEN": self._token}, body, forbidden)


PROVIDERS: Mapping[str, Callable[[Mapping[str, str]], Provider]] = {
    "github": GitHub,
    "gitlab": GitLab,
}


# -- what both need --------------------------------------------------------------------------------


def _variable(environment: Mapping[str, str], name: str, why: str = "") -> str:
    if value := environment.get(name):
        return value
    raise NothingToPost(f"the variable {name} is not set{why}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: urllib would send the token to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        """Return no request, so that the redirect is an error."""


def _request(
    method: str,
    url: str,
    token: Mapping[str, str],
    body: Mapping[str, Any] | None,
    forbidden: str,
) -> tuple[Any, Mapping[str, str]]:
    """Return the JSON of an answer, and its headers.

    ``forbidden``: the sentence if the token lacks a permission. Raises NothingToPost, CannotPost.
    """
    if not url.startswith(("https://", "http://")):
        raise CannotPost(f"{url} is no address of a web server")
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": "pytest-torchexport",
        **token,
    }
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310  # http alone, see above
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=SECONDS) as answer:
            return json.loads(answer.read()), answer.headers
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.FORBIDDEN:
            raise NothingToPost(forbidden) from None
        raise CannotPost(f"{url}: {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CannotPost(f"{url}: {error}") from None
