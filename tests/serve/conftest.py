"""The browser of the tests of served pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.live import CHROMIUM


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium of this machine; the test is skipped where it, or playwright, is not installed."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian's package `chromium`)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
