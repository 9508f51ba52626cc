"""config/named_dims.py: the language of dims."""

from __future__ import annotations

import pytest

from pytest_torchexport.config.named_dims import (
    Dim,
    Expr,
    parse_shape,
    parse_sizes,
    solve,
    written_sizes,
)


def texts(shape):
    return None if shape is None else [axis.text for axis in shape]


def shape(text):
    parsed = parse_shape(text)
    assert parsed is not None
    return parsed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch 3 height width", ["batch", "3", "height", "width"]),
        ("", []),
        ("batch 2*time+1", ["batch", "2*time+1"]),
        ("(a+b)//2", ["(a+b)//2"]),
        ("_ batch", ["_", "batch"]),
        ("...", None),
    ],
)
def test_a_shape_is_read_axis_by_axis(text, expected):
    assert texts(parse_shape(text)) == expected


@pytest.mark.parametrize(
    ("text", "blamed"),
    [
        ("batch a**2", "a**2"),
        ("batch a/2", "a/2"),
        ("-1", "-1"),
        ("2*", "2*"),
        ("class", "class"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_a_wrong_axis_is_named_with_what_is_legal(text, blamed):
    with pytest.raises(ValueError) as caught:
        parse_shape(text)
    message = str(caught.value)
    assert f"in shape {text!r}, {blamed!r} is not" in message
    assert "a size, a dim's name, or an expression" in message


@pytest.mark.parametrize(
    ("text", "at_seven", "linear"),
    [
        ("a", 7, ("a", 1, 0)),
        ("2*a+1", 15, ("a", 2, 1)),
        ("3*(a+1)-a", 17, ("a", 2, 3)),
        ("a*a", 49, None),
        ("a//2", 3, None),
        ("a+b", 8, None),
        ("4//(a-8)", -4, None),
    ],
)
def test_an_expression_has_the_value_python_gives_it_and_may_be_linear_in_one_dim(
    text, at_seven, linear
):
    assert Expr(text).evaluate({"a": 7, "b": 1}) == at_seven
    assert Expr(text).linear() == linear


@pytest.mark.parametrize(
    ("value", "sizes", "written"),
    [
        ((1, 4), [1, 2, 3, 4], "(1, 4)"),
        (range(4, 13, 4), [4, 8, 12], "range(4, 13, 4)"),
        (range(8, 0, -2), [2, 4, 6, 8], "range(2, 10, 2)"),
        ([7, 2, 2, 1], [1, 2, 7], "[1, 2, 7]"),
    ],
)
def test_sizes_come_from_a_pair_a_range_or_a_list_and_are_written_as_they_are_read(
    value, sizes, written
):
    parsed = parse_sizes("d", value)
    assert list(parsed) == sizes == list(parse_sizes("d", eval(written)))
    assert written_sizes(parsed) == written


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ((4, 1), "low 4 is above high 1"),
        ((-1, 4), "size -1 is below 0"),
        ((1, 2**62 + 1), r"size 4611686018427387905 is above 2\*\*62; legal are sizes from 0"),
        ([], "holds no size at all"),
        ((1, 2, 3), r"is not \(low, high\), a range, or a list"),
        ((True, 4), "is not"),
        ({"low": 1}, "is not"),
    ],
)
def test_wrong_sizes_are_refused_and_the_dim_is_named(value, match):
    with pytest.raises(ValueError, match=match) as caught:
        parse_sizes("height", value)
    assert "dim 'height'" in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "example", "boundary"),
    [
        (range(9), 3, (0, 1, 3, 8)),
        (range(32, 129, 32), 64, (32, 64, 128)),
        (range(4, 9), 2, (2, 4, 8)),
    ],
)
def test_boundary_sizes_are_zero_and_one_where_legal_and_both_ends_and_the_example(
    sizes, example, boundary
):
    assert Dim(name="d", sizes=sizes, example=example, declared=True).boundary() == boundary


def test_solve_finds_plain_names_and_names_inside_expressions():
    assert solve([(shape("batch 3"), [2, 3])]) == {"batch": 2}
    assert solve([(shape("n 2*n+1"), [4, 9])]) == {"n": 4}
    assert solve([(shape("2*t"), [10])]) == {"t": 5}
    assert solve([(shape("2*t+1 3"), [1, 3])]) == {"t": 0}
    assert solve([(shape("a"), [4]), (shape("a+b"), [9])]) == {"a": 4, "b": 5}
    assert solve([(shape("a*b b"), [6, 2])]) == {"a": 3, "b": 2}
    assert solve([]) == {}


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ([(shape("n n"), [2, 3])], ["axis 'n' of shape 'n n' is 2 (n=2)", "the example has 3"]),
        ([(shape("batch 4"), [2, 3])], ["axis '4'", "a constant", "the example has 3"]),
        ([(shape("2*t"), [5])], ["no size of 't' makes '2*t' equal the example's 5"]),
        ([(shape("a+b"), [5])], ["leaves 'a' and 'b' open", "name each dim alone on some axis"]),
        ([(shape("n"), [2]), (shape("2*n"), [5])], ["axis '2*n'", "is 4 (n=2)", "has 5"]),
    ],
)
def test_solve_names_the_axis_that_does_not_fit(given, parts):
    with pytest.raises(ValueError) as caught:
        solve(given)
    for part in parts:
        assert part in str(caught.value)
