"""The Orthanc plugin in a stand-in of Orthanc, against a real server."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import indexer.serve
from tests.archives import png
from tests.serve.test_page import Live, live, page, shown, until  # noqa: F401 - fixtures

PLUGIN = Path(indexer.serve.__file__).parent / "orthanc" / "similar_cases.py"


class Orthanc(types.ModuleType):
    """What the plugin uses of Orthanc: two registrations, the configuration, the stored files."""

    def __init__(self, settings: dict[str, Any], stored: dict[str, bytes]) -> None:
        super().__init__("orthanc")
        self.routes: list[tuple[str, Callable[..., None]]] = []
        self.script = ""
        self._settings, self._stored = settings, stored

    def RegisterRestCallback(self, route: str, answer: Callable[..., None]) -> None:
        self.routes.append((route, answer))

    def ExtendOrthancExplorer(self, script: str) -> None:
        self.script = script

    def GetConfiguration(self) -> str:
        return json.dumps(self._settings)

    def GetDicomForInstance(self, name: str) -> bytes:
        return self._stored[name]


class Output:
    def __init__(self) -> None:
        self.answers: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *given: self.answers.append((name, *given))


def asked(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], method: str = "GET") -> tuple[Any, ...]:
    orthanc = Orthanc({"SimilarCases": settings}, {"aa-11": png(23), "bb-22": b"no image"})
    monkeypatch.setitem(sys.modules, "orthanc", orthanc)
    spec = importlib.util.spec_from_file_location("similar_cases", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    ((route, answer),) = orthanc.routes
    assert route == "/similar-cases/([0-9a-f-]+)"
    assert "similar-cases/" in orthanc.script
    output = Output()
    name = settings.get("instance", "aa-11")
    answer(output, f"/similar-cases/{name}", method=method, groups=(name,), get={}, headers={})
    (only,) = output.answers
    return only


def test_an_instance_opens_the_page_with_its_similar_cases(page, live, monkeypatch):  # noqa: F811
    name, address = asked(monkeypatch, {"Url": live.address, "Table": "t"})
    assert name == "Redirect"
    assert address.startswith(f"{live.address}/t/t#vector=")
    page.goto(address)
    page.wait_for_selector("#hits .hit")
    assert shown(page)[0] == "im23"
    page.check(".facet:has-text('F') input")
    until(page, "location.search.includes('facet')")
    assert "im23" not in shown(page)  # a man's
    assert urlsplit(page.url).fragment.startswith("vector=")


def test_what_goes_wrong_is_said_in_one_line(live, monkeypatch):  # noqa: F811
    name, status, words = asked(monkeypatch, {"Url": live.address, "Table": "t", "instance": "bb-22"})
    assert (name, status) == ("SendHttpStatus", 502)
    assert b"No similar cases: " in words
    assert asked(monkeypatch, {"Url": live.address})[2] == b"orthanc.json: SimilarCases has no 'Table'."
    assert b"no table" in asked(monkeypatch, {"Url": live.address, "Table": "other"})[2]
    assert asked(monkeypatch, {"Url": "http://127.0.0.1:9", "Table": "t"})[1] == 502
    assert asked(monkeypatch, {"Url": live.address, "Table": "t"}, method="POST") == ("SendMethodNotAllowed", "GET")


def test_the_vector_in_the_address_is_that_of_the_library(live, monkeypatch):  # noqa: F811
    _, address = asked(monkeypatch, {"Url": live.address, "Table": "t", "PageUrl": "https://search.example/"})
    assert address.startswith("https://search.example/t/t#vector=")
    vector = np.frombuffer(base64.urlsafe_b64decode(address.partition("vector=")[2]), "<f4")
    rows = live.store.vectors("key = 'im23'")
    np.testing.assert_allclose(vector, rows.vectors[0].astype(np.float32), atol=1e-3)


def test_the_plugin_is_short():
    assert len(PLUGIN.read_text(encoding="utf-8").splitlines()) < 80
