"""Addresses and messages without passwords, tokens or signatures: what may be stored, logged and printed.

`stored_address` keeps of a URL the scheme, host, port and path, and of a `pipe:` command the program's name. A short
hash of the rest tells two addresses apart. The hash is BLAKE2b without a key: it is taken after the known secrets were
cut out, so that an address that is signed anew keeps its name, and it hides what is left no better than a hash of few
possible values does. It is a name, not a place to keep a secret.
"""

from __future__ import annotations

import hashlib
import re
import shlex

GONE = "***"
PIPE = "pipe:"
HASH_BYTES = 8

_URL = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*://[^\s<>]+")
_STORED_PIPE = re.compile(r"pipe:[\w.+-]+#[0-9a-f]{16}(?![\w.+-])")
_QUERY_MARK = re.compile(r"[?#]|;[\w.-]+=")  # also of a parameter in the path, as ;jsessionid=
_STORED_QUERY = re.compile(r"\?query-[0-9a-f]{16}")
_PIPE = re.compile(r"\bpipe:(?![\w.+-]+(?:#[0-9a-f]{16}| …))(?=\s*[\w./(\"'$])[^\n]*")
_PROGRAM = re.compile(r"[A-Za-z_][\w.+-]{0,31}")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=[^;&|()`$]*")

# Names of secrets: in settings (name=value, name: value) and in options of commands (--name value). An option that
# ends in -file names a file that holds one.
_NAMES = (
    r"[\w-]*(?:secret|token|passw(?:or)?d|passphrase|passwd|api[-_]?key|access[-_]?key|private[-_]?key|credential)[\w-]*"
    r"|pwd|pass|jwt|sid|session(?:[-_]?id)?|sig|signature|otp|pin|auth|oauth\w*|bearer|cookie"
)
_HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]*auth[\w-]*|[\w-]*(?:token|api-?key|secret)[\w-]*)"
    r"(\s*:\s*)[^'\"\n]+"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic|digest|negotiate)\s+[\w.~+/=-]{6,}")
_SETTING = re.compile(rf"(?i)(?<![\w-])((?:{_NAMES})(?<!-file))(\s?=\s?)(?:'[^']*'|\"[^\"]*\"|[^\s'\"&;,]+)")
_OPTION = re.compile(rf"(?i)(?<!\S)(--?(?:{_NAMES})(?<!-file))(=|\s+)(?:'[^']*'|\"[^\"]*\"|[^\s'\"]+)")
_LOGIN = re.compile(
    r"(?<!\S)(-u|--user|--proxy-user|-U|--login)(=|\s*)(?:'[^']*:[^']*'|\"[^\"]*:[^\"]*\"|[^\s'\"]*:\S*)"
)
_SSHPASS = re.compile(r"\b(sshpass\s+(?:-\w\s+\S+\s+)*?-p)(\s*)(?:'[^']*'|\"[^\"]*\"|\S+)")


def stored_address(address: str) -> str:
    """An address as it is stored in tables and shown: a local path as it is, a URL or command without its secrets."""
    if _STORED_PIPE.fullmatch(address):
        return address
    if address.startswith(PIPE):
        return f"{PIPE}{_program(address.removeprefix(PIPE))}#{_hash(former_name(address))}"
    return _cut_url(address) if "://" in address else address


def can_be_reopened(stored: str) -> bool:
    """Whether an address can be opened from what is stored of it: not a command's, nor one that held a query."""
    return not stored.startswith(PIPE) and not _STORED_QUERY.search(stored)


def redacted(text: str) -> str:
    """Free text (messages, details, command lines) with its addresses as `stored_address` has them.

    Where a `pipe:` command ends cannot be seen in a sentence, so the rest of its line goes with it. Values of settings,
    options and headers with the name of a secret become ***.
    """
    if text.startswith(PIPE) and "\n" not in text and not _STORED_PIPE.match(text):
        return stored_address(text)
    text = _PIPE.sub(lambda match: f"{PIPE}{_program(match[0].removeprefix(PIPE))} …", text)
    text = _URL.sub(lambda match: _cut_url(match[0]), text)
    for pattern, kept in (
        (_HEADER, r"\1\2"), (_BEARER, r"\1 "), (_SSHPASS, r"\1\2"), (_LOGIN, r"\1\2"), (_OPTION, r"\1\2"),
        (_SETTING, r"\1\2"),
    ):  # fmt: skip
        text = pattern.sub(kept + GONE, text)
    return text


def _program(command: str) -> str:
    """The name of a command's program, after assignments of variables; "sh" where it cannot be told for certain."""
    try:
        words = shlex.split(command)
    except ValueError:
        return "sh"
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words.pop(0)
    name = words[0].rpartition("/")[2] if words else ""
    return name if _PROGRAM.fullmatch(name) else "sh"


def _cut_url(url: str) -> str:
    """Scheme, host, port and path of a URL, and a hash of its parameters, query and fragment where there are some."""
    scheme, _, rest = url.partition("://")
    rest = _without_login(rest)
    query_mark = _QUERY_MARK.search(rest)
    end = query_mark.start() if query_mark else len(rest)
    place, query = rest[:end], rest[end:]
    place = _URL.sub(lambda match: _cut_url(match[0]), place)  # of a proxy, which has the whole address in its path
    if _STORED_QUERY.fullmatch(query) or not query:
        return f"{scheme}://{place}{query}"
    left = former_name(f"{scheme}://{place}{query}").removeprefix(f"{scheme}://{place}")
    return f"{scheme}://{place}" + (f"?query-{_hash(left)}" if left else "")


def _without_login(rest: str) -> str:
    """What stands behind `scheme://`, without the login.

    A password with an @, / or ? of its own is no URL by the standard, but is used: the login then reaches to the last @
    before the path, or, where the text before the path is no host and port, to the last @ of all.
    """
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        return rest[host.rindex("@") + 1 :]
    name, colon, port = host.rpartition(":")
    if colon and not port.isdigit() and not name.startswith("["):
        _, at, after = rest.rpartition("@")
        return after if at else name + rest[len(host) :]
    return rest


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=HASH_BYTES).hexdigest()


# The rule by which tables of the version before name the shards they hold. It stays as it was, so that they are
# recognised, and as the text that is hashed, so that an address signed anew keeps its name.
_USER = re.compile(r"(?<=://)[^\s/?#@'\"]*@")  # https://name:password@host
_QUERY = re.compile(r"(?P<mark>[?&])(?P<name>[^=&?#\s'\"]+)=(?P<value>[^&#\s'\"]*)")
_SECRET_PARAMETER = re.compile(
    r"(x-(amz|goog|ms|oss|cos)-.*|awsaccesskeyid|googleaccessid|key-pair-id|signature|sig|policy|expires|"  # presigned
    r"se|sp|spr|sv|sr|st|ss|srt|sip|si|skoid|sktid|skt|ske|sks|skv|"  # shared access signatures
    r".*(token|secret|passw|credential|api[-_]?key|access[-_]?key|auth).*|pwd|key|code)",
    re.IGNORECASE,
)
_FORMER_HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|cookie|[\w-]*(?:token|api-?key|secret)[\w-]*)(\s*:\s*)[^'\"\n]+"
)
_FORMER_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")
_FORMER_SETTING = re.compile(
    r"(?i)([\w-]*(?:secret|token|passw(?:or)?d|api[-_]?key|access[-_]?key)[\w-]*)(=|\s+)([^\s'\"&]+)"
)
_FORMER_LOGIN = re.compile(r"(?<!\S)(-u|--user|--proxy-user|-U)(=|\s+)(['\"]?)[^\s'\"]*:[^\s'\"]*")


def former_name(text: str) -> str:
    """The name that the version before gave to a remote address. It may hold secrets: never show it."""
    if "://" not in text and not text.startswith(PIPE):
        return text
    text = _USER.sub("", text)
    text = _without_secret_parameters(text)
    for pattern, kept in (
        (_FORMER_HEADER, r"\1\2"), (_FORMER_BEARER, r"\1 "), (_FORMER_LOGIN, r"\1\2\3"), (_FORMER_SETTING, r"\1\2"),
    ):  # fmt: skip
        text = pattern.sub(kept + GONE, text)
    return text


def _without_secret_parameters(text: str) -> str:
    def keep(match: re.Match[str]) -> str:
        if _SECRET_PARAMETER.fullmatch(match["name"]):
            return match["mark"] if match["mark"] == "?" else ""
        return match[0]

    text = _QUERY.sub(keep, text)
    return re.sub(r"\?(&|(?=[\s'\"#]|$))", lambda match: "?" if match[1] else "", text)
