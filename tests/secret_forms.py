"""Ways in which addresses and commands carry a password. Each holds SECRETS; `{a}` and `{b}` are replaced by them."""

from __future__ import annotations

SECRETS = ("hunter2Xq", "s3cr3tYz")

_QUERIES = (
    "pass", "passwd", "password", "pwd", "p", "jwt", "session", "sessionid", "sid", "token", "access_token",
    "refresh_token", "id_token", "auth", "authorization", "api_key", "apikey", "api-key", "key", "k", "secret",
    "client_secret", "sig", "signature", "X-Amz-Signature", "X-Amz-Security-Token", "X-Goog-Signature", "se", "code",
    "otp", "ticket", "share", "st", "cookie", "hash", "u",
)  # fmt: skip
_URLS = (
    "https://{a}@h/a.tar", "https://ann:{a}@h/a.tar", "https://ann:{a}@{b}@h/a.tar", "https://{a}:{b}@h:8443/a.tar",
    "https://ann:{a}/{b}@h/a.tar", "https://ann:{a}?{b}@h/a.tar", "https://ann:{a}#{b}@h/a.tar",
    "https://h/a.tar#{a}", "https://h/a.tar#access_token={a}", "https://h/a.tar?{a}", "https://h/a.tar?x=1;pass={a}",
    "https://h/a.tar;jsessionid={a}", "https://h/x;v=1;token={a}/a.tar?p={b}",
    "s3://{a}:{b}@bucket/a.tar", "ftps://ann:{a}@h/a.tar", "https://proxy/https://ann:{a}@h/a.tar?p={b}",
    "HTTPS://ann:{a}@h/a.tar", "https://ann:%40{a}@h/a.tar",
)  # fmt: skip
_COMMANDS = (
    "curl -u ann:{a} u", "curl -uann:{a} u", "curl --user ann:{a} u", "curl --user=ann:{a} u",
    "curl -u 'ann:{a} {b}' u",
    "curl -H 'Authorization: Bearer {a}' u", "curl -H 'Cookie: session={a}' u", "curl -H 'X-Auth: {a}' u",
    "curl -b session={a} u", "curl -d pass={a} u", "curl --proxy-user ann:{a} u", "curl -K {a} u",
    "sshpass -p {a} ssh h cat a.tar", "sshpass -p{a} ssh h cat a.tar", "sshpass -v -p {a} ssh h",
    "SSHPASS={a} sshpass -e ssh h",
    "gpg --passphrase {a} -d a.gpg", "gpg --passphrase={a} -d a.gpg", "openssl enc -d -k {a} -in a",
    "openssl enc -d -pass pass:{a} -in a", "unzip -P {a} -p a.zip", "7z x -p{a} a.7z -so",
    "wget --password {a} -O- u",
    "wget --password={a} -O- u", "wget --http-password={a} -O- u", "AWS_SECRET_ACCESS_KEY={a} aws s3 cp s3://b/a -",
    "PGPASSWORD='{a} {b}' psql -c x", "mysql -p{a} -e x", "mc --pass {a} cat x", "rclone --jwt {a} cat x",
    "smbclient //h/s -U ann%{a} -c x", "lftp -u ann,{a} h", "env TOKEN={a} get x", "get {a}", "echo {a} | get --stdin",
    "curl 'https://ann:{a}@h/a.tar?jwt={b}'", "curl \"https://h/a.tar?pass={a}\"", "(curl -u ann:{a} u)",
    "X={a};curl u", "bash -c 'get {a}'",
)  # fmt: skip
FORMS = (
    *(f"https://h/a.tar?id=1&{name}={{a}}" for name in _QUERIES),
    *_URLS,
    *(f"pipe:{command}" for command in _COMMANDS),
)


def form(number: int) -> str:
    """One address with its secrets."""
    return FORMS[number].replace("{a}", SECRETS[0]).replace("{b}", SECRETS[1])


def running(number: int, path: object) -> str:
    """A `pipe:` address that gives a file and carries the form in its command, without running it."""
    held = form(number).removeprefix("pipe:")
    return f"pipe:cat {path} # {held}"
