"""results/json.py: what is written is read as it was, and everything else is refused with a reason."""

from __future__ import annotations

import json as plain_json
import math

import pytest
from hypothesis import given, settings
from sample import RUN, failed, item, run_of, runs

from pytest_torchexport.inputs.recipes import Edit, LeafRecipe, Recipe
from pytest_torchexport.results import json, markdown
from pytest_torchexport.results.plain import Unreadable
from pytest_torchexport.results.verdict import Difference


@given(runs)
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read_as_it_was(results):
    text = json.render(results)
    assert json.read(text) == results
    assert json.render(json.read(text)) == text


def test_numbers_that_json_does_not_have_survive():
    difference = Difference(
        kind="values", path="y", expected="1", actual="nan", max_abs=math.inf, max_rel=-math.inf
    )
    leaf = LeafRecipe(kind="elements", data=[math.nan, "nan"], edits=(Edit(0, math.inf),))
    recipe = Recipe(sizes={}, leaves=(leaf,)).as_dict()
    results = run_of(
        item("t.py::a", failed(differences=(difference,), recipe=recipe, max_error=math.nan))
    )
    text = json.render(results)
    plain_json.loads(text, parse_constant=pytest.fail)
    (verdict,) = json.read(text).items[0].verdicts
    assert (verdict.differences, verdict.recipe) == ((difference,), recipe)
    assert math.isnan(verdict.max_error)
    again = Recipe.from_dict(verdict.recipe).leaves[0]
    assert math.isnan(again.data[0])
    assert (again.data[1], again.edits) == ("nan", leaf.edits)


def document(**changes):
    return plain_json.loads(json.render(RUN)) | changes


def test_unknown_keys_are_left_out_missing_ones_get_their_defaults_and_new_words_are_kept():
    later = document(mood="good")
    verdict = later["items"][0]["verdicts"][0]
    verdict["color"] = "red"
    del verdict["notes"], later["items"][0]["reason"]
    assert json.read(plain_json.dumps(later)) == RUN
    verdict |= {"failure": "OfTheFuture", "skip": "another kind"}
    assert "OfTheFuture" in markdown.render(json.read(plain_json.dumps(later)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is not JSON, or was cut off"),
        ("[" * 100_000, "it is not JSON, or was cut off"),
        ('{"schema": "coverage"}', "pytest --torchexport-report json:PATH writes one"),
        (plain_json.dumps(document(version=3)), "a newer pytest-torchexport has written it"),
        (plain_json.dumps(document(version=1)), "which no release has written"),
        (
            plain_json.dumps(document(version="2")),
            "its version is '2', which no release has written",
        ),
        (plain_json.dumps(document(items=[3])), r"items\[0\]: 3 is not an object"),
        (plain_json.dumps(document(complete="yes")), "complete: 'yes' is not true or false"),
        (plain_json.dumps({"schema": json.SCHEMA, "version": 2}), "items: it is missing"),
    ],
)
def test_any_other_text_is_refused_with_a_reason(text, why):
    with pytest.raises(Unreadable, match=why):
        json.read(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 1.5), ("seed", True), ("shrunk", 1), ("max_error", "large"), ("notes", "x"), ("calls", []),
     ("calls", {"drawn": "1"}), ("where", 3), ("diagnosis", None), ("subject", None)],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_with_its_place(key, value):
    wrong = document()
    wrong["items"][0]["verdicts"][0][key] = value
    with pytest.raises(Unreadable, match=rf"items\[0\]\.verdicts\[0\]\.{key}"):
        json.read(plain_json.dumps(wrong))
