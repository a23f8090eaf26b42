"""The entry point of `joblane`; it names the extra of the package that a missing module needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Log lines go to the error output, because the output is a result."""
    try:
        from joblane import telemetry
        from joblane.cli.main import main as run
        from joblane.cli.terminal import Output

        sys.stdout, sys.stderr = Output.of(sys.stdout), Output.of(sys.stderr)
        telemetry.stream = sys.stderr
        run()
    except ModuleNotFoundError as error:
        from joblane.cli.extras import advice

        if (text := advice(error.name or "")) is None:
            raise
        sys.exit(f"joblane: {text}")


if __name__ == "__main__":
    main()
