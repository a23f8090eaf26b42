"""The errors that end a synthesis: a wrong setting, or stacks that cannot be created."""

from __future__ import annotations

from collections.abc import Iterable

from joblane.errors import JobError


class SynthError(JobError, ValueError):
    """The stacks cannot be created from the declarations and settings. Nothing was deployed.

    Correct the declaration or the setting that the message names.
    """


class StageError(SynthError):
    """A stage is unknown, or one of its settings is wrong.

    Correct ``cdk.json``: the message names the stage and the setting.
    """


class RefusedTemplateError(SynthError):
    """A template breaks rules that protect messages, secrets or limits. Nothing was deployed."""

    problems: tuple[str, ...]
    """A line for each problem, with the name of the resource."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("refused:\n" + "\n".join(f"  - {problem}" for problem in self.problems))
