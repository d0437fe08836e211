"""An S3 server on this machine, of moto, with made-up credentials.

It is a process of its own: data-loader workers that are forked while a thread of the server holds a lock, such as one
of OpenSSL, would wait for it forever.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

_SERVER = """
import logging, sys, threading
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer
put_object, lock = S3Response.put_object, threading.Lock()
def put_one(response):  # moto checks the condition of a request and writes the object in two steps
    with lock:
        return put_object(response)
S3Response.put_object = put_one
logging.getLogger("werkzeug").addHandler(logging.FileHandler(sys.argv[1]))
logging.getLogger("werkzeug").setLevel("INFO")
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@cache
def _server() -> tuple[int, Path]:
    """The port of a server that ends with this process, and the file in which it lists the requests."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [sys.executable, "-c", _SERVER, str(folder / "requests.log")]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.kill)
    assert server.stdout is not None
    return int(server.stdout.readline()), folder / "requests.log"


def requests() -> str:
    """The requests to the server since the test began, a line each."""
    return _server()[1].read_text()


@contextmanager
def s3_server() -> Generator[str]:
    """Have an S3 server that holds an empty bucket; the environment names it and its credentials meanwhile.

    Yields:
        URL of the bucket.
    """
    import fsspec

    port, log = _server()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr("gcnet.remote_files._LONGEST_ATTEMPT", 100)  # seconds, which a busy machine may take
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")).close()
        os.truncate(log, 0)
        forget_file_systems()
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    forget_file_systems()


def forget_file_systems() -> None:
    """Have the next access to a URL read endpoint and credentials from the environment again."""
    import fsspec

    from gcnet import remote_files

    fsspec.filesystem("s3").clear_instance_cache()
    remote_files._file_system.cache_clear()
