"""FastAPI: a client for the life of an application, and the dependency that hands it to endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from joblane.client.client import JobClient
from joblane.errors import JobError

try:
    from fastapi import Depends, FastAPI
    from fastapi.requests import HTTPConnection
except ModuleNotFoundError as error:
    from joblane.installation import missing

    raise ModuleNotFoundError(missing(error.name or "fastapi", "fastapi"), name=error.name) from None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open a client for the life of an application: ``FastAPI(lifespan=lifespan)``, or ``async with lifespan(app):`` in
    a lifespan of your own.

    Starlette runs no lifespan of a mounted application; open its client in that of the outer one.
    """
    async with JobClient() as jobs:
        app.state.joblane = jobs
        yield


async def client_of(connection: HTTPConnection) -> JobClient:
    """Return the client of the application. Raises :class:`JobError` if its :func:`lifespan` has not begun."""
    jobs = getattr(connection.app.state, "joblane", None)
    if not isinstance(jobs, JobClient):
        raise JobError(
            "this application has no client: use FastAPI(lifespan=joblane.fastapi.lifespan), or "
            "`async with joblane.fastapi.lifespan(app):` in your own lifespan"
        )
    return jobs


Jobs = Annotated[JobClient, Depends(client_of)]
"""The type of a parameter that gets the client of the application."""
