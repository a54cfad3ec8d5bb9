"""The fence: a commit that changes nothing, and that no commit against an older version can follow.

Lance rebases a commit whose table has newer versions since: an append, among others, then succeeds. It refuses every
commit of ours (append, delete, update, merge of columns, compaction, change of the schema) that meets a `Merge` in a
newer version, and refuses a `Merge` itself that meets any other commit. So a fence never hides a commit, and none that
began before it can succeed after it. Lance's own retries, which would begin again behind the fence, are switched off
where we commit (`conflict_retries=0`). Only an overwrite of a whole table passes; the class-text vectors, which are
made again by one command, are written so.

Lance looks for conflicts in the versions that still exist: a clean-up of old ones is therefore followed by a fence
(`Lease.contested`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance

from indexer.addresses import is_remote
from indexer.store.lance_errors import writing
from indexer.store.mend import exists

TRIES = 20  # each is refused only by another commit in between


def fence(dataset: Any) -> None:
    """Commit the fence to this table at its newest version. Raises StoreError."""
    with writing(dataset.uri):
        for left in reversed(range(TRIES)):
            newest = lance.dataset(dataset.uri)
            fragments = [fragment.metadata for fragment in newest.get_fragments()]
            operation = lance.LanceOperation.Merge(fragments, newest.lance_schema)
            try:
                lance.LanceDataset.commit(newest, operation, read_version=newest.version)
            except (OSError, ValueError, RuntimeError) as error:
                if not left or "onflict" not in str(error):
                    raise
            else:
                return


def fence_all(addresses: list[str]) -> None:
    """Commit the fence to each of these tables that exists."""
    for address in addresses:
        if not is_remote(address):
            if exists(Path(address)):
                fence(lance.dataset(address))
            continue
        with writing(address):
            try:
                dataset = lance.dataset(address)
            except (ValueError, OSError) as error:
                if "not found" in str(error).lower():
                    continue
                raise
        fence(dataset)
