"""diagnosis/reproducer/private.py: names of the user's are taken out."""

import torch

from pytest_torchexport.diagnosis.reproducer.private import anonymous, names_of
from pytest_torchexport.outcomes.subject import Subject


def test_a_long_word_does_not_take_long():
    """It would take hours if each character of it began a search."""
    long = "ab/cd" * 2**18
    assert anonymous(long, ()) == long


class Secret(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.ingredient = torch.nn.Linear(3, 3)
        self.pinch = 2.0

    def forward(self, x, spoonful):
        stirred = self.ingredient(x) * self.pinch
        return torch.relu(stirred) + spoonful


def test_the_names_of_a_model_are_those_that_the_user_gave():
    names = names_of(Subject.of(Secret()))
    assert {"Secret", "ingredient", "pinch", "spoonful", "stirred"} <= names
    assert not names & {"torch", "relu", "Linear", "forward", "self", "x", "super", "__init__"}


def test_an_anonymous_text_has_no_name_and_no_line_of_the_users():
    text = "Secret on trace-cpu at cake/recipe.py:12  return stirred * 7: output of ingredient (torch.nn.Linear)"
    found = anonymous(
        text + "\n__torch__.test_private.Secret.ingredient, stirred_2",
        names_of(Subject.of(Secret())),
    )
    assert not [
        name
        for name in ("Secret", "cake", "recipe", "stirred", "ingredient", "* 7")
        if name in found
    ]
    assert "model.py:12" in found
    other = found.split()[0]
    assert other.startswith("name")
    assert found.count(other) == 2


def test_a_text_without_names_stays():
    assert anonymous("the output differs", ()) == "the output differs"
