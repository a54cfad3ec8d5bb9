"""No secret of an address or a command is stored or shown, and what tells two addresses apart stays."""

from __future__ import annotations

import pytest

from indexer.redact import can_be_reopened, former_name, redacted, stored_address
from tests.secret_forms import FORMS, SECRETS, form

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
def test_the_version_before_is_still_known_by_its_names(given, left):
    assert former_name(given) == left


@pytest.mark.case("X9")
@pytest.mark.parametrize("number", range(len(FORMS)))
def test_no_form_of_a_secret_is_stored_or_shown(number):
    given = form(number)
    texts = (
        stored_address(given), redacted(given), redacted(f"error: {given} cannot be opened: timed out"),
        redacted(f"two sources, '{given}' and {given}"), redacted(f"['curl', '-s', '{given}']: exit 6"),
    )  # fmt: skip
    for text in texts:
        assert not any(secret in text for secret in SECRETS), text


@pytest.mark.case("X9")
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("https://ann:pw@host:8443/a/0001.tar", "https://host:8443/a/0001.tar"),
        ("https://h/a.tar?X-Amz-Credential=x&X-Amz-Signature=y", "https://h/a.tar"),
        ("s3://bucket/a@2x/0001.tar", "s3://bucket/a@2x/0001.tar"),
        ("https://[::1]:80/a.tar", "https://[::1]:80/a.tar"),
        ("https://user:p@ss@host/a.tar", "https://host/a.tar"),
        ("/data/a b/tokens?token=1.tar", "/data/a b/tokens?token=1.tar"),
    ],
)
def test_of_an_address_the_scheme_host_port_and_path_stay(given, stored):
    assert stored_address(given) == stored
    assert stored_address(stored) == stored
    assert can_be_reopened(stored)


def test_addresses_that_differ_in_their_query_or_command_stay_apart_and_cannot_be_reopened():
    given = [
        *(f"https://h/get?id={i}" for i in range(20)), *(f"https://h/a.tar#{i}" for i in range(20)),
        *(f"pipe:zcat {i}.tar.gz" for i in range(20)), "pipe:A=1 zcat 1.tar.gz",
    ]  # fmt: skip
    stored = [stored_address(address) for address in given]
    assert len(set(stored)) == len(given)
    assert not any(map(can_be_reopened, stored))
    assert [stored_address(address) for address in stored] == stored
    assert all(redacted(f"{address} breaks off: no mark") == f"{address} breaks off: no mark" for address in stored)


def test_an_address_that_is_signed_anew_keeps_its_name():
    one, other = (f"https://h/get?id=7&X-Amz-Signature={s}&Expires={s}&token={s}" for s in ("abc", "def"))
    assert stored_address(one) == stored_address(other) != "https://h/get"
    one, other = (f"pipe:curl -H 'Authorization: Bearer {s}' https://h/a.tar" for s in ("abcdefg", "hijklmn"))
    assert stored_address(one) == stored_address(other)


@pytest.mark.parametrize(
    "text",
    [
        "/data/study/tokens/0001.tar", "s3://bucket/a/{0000..0009}.tar", "gs://b/key/a.tar", "a key = 'x@y' and token",
        "im1#2", "Give a folder, a .tar, or a URL (pipe:, http:, s3:).", "PatientName: DOE^JANE",
        "3 passes, 4 sessions", "give --token-file FILE (mode 600), or --token-file=/run/token",
        "no decoder for the pins: 4", "https://h/a.tar breaks off: no end-of-archive mark",
    ],
)  # fmt: skip
def test_what_holds_no_secret_stays_as_it_is(text):
    assert redacted(text) == text


@pytest.mark.parametrize(
    "words",
    [
        "curl -u ann:{} failed", "curl -uann:{} failed", "sshpass -p {} ssh h: exit 5", "sshpass -p{} ssh h: exit 5",
        "gpg --passphrase {} -d: bad", "gpg --passphrase={} -d: bad", "get --password '{}' x", "PGPASSWORD={} psql",
        "Authorization: Bearer {}", "sent X-Auth-Token: {}", "jwt={} expired", "pass={}", "session={} is over",
        "api_key = {}", "Cookie: sid={}", "Basic {}",
    ],
)  # fmt: skip
def test_known_words_for_secrets_are_cut_out_of_a_message_without_an_address(words):
    assert SECRETS[0] not in redacted(words.format(SECRETS[0]))
