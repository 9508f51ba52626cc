"""What every stage works with, once there is an artifact."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from pytest_torchexport import targets
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.accepted import AcceptedCalls
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.inputs.recipes import build, describe_recipe
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.judge.judge import Judge
from pytest_torchexport.judge.log import ItemLog, Shrunk
from pytest_torchexport.judge.runners import Isolated, Runnable
from pytest_torchexport.outcomes.limits import Deadline
from pytest_torchexport.outcomes.torch_state import suppress_output
from pytest_torchexport.targets.base import Artifact, NotApplicable


def exported(eager: Reference, plan: Plan, spec: InputSpec, call: Call) -> Artifact | NotApplicable:
    """What the item's target makes of a fresh copy of the subject at a call; the exporter's own exception
    where it refuses.
    """
    options = dict((plan.options.export_options or {}).get(plan.target, {}))
    subject = eager.pristine.copy().to(plan.device)
    with torch.no_grad(), suppress_output():
        return targets.get(plan.target).export(
            subject.function, call.clone().to(plan.device), spec, **options
        )


@dataclass(kw_only=True, eq=False)
class Case:
    """One artifact beside eager. Its form may change on the way (``isolate``), and with it who judges it."""

    plan: Plan
    eager: Reference
    legal: AcceptedCalls
    artifact: Artifact
    log: ItemLog
    deadline: Deadline
    observed: Observed | None = None
    judge: Judge = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.judge = self.judge_of(self.artifact, self.log)

    @property
    def spec(self) -> InputSpec:
        """Which calls are legal."""
        return self.legal.spec

    def call_limit(self) -> float:
        """Seconds that a call may take in a process of its own."""
        return self.deadline.for_a_call(self.plan.settings.call_limit)

    def judge_of(self, artifact: Runnable, log: ItemLog) -> Judge:
        """A judge of another artifact, or one who keeps other books."""
        return Judge(
            artifact,
            plan=self.plan,
            eager=self.eager,
            legal=self.legal,
            log=log,
            deadline=self.deadline,
        )

    def attempt(self) -> Shrunk | None:
        """The call that is being made, as a report shows it."""
        recipe = self.log.trying
        call = build(self.spec, recipe) if recipe is not None else None
        if recipe is None or call is None:
            return None
        return Shrunk(recipe, describe_recipe(self.spec, recipe, call), (), searched=False)

    def attempted(self) -> tuple[str, ...]:
        """The same as a line for a failure that has no better way to tell its call."""
        attempt = self.attempt()
        return (f"call: {attempt.text}",) if attempt is not None else ()

    def isolate(self, artifact: Isolated) -> None:
        """Judge another form of the same artifact from here on: one that runs in a process of its own."""
        self.artifact = artifact
        self._judge_anew()

    def start_anew(self) -> None:
        """Forget what was judged, where eager turned out to be no reference on the way."""
        self.log.forget()
        self._judge_anew()

    def _judge_anew(self) -> None:
        random_paths = self.judge.random_paths
        self.judge = self.judge_of(self.artifact, self.log)
        self.judge.random_paths = random_paths
