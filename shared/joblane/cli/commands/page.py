"""`page`: the operator's page, served by this process to this machine only."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from joblane.cli import target
from joblane.local.errors import LocalError, PortBusyError


def page(
    context: typer.Context,
    *,
    port: Annotated[
        int,
        typer.Option(
            envvar="JOBLANE_PAGE_PORT", metavar="PORT", min=0, max=65535, help="Port on 127.0.0.1; 0: any free port."
        ),
    ] = 8700,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse every action.")] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve the operator's page to a browser on this machine.

    Prints its address, and runs until Ctrl-C.
    """
    from joblane.inspector.remote import RemoteInspector
    from joblane.page.app import build
    from joblane.page.inspectors import Desk
    from joblane.page.security import Keys, address_of
    from joblane.page.server import listen, serve

    desk = Desk(partial(target.inspector, context))
    with desk.inspector() as inspector:  # report an unavailable stage here rather than in the browser
        shared = inspector.page_url if isinstance(inspector, RemoteInspector) else None
    try:
        listening = listen(port)
    except OSError as error:
        raise PortBusyError("The page", port, "--port") from error
    port, keys = listening.getsockname()[1], Keys()
    where = target.of(context)
    app = build(
        desk,
        port=port,
        keys=keys,
        read_only=read_only,
        stage=where.stage or "local",
        command=target.command(context),
        readable=(LocalError,),
        say=typer.echo,
    )
    address = address_of(port, keys.token)
    typer.echo(
        f"{'Read-only. ' if read_only else ''}Open this address in one browser, and keep it secret; Ctrl-C stops the "
        f"page:\n{address}"
    )
    if shared:
        typer.echo(f"The page of this stage for the team: {shared}")
    serve(app, listening, opened=address if open_browser else None, say=typer.echo)
