"""Addresses without what opens them: no password, token or signature is stored, logged or printed."""

from __future__ import annotations

import re

GONE = "***"
_USER = re.compile(r"(?<=://)[^\s/?#@'\"]*@")  # https://name:password@host
_QUERY = re.compile(r"(?P<mark>[?&])(?P<name>[^=&?#\s'\"]+)=(?P<value>[^&#\s'\"]*)")
_SECRET_PARAMETER = re.compile(
    r"(x-(amz|goog|ms|oss|cos)-.*|awsaccesskeyid|googleaccessid|key-pair-id|signature|sig|policy|expires|"  # presigned
    r"se|sp|spr|sv|sr|st|ss|srt|sip|si|skoid|sktid|skt|ske|sks|skv|"  # shared access signatures
    r".*(token|secret|passw|credential|api[-_]?key|access[-_]?key|auth).*|pwd|key|code)",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(?i)\b((?:proxy-)?authorization|cookie|[\w-]*(?:token|api-?key|secret)[\w-]*)(\s*:\s*)[^'\"\n]+")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")
_SETTING = re.compile(r"(?i)([\w-]*(?:secret|token|passw(?:or)?d|api[-_]?key|access[-_]?key)[\w-]*)(=|\s+)([^\s'\"&]+)")
_LOGIN = re.compile(r"(?<!\S)(-u|--user|--proxy-user|-U)(=|\s+)(['\"]?)[^\s'\"]*:[^\s'\"]*")


def redacted(text: str) -> str:
    """`text` with the secrets in its URLs and commands taken out; a URL's other parts still tell it apart."""
    if "://" not in text and not text.startswith("pipe:"):
        return text
    text = _USER.sub("", text)
    text = _without_secret_parameters(text)
    for pattern, kept in ((_HEADER, r"\1\2"), (_BEARER, r"\1 "), (_LOGIN, r"\1\2\3"), (_SETTING, r"\1\2")):
        text = pattern.sub(kept + GONE, text)
    return text


def _without_secret_parameters(text: str) -> str:
    def keep(match: re.Match[str]) -> str:
        if _SECRET_PARAMETER.fullmatch(match["name"]):
            return match["mark"] if match["mark"] == "?" else ""
        return match[0]

    text = _QUERY.sub(keep, text)
    return re.sub(r"\?(&|(?=[\s'\"#]|$))", lambda match: "?" if match[1] else "", text)
