"""A file server on this machine, in the place of the internet."""

import hashlib
import http.server
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from gcnet.checkpoints.published_files import PublishedFile, find_published_file


@dataclass
class FileServer:
    """Answers of a server that has one file.

    Attributes:
        content: of the file.
        declared: Content-Length; None for the true length, 0 for no such header.
        status: of the answers.
        requests: number of requests so far.
        url: of the server.
    """

    content: bytes
    declared: int | None = None
    status: int = 200
    requests: int = 0
    url: str = field(default="", init=False)


@contextmanager
def running_server(handler: type[http.server.BaseHTTPRequestHandler]) -> Generator[str]:
    """Run a server in a thread, and give its URL."""
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


@contextmanager
def served(content: bytes) -> Generator[FileServer]:
    """Run a server in a thread."""
    state = FileServer(content)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests += 1
            self.send_response(state.status)
            length = len(state.content) if state.declared is None else state.declared
            if length:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            with suppress(ConnectionError):  # of a client that refuses the length
                self.wfile.write(state.content)

        def log_message(self, *_: object) -> None:
            pass

    with running_server(Handler) as state.url:
        yield state


def published(url: str, content: bytes) -> PublishedFile:
    """A published checkpoint on a server of this machine, under a known name."""
    digest = hashlib.sha256(content).hexdigest()[:8]
    known = find_published_file("mmdet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco")
    return replace(known, url=f"{url}/models/network-{digest}.pth")
