"""Private torch: every name that torch does not document is used in a function of this room.

Separate so that a new release of torch breaks one function and its test. Each function is named for
the question it answers, looks for the name first, and says what it returns if torch lacks it. The
names are those of torch 2.13.

A test of this room that fails means that torch renamed or dropped something private: look at the
function that it tests, find what torch has instead, and keep the old way for the versions that
pyproject.toml declares.
"""
