"""results/verdict.py: plain data that survives every trip."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from sample import EMPTY, FULL, SKIPPED

from pytest_torchexport.inputs.recipes import Edit, LeafRecipe, Recipe
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.text import detail_lines
from pytest_torchexport.results.verdict import (
    ArtifactSize,
    Branch,
    Latency,
    Verdict,
    bytes_text,
    coverage_of,
    why_skipped,
)


def plain(value):
    if isinstance(value, dict):
        return all(isinstance(k, str) and plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (bool, int, float, str)


@pytest.mark.parametrize("verdict", [FULL, SKIPPED, EMPTY], ids=["full", "skipped", "empty"])
def test_a_verdict_survives_dicts_json_and_pickle(verdict):
    data = verdict.as_dict()
    assert plain(data)
    assert Verdict.from_dict(data) == verdict
    assert Verdict.from_dict(json.loads(json.dumps(data))) == verdict
    assert pickle.loads(pickle.dumps(verdict)) == verdict


def test_a_verdict_of_a_recipe_as_the_engine_writes_it_is_plain_too():
    recipe = Recipe(
        sizes={"batch": 2},
        leaves=(LeafRecipe(kind="normal", edits=(Edit(1, 2.0),)), LeafRecipe(kind="value", data=3)),
    )
    verdict = Verdict(
        subject="f", target="trace", device="cpu", status="failed", recipe=recipe.as_dict()
    )
    assert plain(verdict.as_dict())
    assert Recipe.from_dict(Verdict.from_dict(verdict.as_dict()).recipe) == recipe


def test_one_of_several_recorded_modules_of_a_class_is_named_by_its_number():
    assert FULL.name == "Net (2nd of 3)"
    alone = dataclasses.replace(FULL.recorded, number=1, count=1)
    assert dataclasses.replace(FULL, recorded=alone).name == "Net"
    assert EMPTY.name == "f"
    numbers = [dataclasses.replace(FULL.recorded, number=n, count=16).which for n in (1, 3, 11)]
    assert numbers == ["1st of 16", "3rd of 16", "11th of 16"]


def branch(kind="if", **status):
    return Branch(
        where=SourceLine("net.py", 3),
        statement="",
        text="",
        module="",
        kind=kind,
        counts={},
        status=status,
    )


@pytest.mark.parametrize(
    ("branches", "share"),
    [
        ([], None),
        ([branch(True_="verified", False_="unreached")], 50.0),
        ([branch(True_="diverges", False_="frozen but equal")], 100.0),
        ([branch(True_="unreached", False_="raises")], 0.0),
        ([branch(True_="raises")], None),
        ([branch(True_="constant", False_="constant")], None),
        ([branch("for", none="unreached", more="verified")], None),
        ([branch(a="verified", b="unreached"), branch(a="verified", b="verified")], 75.0),
        ([branch(a="unreached"), branch(a="constant", b="unreached")], 0.0),
    ],
)
def test_branch_coverage_is_the_share_of_outcomes_that_inputs_steer_to(branches, share):
    assert coverage_of(branches) == share
    verdict = Verdict(
        subject="f", target="trace", device="cpu", status="passed", branches=tuple(branches)
    )
    assert verdict.branch_coverage == share
    assert verdict.as_dict()["branch_coverage"] == share


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        ({"trace": ["passed", "passed"]}, ""),
        ({"trace": ["skipped"]}, "of trace"),
        ({"trace": ["passed", "skipped"]}, "1 of 2 not judged: f: of trace"),
        ({"trace": ["passed"], "onnx": ["skipped"]}, ""),
        ({"trace": ["passed", "skipped"], "onnx": ["skipped"]}, "2 of 3 not judged: f: of trace"),
        ({}, ""),
    ],
)
def test_an_item_is_skipped_if_no_target_judged_all_its_subjects(statuses, reason):
    verdicts = [
        Verdict(subject="f", target=target, device="cpu", status=status, reason=f"of {target}")
        for target, each in statuses.items()
        for status in each
    ]
    assert why_skipped(verdicts) == reason


def test_the_size_of_an_artifact_in_words():
    size = ArtifactSize(files=10 * 2**20, weights=2**20)
    assert str(size) == "10 MiB, 10 times the weights (1 MiB)"
    assert str(ArtifactSize(files=300, weights=0)) == "300 bytes, no weights"
    assert [bytes_text(n) for n in (1023, 2048, 999 * 2**20, 5 * 2**42)] == [
        "1023 bytes",
        "2 KiB",
        "999 MiB",
        "20,480 GiB",
    ]
    sizes = (999.7 * 2**10, -(2**20), -40)
    assert [bytes_text(n) for n in sizes] == ["0.976 MiB", "-1 MiB", "-40 bytes"]
    small = ArtifactSize(files=2**20, weights=16)
    assert str(small) == "1 MiB, 65,536 times the weights (16 bytes)"
    assert "files    10 MiB, 10 times" in "\n".join(
        detail_lines(dataclasses.replace(EMPTY, size=size))
    )


def test_a_ratio_of_thousands_is_written_in_full():
    latency = Latency(
        sizes={},
        eager=2e-6,
        artifact=4e-3,
        ratio=2000.4,
        low=999.7,
        high=2345.0,
        pairs=30,
        slower=30,
    )
    assert latency.times == "2,000 times eager (1,000 to 2,345)"
