"""An S3 server on this machine, of moto, with made-up credentials."""

import logging
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_server() -> Generator[str]:
    """Start an S3 server that holds an empty bucket; the environment names it and its credentials meanwhile.

    Yields:
        URL of the bucket.
    """
    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
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
        # Servers of one process share their buckets.
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")).close()
        forget_file_systems()
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    forget_file_systems()
    server.stop()


def forget_file_systems() -> None:
    """Have the next access to a URL read endpoint and credentials from the environment again."""
    import fsspec

    from gcnet import remote_files

    fsspec.filesystem("s3").clear_instance_cache()
    remote_files._file_system.cache_clear()
