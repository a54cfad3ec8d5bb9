"""Servers of object stores that npm has: Azurite (Azure's blobs), and s3rver (S3 without conditional puts)."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import http.client
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.object_store import BUCKET, free_port, wait_until_it_answers

INSTALLED = Path(__file__).parents[2] / ".venv" / "node" / "node_modules" / ".bin"  # by `make test-cluster`
ACCOUNT = "devstoreaccount1"  # of every Azurite, as is its key
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def missing(name: str) -> str:
    """Why a server cannot be run here; "" where it can."""
    return "" if _path(name) else f"{name} is not installed (`make test-cluster` installs it where npm is)"


def _path(name: str) -> str | None:
    own = INSTALLED / name
    return str(own) if own.exists() and shutil.which("node") else shutil.which(name)


@contextmanager
def azurite() -> Iterator[dict[str, str]]:
    """Azure's blobs with a container BUCKET; yields the variables that name it."""
    port = free_port()
    words = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry"]
    with _started("azurite-blob", *words, "--silent", "--skipApiVersionCheck") as process:
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        wait_until_it_answers(endpoint, process, any_status=True)
        _make_container(port)
        yield {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": endpoint,
            "AZURE_ALLOW_HTTP": "true",
        }


@contextmanager
def s3rver(folder: Path) -> Iterator[dict[str, str]]:
    """S3 that ignores conditional puts, with an empty bucket BUCKET."""
    port = free_port()
    words = ["--address", "127.0.0.1", "--port", str(port), "--directory", str(folder), "--configure-bucket", BUCKET]
    with _started("s3rver", *words, "--silent") as process:
        wait_until_it_answers(f"http://127.0.0.1:{port}/", process, any_status=True)
        yield {
            "AWS_ENDPOINT": f"http://127.0.0.1:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "S3RVER",
            "AWS_SECRET_ACCESS_KEY": "S3RVER",
        }


@contextmanager
def _started(name: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    program = _path(name)
    assert program is not None, missing(name)
    process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _make_container(port: int) -> None:
    """Signed with the account's key (https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key)."""
    date = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    named = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n/{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), ("PUT" + "\n" * 12 + named).encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": "2021-08-06",
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
        "Content-Length": "0",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("PUT", f"/{ACCOUNT}/{BUCKET}?restype=container", b"", headers)
    assert connection.getresponse().status == 201
    connection.close()
