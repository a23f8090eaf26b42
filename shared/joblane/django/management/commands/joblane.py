"""``manage.py joblane …``: the command line of Joblane, with the database of Django's settings."""

from __future__ import annotations

import os
from argparse import REMAINDER
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from joblane.django.database import url_of

OWN_DATABASE = ("up", "down", "status", "dev", "init", "new")
"""Commands that have no database, or start their own."""


class Command(BaseCommand):  # type: ignore[misc]
    """Pass the arguments to the command line of Joblane."""

    help = "Joblane's command line, for example: manage.py joblane migrate. Without DATABASE_URL it uses DATABASES."
    requires_system_checks = ()

    def add_arguments(self, parser: Any) -> None:
        """For ``call_command("joblane", "migrate")``, and for ``manage.py help joblane``."""
        parser.add_argument("arguments", nargs=REMAINDER, help="as for `joblane`")

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """Leave the options, ``--help`` included, to the command line of Joblane."""
        self.handle(arguments=argv[2:])

    def handle(self, *_: Any, arguments: Sequence[str], **options: Any) -> None:
        """Run the command line. It ends the process with its exit status, as ``joblane`` does."""
        try:
            from joblane.cli.main import main
        except ModuleNotFoundError as error:
            from joblane.cli.extras import advice

            if (text := advice(error.name or "")) is None:
                raise
            raise CommandError(text) from None
        if not os.environ.get("DATABASE_URL", "").strip() and not _has_own_database(arguments):
            from joblane.django.backend import joblane_backends

            try:
                alias = next((backend.database for backend in joblane_backends()), "default")
                os.environ["DATABASE_URL"] = url_of(connections[alias].settings_dict)
            except ValueError as error:
                raise CommandError(str(error)) from None
        main(list(arguments))


def _has_own_database(arguments: Sequence[str]) -> bool:
    """True if the database of Django's settings is not that of the command, as for a stage on AWS."""
    return not arguments or arguments[0].startswith("--stage") or any(name in arguments for name in OWN_DATABASE)
