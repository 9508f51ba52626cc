"""The check ``control_flow``: calls that take every branch of eager, and the branch that a failing call is the fault of."""
