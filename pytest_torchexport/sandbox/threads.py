"""The number of threads that the artifact of this process may use.

One, as in the process of the tests: more would make runs slow on a busy machine, and let results
depend on it. A process that repeats calls as they are served allows more, once and for all, before
it loads the artifact. Loaders that set threads themselves read it here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Threads:
    """The number of threads that an artifact may use."""

    allowed: int = 1

    @property
    def as_served(self) -> bool:
        """True if the artifact runs with the runtime's own settings, as it is served."""
        return self.allowed > 1


THREADS = Threads()
