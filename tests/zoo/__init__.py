"""The zoo: small models, and for each of them what is true about each way out of eager.

ONE table. ``expect`` says per target which Failure is right (None: the artifact is faithful and must pass).
The truth is torch's and ONNX Runtime's, established by running eager beside the artifact by hand; where a
row is surprising, its comment says why. Not what the plugin says: a row that fails is a bug of the engine
or news from torch.

Several models per mechanism, so that no check can be written to fit one model.

One file per family of mechanisms; ``row.py`` is what the rows are written with.
"""

from __future__ import annotations

from zoo.baked import BAKED
from zoo.branches_models import MODEL_BRANCHES
from zoo.branches_places import PLACE_BRANCHES
from zoo.branches_sizes import SIZE_BRANCHES
from zoo.branches_values import VALUE_BRANCHES
from zoo.callables import CALLABLES
from zoo.chance import CHANCE
from zoo.control import CONTROL
from zoo.converters import CONVERTERS
from zoo.dims import DIMS
from zoo.domain import DOMAIN
from zoo.dtypes import DTYPES
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
from zoo.training import TRAINING
from zoo.writes import WRITES

__all__ = ["ABOUT_FILES", "BRANCH", "BRANCHES", "SKIPPED", "TARGETS", "ZOO", "Row"]

# Models that branch, with calls that take the other sides, and those with branches that do no harm.
BRANCHES = (*VALUE_BRANCHES, *PLACE_BRANCHES, *SIZE_BRANCHES, *MODEL_BRANCHES)

# Models that are right here, and elsewhere are not.
ABOUT_FILES = (*FILES, *DANGEROUS)

ZOO = (
    *SIZES,
    *CONTROL,
    *BRANCHES,
    *DIMS,
    *DOMAIN,
    *BAKED,
    *STATEFUL,
    *WRITES,
    *REPEATABLE,
    *CHANCE,
    *TRAINING,
    *INPUTS,
    *OUTPUTS,
    *DTYPES,
    *NUMERICS,
    *CONVERTERS,
    *LAYERS,
    *SEQUENCES,
    *CALLABLES,
    *ABOUT_FILES,
)
