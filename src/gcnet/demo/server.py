"""The server of the page: Gradio without requests to other hosts, until Ctrl-C."""

import errno
import logging
import os
import signal
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gcnet.demo.requests import RequestLimits
from gcnet.demo.settings import DemoSettings
from gcnet.demo.uploads import Uploads, check_examples, example_images
from gcnet.errors import UserError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_FOLDER = Path(__file__).parent
_logger = logging.getLogger(__name__)


def serve(settings: DemoSettings) -> None:
    """Serve the page until Ctrl-C or SIGTERM, which end the process.

    Args:
        settings: of the page.

    Raises:
        UserError: no such model or example images, or the port cannot be used.
    """
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    with running_server(settings) as address:
        print(f"gcnet demo: {address} (Ctrl-C stops it)", flush=True)
        if settings.open:
            webbrowser.open(address)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C would leave the uploads
                signal.signal(number, signal.SIG_IGN)
            print("stopped", flush=True)
    os._exit(0)  # Python would wait for a computation, and for seconds to free the libraries


@contextmanager
def running_server(settings: DemoSettings) -> Generator[str]:
    """Serve the page while the context lasts.

    Args:
        settings: of the page.

    Yields:
        Address of the page.

    Raises:
        UserError: no such model or example images, or the port cannot be used.
    """
    check_examples(settings.examples)
    port = _free_port(settings.host, settings.port)
    if settings.host not in _LOOPBACK:
        _logger.warning(
            "`host=%s`: everyone who reaches this machine can use the page, without a password", settings.host
        )
    with tempfile.TemporaryDirectory(prefix="gcnet-demo-") as folder, _environment(folder, settings.host):
        uploads = Uploads(Path(folder), settings)
        examples = example_images(settings.examples, uploads, Path(folder))
        from gcnet.demo.models import open_models  # PyTorch and Gradio after these checks

        models, worker = open_models(settings, _logger.info)
        from gcnet.demo.handlers import Handlers
        from gcnet.demo.page import build_page

        blocks = build_page(Handlers(models, uploads), examples)
        _launch(blocks, settings, port, uploads)
        try:
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            yield f"http://{host}:{port}"
        finally:
            worker.close()
            _close(blocks)


def _launch(blocks: Any, settings: DemoSettings, port: int, uploads: Uploads) -> None:
    """Start Gradio's server in a thread, without its services: sharing, history, monitoring, Node, installation."""
    from starlette.middleware import Middleware

    from gcnet.demo.page import theme

    limits = Middleware(RequestLimits, uploads=uploads, max_bytes=settings.max_bytes, timeout=settings.timeout)
    blocks.queue(max_size=settings.queue, api_open=False)
    blocks.launch(
        server_name=f"[{settings.host}]" if ":" in settings.host else settings.host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        inline=False,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size=settings.max_bytes,
        theme=theme(),
        css_paths=_FOLDER / "page.css",
        head_paths=_FOLDER / "head.html",
        app_kwargs={"middleware": [limits], "docs_url": None, "redoc_url": None},
    )


def _close(blocks: Any) -> None:
    """Stop the server without waiting for the pages that are open."""
    logging.getLogger("uvicorn.error").disabled = True  # it reports their connections as errors
    blocks.server.config.timeout_graceful_shutdown = 0.2
    blocks.close(verbose=False)


@contextmanager
def _environment(folder: str, host: str) -> Generator[None]:
    """Environment variables of Gradio: uploads in `folder`, no analytics and version check, no proxy to ourselves."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("GRADIO_")]:
        del os.environ[name]
    direct = ",".join([*filter(None, [before.get("NO_PROXY") or before.get("no_proxy")]), *_LOOPBACK, host])
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
    os.environ |= {"NO_PROXY": direct, "no_proxy": direct}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
            return listener.getsockname()[1]
    except socket.gaierror as error:
        raise UserError(f'`host` must be an address of this machine, found "{host}"') from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"`port` {port} is in use; choose another, or 0 for a free one") from error
        raise UserError(f"`host` and `port`: cannot listen on {host}:{port}: {error.strerror}") from error
