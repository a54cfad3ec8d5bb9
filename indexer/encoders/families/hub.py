"""Files from the model hub: from the local cache, else downloaded.

The hub's client retries for most of a minute before it gives up, so the host is probed first: an offline machine gets
its error within PROBE_SECONDS.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from indexer.errors import WeightsNotFound

PROBE_SECONDS = 3.0
WAYS_OUT = "Give a weights file (--weights FILE), or copy the model into the hub cache from a machine with a network."
ASK = "Ask for it with --download, or give a weights file (--weights FILE)."


def cached(repository: str, filename: str, revision: str | None = None) -> Path | None:
    """Path of the file in the local hub cache, None where it is not cached. Makes no network request."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, filename, revision=revision)
    return Path(found) if isinstance(found, str) else None


def fetch(repository: str, filenames: Sequence[str], revision: str | None = None, *, download: bool) -> Path:
    """The first of `filenames` that the repository has: from the cache, else, with `download`, from the hub.

    Raises WeightsNotFound where none is cached and the hub may not be asked or is unreachable, or holds none of them.
    """
    for filename in filenames:
        if path := cached(repository, filename, revision):
            return path
    what = f"{filenames[0]} of hub repository {repository}"
    require_network(_endpoint(), what, download=download)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    for filename in filenames:
        try:
            return Path(hf_hub_download(repository, filename, revision=revision))
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise WeightsNotFound(f"could not fetch {what}: {_first_line(error)}. {WAYS_OUT}") from error
    raise WeightsNotFound(
        f"no {what}, nor another of {', '.join(filenames)}. Check the name, or give a weights file (--weights FILE)."
    )


def commit_of(path: Path) -> str:
    """Commit hash of a cached file: the name of its snapshot directory; "" outside a hub cache."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""


def require_network(url: str, what: str, *, download: bool) -> None:
    """Raise WeightsNotFound unless `download` is set and the host of `url` answers within PROBE_SECONDS."""
    if not download:
        raise WeightsNotFound(f"{what} is not on this machine, and a query downloads nothing by itself. {ASK}")
    if _offline():
        raise WeightsNotFound(f"{what} is not on this machine, and HF_HUB_OFFLINE is set. {WAYS_OUT}")
    parts = urlsplit(url)
    if not _answers(f"{parts.scheme}://{parts.netloc}"):
        raise WeightsNotFound(f"{what} is not on this machine, and {parts.netloc} does not answer. {WAYS_OUT}")


def reach() -> tuple[bool, str]:
    """Whether the model hub answers within PROBE_SECONDS, and a phrase that says what was found."""
    parts = urlsplit(_endpoint())
    if _offline():
        return False, "disabled: HF_HUB_OFFLINE is set"
    if _answers(f"{parts.scheme}://{parts.netloc}"):
        return True, f"{parts.netloc} answers"
    return False, f"{parts.netloc} does not answer"


def _offline() -> bool:
    from huggingface_hub.constants import is_offline_mode

    return bool(is_offline_mode())


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    return str(ENDPOINT)


@cache
def _answers(origin: str) -> bool:
    """One HEAD request, through a proxy where one is set. In its own thread, since name resolution has no timeout."""
    answered: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(origin, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):  # a fixed https address  # nosec B310
                answered.append(True)
        except urllib.error.HTTPError:
            answered.append(True)  # an HTTP error is an answer: the host is reachable
        except OSError:
            answered.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answered and answered[0])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
