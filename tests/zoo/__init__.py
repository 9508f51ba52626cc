"""The zoo: small models, and for each of them the verdict that is true of each target.

``expect`` names the failure that is right on each target; None means that the artifact is faithful
and must pass. The truth is that of torch and ONNX Runtime: it was established by running eager and
the artifact by hand, not by asking the plugin. A surprising row has a comment that says why it is
true. If a row's test fails, either the engine has a bug or torch has changed.

There are several models per mechanism, so that no check can be written to fit one model.

Each file holds one family of mechanisms; ``row.py`` holds the helpers that rows are written with.
``in_ci.py`` says which rows CI checks on which targets.
"""

from __future__ import annotations

from zoo.baked import BAKED
from zoo.branches_deployed import DEPLOYED_BRANCHES
from zoo.branches_held_out import HELD_OUT_BRANCHES
from zoo.branches_models import MODEL_BRANCHES
from zoo.branches_numbers import BAKED_NUMBERS, NUMBER_BRANCHES, SIZE_NUMBERS
from zoo.branches_places import PLACE_BRANCHES
from zoo.branches_sizes import SIZE_BRANCHES
from zoo.branches_values import VALUE_BRANCHES
from zoo.callables import CALLABLES
from zoo.chance import CHANCE
from zoo.control import CONTROL
from zoo.converters import CONVERTERS
from zoo.corners import CORNERS
from zoo.dims import DIMS
from zoo.domain import DOMAIN
from zoo.dtypes import DTYPES
from zoo.exporters import EXPORTERS
from zoo.files import DANGEROUS, FILES
from zoo.inputs import INPUTS
from zoo.layers import LAYERS
from zoo.numerics import NUMERICS
from zoo.outputs import OUTPUTS
from zoo.repeatable import REPEATABLE
from zoo.row import BRANCH, SKIPPED, TARGETS, Row
from zoo.sequences import SEQUENCES
from zoo.sizes import SIZES
from zoo.state import STATEFUL
from zoo.ties import TIES
from zoo.training import TRAINING
from zoo.writes import WRITES

__all__ = [
    "ABOUT_FILES",
    "BRANCH",
    "BRANCHES",
    "DEPLOYED_BRANCHES",
    "HELD_OUT_BRANCHES",
    "MECHANISMS",
    "SKIPPED",
    "TARGETS",
    "ZOO",
    "Row",
]

# Models that branch: some are frozen, and some have branches that do no harm.
BRANCHES = (
    *VALUE_BRANCHES,
    *NUMBER_BRANCHES,
    *PLACE_BRANCHES,
    *SIZE_BRANCHES,
    *SIZE_NUMBERS,
    *MODEL_BRANCHES,
)

# Models whose artifact can be right in this process and wrong in another.
ABOUT_FILES = (*FILES, *DANGEROUS)

# The rows of each file.
MECHANISMS: dict[str, tuple[Row, ...]] = {
    "sizes": SIZES,
    "control": CONTROL,
    "branches_values": (*VALUE_BRANCHES, *NUMBER_BRANCHES),
    "branches_places": PLACE_BRANCHES,
    "branches_sizes": (*SIZE_BRANCHES, *SIZE_NUMBERS),
    "branches_models": (*MODEL_BRANCHES, *DEPLOYED_BRANCHES, *HELD_OUT_BRANCHES),
    "dims": DIMS,
    "domain": DOMAIN,
    "baked": (*BAKED, *BAKED_NUMBERS),
    "state": STATEFUL,
    "writes": WRITES,
    "repeatable": REPEATABLE,
    "chance": CHANCE,
    "training": TRAINING,
    "inputs": INPUTS,
    "outputs": OUTPUTS,
    "dtypes": DTYPES,
    "numerics": NUMERICS,
    "converters": (*CONVERTERS, *TIES, *CORNERS, *EXPORTERS),
    "layers": LAYERS,
    "sequences": SEQUENCES,
    "callables": CALLABLES,
    "files": ABOUT_FILES,
}

ZOO = tuple(row for rows in MECHANISMS.values() for row in rows)
