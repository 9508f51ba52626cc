"""outcomes/texts.py: the causes of an exception, lists, and texts that somebody else wrote."""

from __future__ import annotations

from pytest_torchexport.outcomes.texts import chain, few, printable, text_of


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_an_exception_that_is_its_own_cause_is_one():
    error = ValueError("a")
    error.__cause__ = error
    assert list(chain(error)) == [error]


def test_causes_that_lead_in_a_circle_come_once_each():
    first, second, third = ValueError("a"), RuntimeError("b"), KeyError("c")
    first.__cause__, second.__context__, third.__cause__ = second, third, first
    assert list(chain(first)) == [first, second, third]


def test_what_was_raised_while_another_was_handled_is_no_explicit_cause():
    first, second, third = ValueError("a"), RuntimeError("b"), KeyError("c")
    first.__cause__, second.__context__ = second, third
    assert list(chain(first, explicit=True)) == [first, second]


def test_a_text_that_cannot_be_made_is_named():
    assert text_of(Unprintable()) == "(its text cannot be shown: ValueError)"


def test_what_a_terminal_would_obey_is_escaped_and_nothing_else():
    assert printable("a\x1b[31m\u202e\r\n\tb\r") == "a<U+001B>[31m<U+202E>\n\tb\n"
    assert printable("1\u00a0000 \u3000 行") == "1\u00a0000 \u3000 行"


def test_a_sentence_names_the_first_things_of_a_list():
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few(range(5), "; ") == "0; 1; 2 and 2 more"
