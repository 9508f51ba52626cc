"""The check ``parity`` on a sequence whose length nobody declared.

Where a module takes the sequence first, its batch varies, and its length is as in the example: that
it varies too is a guess, and exporters freeze what is not declared. A separate step, because it
only warns.
"""

from __future__ import annotations

import dataclasses

from pytest_torchexport.config.named_dims import Expr
from pytest_torchexport.eager.batch_axes import SEQUENCE
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.log import ItemLog


def weigh(case: Case) -> None:
    """Log a warning if the artifact does not take another length of a sequence, as eager does."""
    accepted = case.accepted.at_any_length()
    if accepted is None:
        return
    other = dataclasses.replace(case, accepted=accepted, log=ItemLog())
    spec, dim = other.spec, other.spec.dims[SEQUENCE]
    for size in (dim.example + 1, dim.high, dim.example - 1):
        recipe = example_recipe(spec, {SEQUENCE: size})
        failure = other.judge.quietly(recipe) if size in dim.sizes else None
        if failure is not None:
            leaf = next(leaf for leaf in spec.tensors if Expr(SEQUENCE) in leaf.shape)
            varies = " ".join(axis.text for axis in leaf.shape)
            stays = " ".join(axis.fixed(SEQUENCE, dim.example).text for axis in leaf.shape)
            case.log.ineffective.append(
                f"dim {leaf.shape.index(Expr(SEQUENCE))} of {leaf.path} is a sequence of "
                f"{dim.example}: the artifact is not right at {size} ({type(failure).__name__}); "
                f'say if its length varies, with shapes={{{leaf.path!r}: "{varies}"}}, or not, '
                f'with "{stays}"'
            )
            return
