"""The zoo: small models, and for each of them the verdict that is true of each target.

``expect`` names the failure that is right on each target; None means that the artifact is faithful
and must pass. The truth is that of torch and ONNX Runtime: it was established by running eager and
the artifact by hand, not by asking the plugin. A surprising row has a comment that says why it is
true. If a row's test fails, either the engine has a bug or torch has changed.

There are several models per mechanism, so that no check can be written to fit one model.

Each file holds families of mechanisms; ``row.py`` holds the decorators that make a row of a model.
A row has the tags of its section, its mechanism first, and its own: ``rows("deployed")``. It knows
every name in the code of its model: ``rows(naming="topk")`` are the models that call it.
``in_ci.py`` chooses the rows that CI checks, with their targets.
"""

from __future__ import annotations

from zoo import (  # noqa: F401  # each adds its rows to the table
    branches_deployed,
    branches_held_out,
    branches_models,
    branches_places,
    branches_sizes,
    branches_values,
    control,
    converters,
    corners,
    effects,
    exporters,
    files,
    inputs,
    layers,
    libraries,
    numerics,
    regions,
    sizes,
    state,
    steep,
    ties,
)
from zoo.in_ci import in_ci
from zoo.row import BRANCH, SKIPPED, TABLE, TARGETS, Row, rows

__all__ = ["BRANCH", "IN_CI", "MECHANISMS", "SKIPPED", "TARGETS", "ZOO", "Row", "rows"]

# Rows of which no truth per target is known, or that are too large: benchmarks and tests name them.
APART = ("huge", "libraries", "faulty", "steep")
ZOO = tuple(row for row in TABLE if row.tags[0] not in APART)
MECHANISMS = {
    mechanism: tuple(row for row in ZOO if row.tags[0] == mechanism)
    for mechanism in dict.fromkeys(row.tags[0] for row in ZOO)
}
IN_CI = in_ci(ZOO)
