"""Limits of requests to the server, as ASGI middleware: routes, size and time of bodies, URLs instead of uploads."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from gcnet.demo.uploads import NO_UPLOAD, Uploads

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PAGE = re.compile(r"/(|config/?|theme\.css|robots\.txt|manifest\.json|favicon\.ico|(assets|static)/.+)")
_API = re.compile(
    r"/gradio_api/(info/?|openapi\.json|app_id/?|startup-events|theme\.css|upload|upload_progress|queue/(join|data)"
    r"|run/predict|cancel|reset/?|heartbeat/[^/]+|file=.+|call/(predict|attention)(/[^/]+)?)"
)
_UPLOAD = "/gradio_api/upload"
_MULTIPART = 64 * 1024
"""Bytes of an upload beyond those of the file."""
_JSON = 64 * 1024
"""Maximum bytes of other bodies."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_QUEUE_FULL = "the server has too many requests; try again in a minute"
_logger = logging.getLogger(__name__)


class _Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class RequestLimits:
    """ASGI middleware that refuses requests the page does not need.

    Refuses other routes of Gradio (proxies, recordings, development), bodies over the limits of size and time, and
    JSON with a file that was not uploaded, such as a URL, which Gradio would download. Browsers are told to load
    nothing from other hosts.

    Args:
        app: the application.
        uploads: uploaded files.
        max_bytes: maximum size of an uploaded file in bytes.
        timeout: maximum time for a body in seconds.
    """

    def __init__(self, app: Any, *, uploads: Uploads, max_bytes: int, timeout: float) -> None:
        self._app, self._uploads, self._max_bytes, self._timeout = app, uploads, max_bytes, timeout

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass on or refuse a request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        path, started, ended = scope["path"], False, False

        async def send_with_headers(message: Message) -> None:
            nonlocal started, ended
            if message["type"] == "http.response.start":
                if message["status"] == 503:  # of Gradio's queue
                    raise _Refused(503, _QUEUE_FULL)
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            if not (_PAGE.fullmatch(path) or _API.fullmatch(path)):
                raise _Refused(404, "there is no such page")
            await self._app(scope, await self._limited(path, receive), send_with_headers)
        except _Refused as refused:
            if not started:
                await _answer(send, refused)
        # Of Gradio's routes, for forged requests, and for results that were read already.
        except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            _logger.warning("a request to %s failed: %r", path, error)
            if not started:
                await _answer(send, _Refused(400, "the request is invalid"))
            elif not ended:
                await send({"type": "http.response.body", "body": b""})

    async def _limited(self, path: str, receive: Receive) -> Receive:
        """The body of a request: an upload as it comes, after a check of its size, any other at once."""
        if path == _UPLOAD:
            too_large = f"the file is over the limit of {self._max_bytes:,} bytes"
            return _Body(receive, self._max_bytes + _MULTIPART, self._timeout, too_large)
        chunks, body = _Body(receive, _JSON, self._timeout, f"the request is over the limit of {_JSON:,} bytes"), b""
        while not chunks.is_complete:
            body += (await chunks()).get("body", b"")
        self._check_json(body)
        replayed: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(replayed, None) or await receive()

        return replay

    def _check_json(self, body: bytes) -> None:
        """Refuse files that were not uploaded."""
        try:
            paths = list(_paths(json.loads(body or b"null")))
        except (ValueError, RecursionError):
            raise _Refused(400, "the request is not JSON") from None
        if any(path is not None and not self._uploads.has(path) for path in paths):
            raise _Refused(400, NO_UPLOAD)


class _Body:
    """Receives the body of a request within limits of size and time."""

    def __init__(self, receive: Receive, max_bytes: int, timeout: float, too_large: str) -> None:
        self._receive, self._left, self._timeout, self._too_large = receive, max_bytes, timeout, too_large
        self._deadline = asyncio.get_running_loop().time() + timeout
        self.is_complete = False

    async def __call__(self) -> Message:
        if self.is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise _Refused(408, f"the request took more than {self._timeout:g} seconds") from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise _Refused(413, self._too_large)
        self.is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message


def _paths(value: Any) -> Iterator[Any]:
    """The values of "path" in JSON."""
    if isinstance(value, dict) and "path" in value:
        yield value["path"]
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _paths(item)


async def _answer(send: Send, refused: _Refused) -> None:
    body = json.dumps({"detail": refused.sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
