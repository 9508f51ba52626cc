"""Open an artifact's files in the sandbox, and keep them after a failure."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.accepted import ReferenceCall
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.judge import loading
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.observe import Outcome, Tensors
from pytest_torchexport.sandbox.session import SandboxSession


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedArtifact:
    """A file in a directory of its own, and the session that has it loaded (None: it did not load).

    ``blocked`` are the packages that the process does not have; ``thorough`` and ``fresh`` say how
    carefully the process puts its state back after a call. ``first_runs`` are the calls of the
    example that were made there, ``others`` further ones, and ``waiting`` those to be made yet.
    """

    path: Path
    plan: Plan
    blocked: Sequence[str]
    thorough: bool
    fresh: bool
    gradients: bool
    session: SandboxSession | None = None
    first_runs: tuple[tuple[Outcome, Tensors], ...] = ()
    others: tuple[tuple[ReferenceCall, Outcome], ...] = ()
    waiting: tuple[Recipe, ...] = ()

    def open(self, device: str | None = None, threads: int = 1) -> SandboxSession:
        """Load it in a new process, on the item's device or another.

        ``threads`` is how many it may use. Raises Ineffective if no process can be started.
        """
        return self.open_file(self.path, device, threads)

    def open_file(self, path: Path, device: str | None = None, threads: int = 1) -> SandboxSession:
        """Load a file of the same artifact."""
        cuda.release()
        source = loading.source_of(
            self.plan,
            path,
            self.blocked,
            device=device or self.plan.device,
            thorough=self.thorough,
            fresh=self.fresh,
            threads=threads,
            gradients=self.gradients,
        )
        return loading.opened(source, self.plan)

    def printed(self) -> str:
        """Return the end of what the artifact printed in its process."""
        return self.session.printed() if self.session is not None else ""

    def files(self) -> list[Path]:
        """Return what belongs to it, after its process has ended.

        The end of what it printed is in the verdict; the rest may be as long as the limit allows.
        """
        self.end()
        return [file for file in self.path.parent.iterdir() if file.suffix != ".output"]

    def end(self) -> None:
        """End its process."""
        if self.session is not None:
            self.session.close()

    def close(self) -> None:
        """End its process, and remove the files that were not kept."""
        self.end()
        shutil.rmtree(self.path.parent, ignore_errors=True)
