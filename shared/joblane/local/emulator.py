"""The emulator's process: MiniStack behind a guard, with Lambda's recursive loop detection for queues.

It also unpacks each shared zip only once.

The emulator's interpreter runs it, without any package of this project: ``python -P emulator.py``, with MiniStack's
environment variables for port and address.

MiniStack checks no credentials and runs code as the user who started it, so a web page in this user's browser must not
be able to call it. Browsers add certain headers to the requests of pages; programs with an SDK do not send them.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import runpy
import shutil
import tempfile
import zipfile
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
"""An ASGI application: scope, receive, send."""

REFUSAL = (
    b"This emulator answers only programs on this machine. It refuses browsers, because any web page could send the "
    b"same request. For a link into S3 use curl.\n"
)


def is_refused(headers: Iterable[tuple[bytes, bytes]], port: int) -> bool:
    """Return true for a request of a browser, and for a Host of another machine (DNS rebinding).

    Every current browser sends ``Sec-Fetch-Site``. Old browsers may send none of these headers with a plain GET, but
    their user agents begin with Mozilla. ``Sec-Fetch-Mode`` is not checked: Node's ``fetch`` sends it, too.
    """
    hosts = []
    for given, value in headers:
        name = given.lower()
        if name in (b"origin", b"referer", b"sec-fetch-site"):
            return True
        if name == b"user-agent" and value.startswith(b"Mozilla/"):
            return True
        if name == b"host":
            hosts.append(value.decode("latin-1").lower())
    return len(hosts) != 1 or hosts[0] not in (f"127.0.0.1:{port}", f"localhost:{port}")


def guarded(app: App, port: int) -> App:
    """Return ``app`` with a guard that refuses requests by :func:`is_refused` and removes CORS headers from answers."""

    async def guard(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        if scope["type"] == "websocket" or is_refused(scope["headers"], port):
            await _refuse(scope["type"], send)
            return

        async def send_without_cors(message: dict[str, Any]) -> None:
            if headers := message.get("headers"):
                kept = [(name, value) for name, value in headers if not name.lower().startswith(b"access-control-")]
                message = {**message, "headers": kept}
            await send(message)

        await app(scope, receive, send_without_cors)

    return guard


async def _refuse(kind: str, send: Any) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    length = str(len(REFUSAL)).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", length), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": REFUSAL})


def _link(source: Path, target: Path) -> None:
    """Give ``target`` the content of the folder ``source``, by links to its files and folders.

    A folder that exists becomes one with links of its own, because another zip's folder must not change.
    """
    for path in source.iterdir():
        link = target / path.name
        if link.is_dir() and path.is_dir():
            if link.is_symlink():
                older = link.resolve()
                link.unlink()
                link.mkdir()
                _link(older, link)
            _link(path, link)
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(path)


TRACE_ATTRIBUTE = "AWSTraceHeader"  # no package of this project can be imported here


def _service(name: str) -> Any:
    return importlib.import_module(f"ministack.services.{name}")


def detect_loops() -> None:
    """Add Lambda's recursive loop detection for queues: see ``chains.py``. MiniStack has it for direct invocations.

    SQS gives a message the trace header of its request. Lambda gives an invocation the header that follows from its
    messages, or refuses it. A function can allow loops in its template.
    """
    chains = runpy.run_path(str(Path(__file__).with_name("chains.py")))
    sqs, functions, provisioners = map(_service, ("sqs", "lambda_svc", "cloudformation.provisioners"))
    of_request: ContextVar[str | None] = ContextVar("of_request", default=None)
    of_invocation: ContextVar[str | None] = ContextVar("of_invocation", default=None)
    handle, attributes = sqs.handle_request, sqs._build_send_sys_attrs
    run_batch, own_header = functions._run_sqs_batch, functions._xray_trace_id_for_invocation

    async def handle_with_header(method: str, path: str, headers: dict[str, str], *rest: Any) -> Any:
        of_request.set(headers.get("x-amzn-trace-id"))
        return await handle(method, path, headers, *rest)

    def attributes_with_header(*given: Any) -> dict[str, Any]:
        header = of_request.get()
        found: dict[str, Any] = attributes(*given)
        return {TRACE_ATTRIBUTE: header, **found} if header else found

    def run_unless_loop(mapping: Any, function: dict[str, Any], event: dict[str, Any], *rest: Any) -> None:
        name, records = mapping["FunctionName"], event["Records"]
        traces = [record["attributes"].get(TRACE_ATTRIBUTE) for record in records]
        allows = function.get("recursive_loop") == "Allow"
        of_invocation.set(chains["invocation_header"](name, traces, allows_loops=allows))
        if of_invocation.get() is None:
            logging.getLogger("chains").warning("%s.", chains["REFUSED"].format(function=name))
            return
        run_batch(mapping, function, event, *rest)

    def allowing(provision: Callable[..., Any], properties: int) -> Callable[..., Any]:
        def provisioned(*given: Any, **named: Any) -> Any:
            answer = provision(*given, **named)
            functions._functions[answer[0]]["recursive_loop"] = given[properties].get("RecursiveLoop")
            return answer

        return provisioned

    sqs.handle_request, sqs._build_send_sys_attrs = handle_with_header, attributes_with_header
    functions._run_sqs_batch = run_unless_loop
    functions._xray_trace_id_for_invocation = lambda *given: of_invocation.get() or own_header(*given)
    of_functions = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    of_functions["create"] = allowing(of_functions["create"], 1)
    of_functions["update"] = allowing(of_functions["update"], 2)


class SharedZip(zipfile.ZipFile):
    """A zip file whose content is unpacked once; each function has links to it.

    MiniStack unpacks code and layer again for each function, 65 MB each time.
    """

    _cache = Path(tempfile.gettempdir()) / "unpacked"

    def extractall(self, path: Any = None, members: Any = None, pwd: Any = None) -> None:
        """Unpack into ``path``, over existing files."""
        if path is None or members is not None or pwd is not None or not self.filename:
            super().extractall(path, members, pwd)
            return
        content = Path(self.filename)
        unpacked = self._cache / hashlib.sha256(content.read_bytes()).hexdigest()
        if not unpacked.exists():
            self._cache.mkdir(exist_ok=True)
            new = tempfile.mkdtemp(dir=self._cache)  # several processes may unpack the same zip at once
            super().extractall(new)
            try:
                Path(new).rename(unpacked)
            except OSError:  # another process was faster
                shutil.rmtree(new)
        Path(path).mkdir(parents=True, exist_ok=True)
        _link(unpacked, Path(path))
        if content.is_relative_to(tempfile.gettempdir()):  # MiniStack's temporary copy
            content.unlink(missing_ok=True)


def main() -> None:
    """Run the emulator until the process is stopped."""
    emulator = importlib.import_module("ministack.app")
    emulator.app = guarded(emulator.app, int(os.environ["GATEWAY_PORT"]))  # type: ignore[attr-defined]
    zipfile.ZipFile = SharedZip  # type: ignore[misc]
    detect_loops()
    emulator.main()


if __name__ == "__main__":
    main()
