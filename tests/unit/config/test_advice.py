"""config/advice.py: refusals, missing imports and long stages name the setting that is about them."""

from __future__ import annotations

from pathlib import Path

from sample import item, verdict

from pytest_torchexport.config import advice
from pytest_torchexport.config.advice import NAME_TARGETS, setting_lines, slowest_lines


def test_a_refusal_by_a_target_that_nobody_named_says_how_to_make_it_a_failure():
    refused = verdict(status="skipped", skip="refused", reason="script refused the module: x")
    assert NAME_TARGETS in setting_lines([item("t.py::a", refused)])
    # The kind decides, and not the words of the reason.
    other = verdict(status="skipped", skip="not judged", reason="it refused the module: x")
    assert NAME_TARGETS not in setting_lines([item("t.py::a", other)])


def lacking(name, *imports, target="trace", **fields):
    failed = verdict(target, "failed", failure="LoadFailed", imports=imports)
    return item(f"t.py::{name}", failed, **fields)


def imports(*results, **settings):
    found = [line for line in setting_lines(results, **settings) if line.startswith("imports: ")]
    return found[0] if found else ""


def test_imports_that_several_items_lack_are_one_setting():
    one = lacking("a", "lib.outputs", "lib.generic")
    two = [one, lacking("b", "ops"), lacking("b", "lib.outputs", target="export")]
    setting = "torchexport_runtime_imports ="
    assert "3 items" in imports(*two)
    assert imports(*two).endswith(f"{setting} lib.generic lib.outputs ops")
    given = imports(*two, runtime_imports=["zoo"], toml=True)
    assert given.endswith(f'{setting} ["zoo", "lib.generic", "lib.outputs", "ops"]')
    given = imports(*two, runtime_imports=["zoo"])
    assert given.endswith(f"{setting} zoo lib.generic lib.outputs ops")
    assert not imports(*two, runtime_imports=["ops", "lib.outputs"])
    assert not imports(one)  # its report says it
    assert not imports(one, lacking("b", "ops", outcome="xfailed"))


QUICK = verdict("trace", seconds={"eager": 0.5, "parity": 1.5})
SLOW = verdict("onnx", seconds={"eager": 1.0, "export": 30.1, "parity": 10.1})


def test_the_slowest_items_name_their_longest_stage_and_what_shortens_it():
    results = [item("t.py::a", QUICK), item("t.py::b", SLOW), item("t.py::c", verdict())]
    b, a = slowest_lines(results, 0)
    longest = (
        "slowest: t.py::b[onnx-cpu] 41.2 s, of which 30.1 s export: shorter with a smaller model"
    )
    assert b == f"{longest}, torchexport_cache for what has not changed"
    assert a.startswith("slowest: t.py::a[trace-cpu] 2.0 s, of which 1.5 s parity: ")
    assert list(slowest_lines(results, 1)) == list(slowest_lines(results, 0, least=5.0)) == [b]
    assert list(slowest_lines(results, 1, cached=True)) == [longest]


def test_a_diagnosis_may_be_the_longest_stage_and_a_stage_that_nothing_shortens_is_named_alone():
    found = [
        item("t.py::a", verdict(seconds={stage: 8.0})) for stage in ("diagnosis", "reproducer")
    ]
    first, second = slowest_lines(found, 0)
    assert first.endswith("8.0 s, of which 8.0 s diagnosis: shorter with a smaller example")
    assert second.endswith("8.0 s, of which 8.0 s reproducer")


def test_what_is_named_as_shorter_is_a_stage():
    package = Path(advice.__file__).parents[1]
    source = "".join(file.read_text() for file in package.rglob("*.py"))
    assert [stage for stage in advice.SHORTER if f'timed("{stage}")' not in source] == []
