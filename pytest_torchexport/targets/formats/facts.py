"""The facts that a program states: the one class that checks ask, and that each format fills in.

Free of torch: the process that loads ONNX files has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inspect

    from pytest_torchexport.inputs.spec import Call, InputSpec
    from pytest_torchexport.targets.formats.branches import Branches
    from pytest_torchexport.targets.formats.devices import BakedDevice
    from pytest_torchexport.targets.formats.sizes import Suspicion


@dataclass(frozen=True, kw_only=True)
class ProgramFacts:
    """The facts that a program states; this class has none.

    A format overrides the methods that it can answer. None of them runs the program, and none
    raises. ``notes`` are sentences about the export that a report shows, ``cautions`` those that
    the summary shows of a pass too.
    """

    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()

    def signature(self) -> inspect.Signature | None:
        """Return the arguments that the program takes and how; None if it cannot tell."""
        return None

    def inputs(self) -> tuple[str, ...]:
        """Return the names of its inputs in their order, if it takes them by name or in order."""
        return ()

    def suspicions(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        """Return the dims that the program may not accept as the spec has them."""
        return ()

    def outputs(self) -> tuple[tuple[int | None, ...], ...]:
        """Return the sizes that the program declares for its outputs, None for an open one."""
        return ()

    def branches(self) -> Branches | None:
        """Return the branches and loops that the program still has, None if it cannot tell."""
        return None

    def bounds(self) -> tuple[float, ...]:
        """Return the numbers that its operators compare with or cut at."""
        return ()

    def devices(self) -> tuple[BakedDevice, ...]:
        """Return the devices that are constants of the program."""
        return ()

    def text(self) -> str:
        """Return the program as text, for a person."""
        return ""

    def weights(self) -> dict[str, str]:
        """Return dtype, shape and digest of its parameters and buffers, by name."""
        return {}

    def as_plain(self, *, foreign: bool) -> dict[str, Any]:
        """Return the facts as JSON for another process, without those not known.

        Of a foreign file, which no artifact at hand states the facts of; finding them takes as long
        as loading does.
        """
        if not foreign:
            return {}
        found: dict[str, Any] = {"weights": self.weights()}
        signature, branches = self.signature(), self.branches()
        if signature is not None:
            found["arguments"] = [
                [item.name, item.kind.name, item.default is not item.empty]
                for item in signature.parameters.values()
            ]
        return found if branches is None else {**found, "branches": branches.as_plain()}
