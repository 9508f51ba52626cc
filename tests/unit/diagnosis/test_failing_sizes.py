"""diagnosis/failing_sizes.py: a rule about sizes never contradicts the runs, and is found where there is one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_torchexport.diagnosis.failing_sizes import MORE, SMALLEST, described
from pytest_torchexport.results.diagnosis import SizePattern, Sizes

LEGAL = st.one_of(
    st.builds(lambda low, count, step: range(low, low + count * step, step),
              st.integers(0, 40), st.integers(1, 300), st.integers(1, 32)),
    st.sets(st.integers(0, 99), min_size=1, max_size=9).map(lambda found: tuple(sorted(found))),
)  # fmt: skip
# What a size does: it fails, it agrees, or eager refuses it.
ANSWERS = st.dictionaries(st.integers(0, 99), st.sampled_from([True, False, None]))


@given(legal=LEGAL, answers=ANSWERS, rest=st.sampled_from([True, False, None]), data=st.data())
def test_a_rule_is_true_of_every_size_that_was_run(legal, answers, rest, data):
    asked = []

    def fails(size):
        asked.append(size)
        return answers.get(size, rest)

    wanted = data.draw(st.lists(st.sampled_from(legal), max_size=2))
    runs, rule = described(legal, wanted, fails)
    assert len(asked) == len(set(asked)) <= SMALLEST + 1 + 3 * len(wanted) + MORE
    assert set(asked) >= {legal[0], legal[-1], *wanted}
    assert runs == {n: answers.get(n, rest) for n in asked if answers.get(n, rest) is not None}
    if rule is not None:
        assert set(runs.values()) == {True, False}
        assert all(rule.fails_at(size) == fails for size, fails in runs.items())


SIMPLE = st.one_of(
    st.builds(lambda n: SizePattern(kind="from", numbers=(n,), fails=True), st.integers(2, 400)),
    st.builds(lambda n: SizePattern(kind="up to", numbers=(n,), fails=True), st.integers(1, 399)),
    st.builds(
        lambda n, fails: SizePattern(kind="only", numbers=(n,), fails=fails),
        st.integers(2, 399),
        st.booleans(),
    ),
    st.builds(
        lambda step, rest, fails: SizePattern(
            kind="steps", numbers=(step, rest % step), fails=fails
        ),
        st.sampled_from([2, 5]),
        st.integers(0, 4),
        st.booleans(),
    ),
)


@given(rule=SIMPLE)
@example(SizePattern(kind="between", numbers=(5, 8), fails=False))
def test_a_simple_rule_is_found_to_the_size(rule):
    legal = range(1, 401)
    one, other = sorted(legal, key=rule.names)[:: len(legal) - 1]
    _, found = described(legal, (one, other), rule.fails_at)
    assert found is not None
    assert [found.fails_at(n) for n in legal] == [rule.fails_at(n) for n in legal]


@pytest.mark.parametrize(
    ("legal", "fails"),
    [
        (range(1, 65), lambda n: n in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)),
        # No size at all fails, or every one.
        (range(1, 65), lambda n: n > 0),
        (range(1, 65), lambda n: n < 0),
        # Eager takes only two sizes: too few to tell why one of them fails.
        (range(1, 65), {1: True, 2: False}.get),
    ],
)
def test_without_a_simple_rule_there_is_none(legal, fails):
    assert described(legal, (4,), fails)[1] is None


@pytest.mark.parametrize(
    ("kind", "numbers", "fails", "words"),
    [
        ("only", (2,), False, "ok only at 2, the example's"),
        ("up to", (4,), True, "fails up to 4"),
        ("between", (3, 6), False, "ok only from 3 to 6"),
        ("steps", (2, 1), True, "fails at odd sizes"),
        ("steps", (4, 0), False, "ok only at multiples of 4"),
        ("steps", (4, 1), True, "fails at sizes 4n+1"),
    ],
)
def test_the_words_of_a_rule(kind, numbers, fails, words):
    assert SizePattern(kind=kind, numbers=numbers, fails=fails).words(example=2) == words


def test_the_line_of_a_dim_that_is_tied_or_has_no_rule():
    only = SizePattern(kind="only", numbers=(2,), fails=False)
    tied = Sizes(dim="h", example=2, ok=(2,), failing=(1, 3, 4), pattern=only, equal_to="w")
    assert str(tied) == "h: ok only where equal to w (run at 1 to 4; the example's is 2)"
    plain = Sizes(dim="h", example=2, ok=(2, 4), failing=(1, 3, 5))
    assert str(plain) == "h: ok at 2 (the example's), 4; fails at 1, 3, 5"
