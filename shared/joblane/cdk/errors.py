"""Errors of the synthesis."""

from __future__ import annotations

from collections.abc import Iterable

from joblane.errors import JobError


class SynthError(JobError, ValueError):
    """The stacks cannot be created from the declarations and settings. Nothing has been deployed."""


class StageError(SynthError):
    """A stage is unknown, or one of its settings is wrong."""


class RefusedTemplateError(SynthError):
    """A template breaks rules that prevent the loss of messages.

    ``problems``: one line each, which names the resource.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("refused:\n" + "\n".join(f"  - {problem}" for problem in self.problems))
