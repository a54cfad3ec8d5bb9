"""Files of the model hub: the local cache first, and an unreachable hub is said at once.

The hub's own client retries for most of a minute before it gives up; an offline machine should be told in seconds.
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


def cached(repository: str, filename: str, revision: str | None = None) -> Path | None:
    """The file in the local hub cache, None where it is not there. Never asks the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, filename, revision=revision)
    return Path(found) if isinstance(found, str) else None


def fetch(repository: str, filenames: Sequence[str], revision: str | None = None) -> Path:
    """The first of `filenames` that the repository has: from the cache, else downloaded.

    Raises WeightsNotFound where the hub is switched off or unreachable, or holds none of them.
    """
    for filename in filenames:
        if path := cached(repository, filename, revision):
            return path
    what = f"{filenames[0]} of hub repository {repository}"
    require_network(_endpoint(), what)
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
    """The hub commit a cached file belongs to: the name of its snapshot directory."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""


def require_network(url: str, what: str) -> None:
    """Raise WeightsNotFound unless the host of `url` answers within PROBE_SECONDS."""
    if _offline():
        raise WeightsNotFound(f"{what} is not on this machine, and HF_HUB_OFFLINE is set. {WAYS_OUT}")
    parts = urlsplit(url)
    if not _answers(f"{parts.scheme}://{parts.netloc}"):
        raise WeightsNotFound(f"{what} is not on this machine, and {parts.netloc} does not answer. {WAYS_OUT}")


def reach() -> tuple[bool, str]:
    """Whether the model hub can be asked now, and in words what was found; known within PROBE_SECONDS."""
    parts = urlsplit(_endpoint())
    if _offline():
        return False, "switched off: HF_HUB_OFFLINE is set"
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
    """One connection, through the proxy if one is set. In a thread of its own: name resolution knows no timeout."""
    answered: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(origin, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):  # a fixed https address  # nosec B310
                answered.append(True)
        except urllib.error.HTTPError:
            answered.append(True)  # it speaks HTTP: a host is there
        except OSError:
            answered.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answered and answered[0])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
