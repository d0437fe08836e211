"""Requests that the page does not need are refused, without Gradio."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gcnet.demo.requests import RequestLimits
from gcnet.demo.settings import DemoSettings
from gcnet.demo.uploads import Uploads


def answer(
    folder: Path, path: str, chunks: list[bytes], *, pause: float = 0.0, timeout: float = 5.0
) -> tuple[int, str, dict[bytes, bytes]]:
    """Status, text and headers of the answer; the application sends the size of the body."""
    sent: list[Any] = []
    waiting = list(chunks)

    async def application(_: Any, receive: Any, send: Any) -> None:
        size = 0
        while (message := await receive())["type"] == "http.request":
            size += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})

    async def receive() -> Any:
        await asyncio.sleep(pause)
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    uploads = Uploads(folder, DemoSettings(("model",)))
    limits = RequestLimits(application, uploads=uploads, max_bytes=100_000, timeout=timeout)
    asyncio.run(limits({"type": "http", "path": path, "method": "POST"}, receive, send))
    return sent[0]["status"], sent[1]["body"].decode(), dict(sent[0]["headers"])


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://example.com",
        "/gradio_api/process_recording",
        "/gradio_api/vibe-edit",
        "/gradio_api/deep_link",
        "/gradio_api/stream/x",
        "/gradio_api/call/load_example",
        "/monitoring",
        "/login",
    ],
)
def test_other_routes_of_gradio_are_refused(tmp_path: Path, path: str) -> None:
    assert answer(tmp_path, path, [b""])[0] == 404


@pytest.mark.parametrize("path", ["/", "/config", "/assets/index.js", "/gradio_api/queue/join"])
def test_routes_of_the_page_pass_with_a_policy_for_browsers(tmp_path: Path, path: str) -> None:
    status, _, headers = answer(tmp_path, path, [b"{}"])
    assert status == 200 and b"default-src 'self'" in headers[b"content-security-policy"]


def test_a_body_passes_unchanged(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    body = json.dumps({"data": [{"path": str(tmp_path / "a.png"), "url": "http://x/file=a.png"}, 5]}).encode()
    assert answer(tmp_path, "/gradio_api/call/predict", [body[:9], body[9:]])[:2] == (200, str(len(body)))


@pytest.mark.parametrize("path", ["http://example.com/a.png", "//example.com/a.png", "/etc/passwd", "../a.png"])
def test_files_that_were_not_uploaded_are_refused_at_any_depth(tmp_path: Path, path: str) -> None:
    body = json.dumps({"data": [[{"a": {"path": path, "meta": {"_type": "gradio.FileData"}}}]]}).encode()
    status, text, _ = answer(tmp_path, "/gradio_api/queue/join", [body])
    assert status == 400 and "neither URLs nor other files" in text


@pytest.mark.parametrize("body", [b"no json", b"[" * 60_000, b'{"data": \xff}'])
def test_damaged_json_is_refused(tmp_path: Path, body: bytes) -> None:
    assert answer(tmp_path, "/gradio_api/queue/join", [body])[0] == 400


def test_large_bodies_are_refused(tmp_path: Path) -> None:
    status, text, _ = answer(tmp_path, "/gradio_api/upload", [bytes(90_000)] * 9)
    assert status == 413 and "over the limit of 100,000 bytes" in text
    assert answer(tmp_path, "/gradio_api/upload", [bytes(90_000), bytes(9_000)])[:2] == (200, "99000")
    assert answer(tmp_path, "/gradio_api/queue/join", [bytes(70_000)])[0] == 413


def test_slow_uploads_are_refused(tmp_path: Path) -> None:
    status, text, _ = answer(tmp_path, "/gradio_api/upload", [b"a"] * 9, pause=0.1, timeout=0.3)
    assert status == 408 and "more than 0.3 seconds" in text
