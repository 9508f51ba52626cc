"""README and docs: shown code runs, quoted outputs are printed, the reference matches the code."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from sample import RUN, runs
from slow import slow

from pytest_torchexport.config import names
from pytest_torchexport.config.flow import FLOW
from pytest_torchexport.config.options import NAMES
from pytest_torchexport.engine import SETTINGS
from pytest_torchexport.results import json as report
from pytest_torchexport.results.verdict import Verdict

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

INCLUDE = re.compile(r'^--8<-- "([^":]+)(?::([\w-]+))?"$', re.MULTILINE)
SECONDS = 300
REWRITE = "run python docs/make_outputs.py"


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def includes() -> list[tuple[Path, str, str | None]]:
    return [(page, match[1], match[2]) for page in PAGES for match in INCLUDE.finditer(read(page))]


def load(name: str):
    """Import a script of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_outputs = load("make_outputs")
QUOTES = make_outputs.quotes()
# A command that several blocks quote runs once.
COMMANDS = list(dict.fromkeys((quote.command, quote.folder) for quote in QUOTES))


# -- shown code ------------------------------------------------------------------------------------


def test_the_readme_example_is_a_region_of_the_quickstart():
    shown = re.search(r"```python\n(.*?)```", read(ROOT / "README.md"), re.DOTALL)[1]
    quickstart = read(ROOT / "examples/test_quickstart.py")
    region = quickstart.partition("# --8<-- [start:net]")[2].partition("# --8<-- [end:net]")[0]
    assert shown.strip() == region.strip()


def test_every_included_file_and_section_exists():
    assert len(includes()) > 10  # fewer: the pattern no longer finds them
    for page, path, section in includes():
        text = read(ROOT / path)
        if section is not None:
            assert f"[start:{section}]" in text, page
            assert f"[end:{section}]" in text, page


def test_every_page_is_in_the_navigation_and_nothing_else():
    listed = re.findall(r"[:-] ([\w/-]+\.md)$", read(ROOT / "mkdocs.yml"), re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#:]+\.md)(?:#[\w-]+)?\)", read(page)):
        assert (page.parent / link).is_file(), link


# -- the reference ---------------------------------------------------------------------------------


def test_generated_pages_are_up_to_date():
    for path, text in load("make_reference").pages().items():
        assert read(path) == text, f"{path.name}: run python docs/make_reference.py"


def test_the_marker_page_names_every_argument_target_and_check():
    rows = read(DOCS / "reference/marker.md")
    for name in NAMES:
        assert re.search(rf"^\| [^|]*`{name}`", rows, re.MULTILINE), name
    for name in (*names.BUILT_IN, *names.checks()):
        assert f'`"{name}"`' in rows
    calls = read(DOCS / "reference/fixture.md")
    assert all(f'`"{name}"`' in calls for name in names.BUILT_IN)


def test_the_page_of_check_export_names_every_setting_that_it_takes():
    page = read(DOCS / "reference/fixture.md")
    listed = re.findall(r"`(\w+)`", page.partition("The settings are ")[2].partition(". ")[0])
    assert sorted(listed) == sorted(SETTINGS)


def test_the_page_on_items_lists_the_steps_of_flow_in_their_order():
    page = read(DOCS / "explanation/how-an-item-runs.md")
    steps = re.findall(r"^(\d+)\. \*\*([^*]+)\*\*([^:]*):", page, re.MULTILINE)
    assert [(int(number), name) for number, name, _ in steps] == [
        (number, step.name) for number, step in enumerate(FLOW, 1)
    ]
    for (_, name, checks), step in zip(steps, FLOW, strict=True):
        assert re.findall(r"`(\w+)`", checks) == [*step.checks, *step.settings], name


def test_the_json_page_names_fields_of_a_verdict():
    section = (
        read(DOCS / "reference/json-report.md").partition("## A verdict")[2].partition("\n## ")[0]
    )
    first_cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(first_cells))
    assert named
    assert set(named) <= {field.name for field in dataclasses.fields(Verdict)}


# -- the schema of the JSON report -----------------------------------------------------------------

SCHEMA = json.loads(read(DOCS / "reference/report.schema.json"))
OF_TYPE = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}

# The words of JSON Schema that ours uses.
WORDS = {"type", "const", "enum", "required", "properties", "additionalProperties", "items"}
WORDS |= {"anyOf", "$ref", "$schema", "$defs", "title", "description"}


def mistakes(value, schema, at="report"):
    """Yield where a value does not follow a schema, by the words of JSON Schema that ours uses."""
    assert set(schema) <= WORDS  # else this would pass what it does not understand
    if "$ref" in schema:
        yield from mistakes(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], at)
    name = schema.get("type")
    if name and (
        not isinstance(value, OF_TYPE[name]) or (isinstance(value, bool) and name != "boolean")
    ):
        yield f"{at}: {value!r} is no {name}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{at}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    yield from (f"{at}.{key}: missing" for key in schema.get("required", ()) if key not in value)
    parts = schema.get("properties", {})
    if "additionalProperties" in schema:
        parts = dict.fromkeys(value, schema["additionalProperties"])
    for key in parts.keys() & value.keys() if parts else ():
        yield from mistakes(value[key], parts[key], f"{at}.{key}")
    for number, each in enumerate(value if "items" in schema else ()):
        yield from mistakes(each, schema["items"], f"{at}[{number}]")
    found = [list(mistakes(value, each, at)) for each in schema.get("anyOf", ())]
    if found and all(found):
        yield max(found, key=lambda each: len(each[0]))[0]


