"""What the synth refuses."""

from __future__ import annotations

from collections.abc import Iterable

from joblane.errors import JobError


class SynthError(JobError, ValueError):
    """The stacks cannot be made as declared and set. Nothing has been deployed."""


class StageError(SynthError):
    """A stage is unknown, or a setting of it is wrong."""


class RefusedTemplateError(SynthError):
    """The template breaks rules without which messages would be lost. ``problems``: one line each, naming the thing."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("refused:\n" + "\n".join(f"  - {problem}" for problem in self.problems))
