"""README and docs: what they show is in the examples, and what they quote is what really comes out."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from pytest_torchexport.config import names
from pytest_torchexport.config.options import NAMES
from pytest_torchexport.results.failures import Failure
from pytest_torchexport.results.verdict import Difference, Verdict

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

INCLUDE = re.compile(r'^--8<-- "([^":]+)(?::([\w-]+))?"$', re.MULTILINE)
OUTPUT = re.compile(
    r"<!-- output of `pytest (?P<arguments>[^`]+)`(?: in `(?P<folder>[^`]+)`)? -->\n"
    r"```text\n(?P<text>.*?)```",
    re.DOTALL,
)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?")
SECONDS = 300


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def includes() -> list[tuple[Path, str, str | None]]:
    return [(page, match[1], match[2]) for page in PAGES for match in INCLUDE.finditer(read(page))]


def outputs() -> list[tuple[str, str, str, str]]:
    return [
        (
            page.relative_to(ROOT).as_posix(),
            match["arguments"],
            match["folder"] or "",
            match["text"],
        )
        for page in PAGES
        for match in OUTPUT.finditer(read(page))
    ]


def make_reference():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- what is shown is in a file that runs ------------------------------------------------------------


def test_the_readme_example_is_a_region_of_the_quickstart():
    shown = re.search(r"```python\n(.*?)```", read(ROOT / "README.md"), re.DOTALL)[1]
    quickstart = read(ROOT / "examples/test_quickstart.py")
    region = quickstart.partition("# --8<-- [start:net]")[2].partition("# --8<-- [end:net]")[0]
    assert shown.strip() == region.strip()


def test_the_docs_include_files():
    assert len(includes()) > 10  # or the pattern no longer finds them


@pytest.mark.parametrize(("page", "path", "section"), includes())
def test_every_included_file_and_section_exists(page, path, section):
    text = read(ROOT / path)
    if section is not None:
        assert f"[start:{section}]" in text
        assert f"[end:{section}]" in text


def test_every_page_is_in_the_navigation_and_nothing_else():
    listed = re.findall(r": ([\w/-]+\.md)$", read(ROOT / "mkdocs.yml"), re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#:]+\.md)(?:#[\w-]+)?\)", read(page)):
        assert (page.parent / link).is_file(), link


# -- the reference says what the code says -----------------------------------------------------------


def test_generated_pages_are_up_to_date():
    for path, text in make_reference().pages().items():
        assert read(path) == text, f"{path.name}: run python docs/make_reference.py"


def test_the_marker_page_names_every_argument_target_and_check():
    rows = read(DOCS / "reference/marker.md")
    for name in NAMES:
        assert re.search(rf"^\| [^|]*`{name}`", rows, re.MULTILINE), name
    for name in ("trace", "script", "export", "onnx", "onnx_legacy", *names.checks()):
        assert f'`"{name}"`' in rows
    assert set(names.targets()) >= {"trace", "script", "export", "onnx", "onnx_legacy"}


def test_the_failures_page_names_every_class():
    page = read(DOCS / "reference/failures.md")
    assert all(f"| `{cls.__name__}` |" in page for cls in Failure.__subclasses__())


@pytest.mark.parametrize(
    ("title", "cls"), [("## A verdict", Verdict), ("## A difference", Difference)]
)
def test_the_json_page_names_every_field(title, cls):
    section = read(DOCS / "reference/json-report.md").partition(title)[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(first_cells))
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(cls))


# -- what is quoted comes out ------------------------------------------------------------------------


@cache
def run_pytest(arguments: str, folder: str, scratch: Path) -> list[str]:
    """The lines that pytest prints, in the repository or in a copy of one of its folders."""
    where = ROOT
    if folder:
        where = scratch / Path(folder).name
        shutil.copytree(
            ROOT / folder, where, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True
        )
    # What would change the output: a CI's own seed, a worker of xdist, options from the environment.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "CI" and not name.startswith(("PYTEST_", "TOX_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *shlex.split(arguments)],
        cwd=where,
        env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [plain(line) for line in done.stdout.splitlines()]


def plain(line: str) -> str:
    """The line without what differs from run to run and machine to machine: numbers and spaces."""
    return " ".join(NUMBER.sub("#", line).split())


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("docs")


def test_readme_and_docs_quote_outputs():
    pages = {page for page, *_ in outputs()}
    assert {"README.md", "docs/tutorial.md", "docs/howto/read-a-report.md"} <= pages


@pytest.mark.parametrize(
    ("page", "arguments", "folder", "text"),
    outputs(),
    ids=[f"{page}-{number}" for number, (page, *_) in enumerate(outputs())],
)
def test_quoted_lines_come_out_in_this_order(page, arguments, folder, text, scratch):
    if "onnx" in text:
        pytest.importorskip("onnxruntime", reason="the output shown is that of the extra [onnx]")
    actual = iter(run_pytest(arguments, folder, scratch))
    wanted = [plain(line) for line in text.splitlines() if line.strip() not in ("", "...")]
    assert wanted
    for line in wanted:
        assert line in actual, f"{page} quotes {line!r}, which pytest {arguments} does not print"


def test_check_export_runs_without_pytest(tmp_path):
    done = subprocess.run(
        [sys.executable, DOCS / "snippets/without_pytest.py"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "passed"
