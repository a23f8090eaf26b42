"""The module for FastAPI."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.testclient import TestClient

import joblane.fastapi
from joblane import JobClient, resource
from joblane.installation import install


def test_a_missing_package_is_named_with_the_extra_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "joblane.fastapi")
    message = f"the package 'fastapi' is missing: {install('fastapi')}"
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(message)}$"):
        importlib.import_module("joblane.fastapi")


def test_each_application_has_its_own_client() -> None:
    outer, mounted = FastAPI(), FastAPI()

    async def main() -> None:
        async with joblane.fastapi.lifespan(outer), joblane.fastapi.lifespan(mounted):
            assert isinstance(outer.state.joblane, JobClient)
            assert outer.state.joblane is not mounted.state.joblane

    asyncio.run(main())


def test_the_end_of_an_application_is_the_end_of_its_resources() -> None:
    app, log = FastAPI(lifespan=joblane.fastapi.lifespan), list[str]()

    @resource
    def client() -> Iterator[None]:
        yield
        log.append("closed")

    @resource
    async def pool() -> AsyncIterator[None]:
        yield
        await asyncio.sleep(0)
        log.append("closed in its loop")

    @app.get("/")
    async def endpoint() -> None:
        client()
        await pool()

    with TestClient(app) as browser:
        assert browser.get("/").status_code == 200
        assert log == []
    assert log == ["closed in its loop", "closed"]


def client_of_dependency(jobs: joblane.fastapi.Jobs) -> JobClient:
    return jobs


def test_a_websocket_endpoint_and_a_dependency_get_the_client() -> None:
    app = FastAPI(lifespan=joblane.fastapi.lifespan)
    given: list[JobClient] = []

    @app.websocket("/socket")
    async def socket(socket: WebSocket, jobs: joblane.fastapi.Jobs) -> None:
        given.append(jobs)
        await socket.accept()
        await socket.close()

    @app.get("/")
    def endpoint(jobs: Annotated[JobClient, Depends(client_of_dependency)]) -> None:
        given.append(jobs)

    with TestClient(app) as client:
        with client.websocket_connect("/socket"):
            pass
        assert client.get("/").status_code == 200
        assert given == [app.state.joblane] * 2
