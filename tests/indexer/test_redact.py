"""What opens an address is taken out of it; what tells two addresses apart stays."""

from __future__ import annotations

import pytest

from indexer.redact import redacted

SECRET = "hunter2SECRETvalue"


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (f"https://ann:{SECRET}@host/a/0001.tar", "https://host/a/0001.tar"),
        (f"https://{SECRET}@host:8443/a.tar?v=3", "https://host:8443/a.tar?v=3"),
        (
            f"https://b.s3.amazonaws.com/a.tar?X-Amz-Algorithm=AWS4&X-Amz-Credential={SECRET}%2Fx&X-Amz-Signature={SECRET}",
            "https://b.s3.amazonaws.com/a.tar",
        ),
        (f"https://h/get?id=7&token={SECRET}&part=2", "https://h/get?id=7&part=2"),
        (f"https://h/get?token={SECRET}&id=7", "https://h/get?id=7"),
        (
            f"https://acc.blob.core.windows.net/c/a.tar?sv=2024&se=2026&sig={SECRET}",
            "https://acc.blob.core.windows.net/c/a.tar",
        ),
        (
            f"https://storage.googleapis.com/b/a.tar?GoogleAccessId=me&Expires=1&Signature={SECRET}",
            "https://storage.googleapis.com/b/a.tar",
        ),
        (
            f"pipe:curl -s -H 'Authorization: Bearer {SECRET}' https://h/a.tar",
            "pipe:curl -s -H 'Authorization: ***' https://h/a.tar",
        ),
        (f'pipe:curl -H "X-Auth-Token: {SECRET}" https://h/a.tar', 'pipe:curl -H "X-Auth-Token: ***" https://h/a.tar'),
        (f"pipe:curl -u ann:{SECRET} https://h/a.tar", "pipe:curl -u *** https://h/a.tar"),
        (
            f"pipe:AWS_SECRET_ACCESS_KEY={SECRET} aws s3 cp s3://b/a.tar -",
            "pipe:AWS_SECRET_ACCESS_KEY=*** aws s3 cp s3://b/a.tar -",
        ),
        (f"pipe:get --password {SECRET} https://h/a.tar", "pipe:get --password *** https://h/a.tar"),
        (
            f"error: https://ann:{SECRET}@host/a.tar does not answer: timed out",
            "error: https://host/a.tar does not answer: timed out",
        ),
    ],
)
def test_secrets_go_and_the_address_stays(given, left):
    assert redacted(given) == left


@pytest.mark.parametrize(
    "text",
    [
        "/data/study/tokens/0001.tar", "s3://bucket/a/{0000..0009}.tar", "https://h/a.tar?page=2&size=10#frag", "gs://b/key/a.tar",
        "pipe:cat /data/secret/a.tar", "a key = 'x@y' and token", "im1#2", "pipe:zcat 'a b.tar.gz'",
    ],
)  # fmt: skip
def test_what_holds_no_secret_stays_as_it_is(text):
    assert redacted(text) == text