@given(runs)
@settings(max_examples=30, deadline=None)
def test_a_report_follows_the_published_schema(results):
    assert list(mistakes(json.loads(report.render(results)), SCHEMA)) == []


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (lambda document: document.update(version=3), "report.version: 3 is not 2"),
        (lambda document: document.pop("items"), "report.items: missing"),
        (lambda document: document["items"][0]["verdicts"][0]["differences"][0].update(max_abs="huge"), "report.items[0].verdicts[0].differences[0].max_abs: 'huge' is none of ['nan', 'inf', '-inf']"),
    ],
)  # fmt: skip
def test_what_does_not_follow_the_schema_is_found(change, mistake):
    document = json.loads(report.render(RUN))
    change(document)
    assert list(mistakes(document, SCHEMA)) == [mistake]


# -- quoted outputs --------------------------------------------------------------------------------


# CI runs the commands of the page that a new user reads first.
FIRST_READ = {quote.command for quote in QUOTES if quote.page.name == "README.md"}


@pytest.mark.parametrize(
    ("command", "folder"),
    [pytest.param(*each, marks=() if each[0] in FIRST_READ else slow) for each in COMMANDS],
)
def test_quoted_lines_are_printed_in_this_order(command, folder, tmp_path):
    pinned = re.search(r"^torch==(\S+)$", read(ROOT / "constraints.txt"), re.MULTILINE)[1]
    if torch.__version__.partition("+")[0] != pinned:
        pytest.skip(f"the outputs shown, with torch's own messages, are those of torch {pinned}")
    quotes = [quote for quote in QUOTES if (quote.command, quote.folder) == (command, folder)]
    if any("onnx" in quote.text for quote in quotes):
        pytest.importorskip("onnxruntime", reason="the output shown is that of the extra [onnx]")
    printed = make_outputs.output_of(command, folder, tmp_path)
    for quote in quotes:
        assert quote.wanted
        missing = make_outputs.missing_line(quote, printed)
        assert missing is None, f"{quote.name}: not printed: {missing!r}; {REWRITE}"


PRINTED = (
    "x FAILED [ 50%]",
    "  reason   the artifact raises where eager returns",
    "  call     zeros",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  reason   the artifact raised, and eager returned\n", PRINTED[1] + "\n"),
        ("x FAILED [ 99%]\n...\n  call     zero\n", f"{PRINTED[0]}\n...\n{PRINTED[2]}\n"),
    ],
)
def test_a_changed_message_is_found_and_rewritten(text, expected):
    quote = make_outputs.Quote(ROOT / "README.md", "pytest", "", text)
    assert make_outputs.missing_line(quote, PRINTED) is not None
    assert make_outputs.rewritten(quote, PRINTED) == expected


def test_numbers_and_spaces_are_not_compared_and_what_nothing_is_like_is_not_rewritten():
    alike, other = (
        make_outputs.Quote(ROOT / "README.md", "pytest", "", text)
        for text in ("x  FAILED [ 99%]\n", "6789\n")
    )
    assert make_outputs.missing_line(alike, PRINTED) is None
    with pytest.raises(LookupError, match="by hand"):
        make_outputs.rewritten(other, PRINTED)


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


# -- pages for contributors ------------------------------------------------------------------------

NAMING = ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/decisions/*.md"]
# A file, or a folder: with a slash at its end, or below tests/ or docs/.
PATHS = re.compile(r"`([\w/-]+\.\w{2,4}|[\w/-]+/|(?:tests|docs)/[\w/-]+)`")


def missing_files(text: str) -> list[str]:
    """Return the files and folders in a text of Markdown that do not exist."""
    named = [name for name in PATHS.findall(text) if "/" in name or name.endswith(".py")]
    return [
        name
        for name in named
        if not ((ROOT / name).exists() or (ROOT / "pytest_torchexport" / name).exists())
    ]


@pytest.mark.parametrize(
    "page",
    [path for pattern in NAMING for path in sorted(ROOT.glob(pattern))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_every_file_that_a_page_for_contributors_names_exists(page):
    assert missing_files(page.read_text(encoding="utf-8")) == []


def test_a_page_that_names_a_file_that_is_gone_is_found():
    text = "`tests/unit/gone`, `gone/`, `gone.py`, `tests/unit/gone.py`; `tests/unit`, `engine.py`"
    assert missing_files(text) == ["tests/unit/gone", "gone/", "gone.py", "tests/unit/gone.py"]
    assert PATHS.findall((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
