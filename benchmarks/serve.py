"""The served page and API on a table of random vectors: `python -m benchmarks.serve --json --rows N`.

A server process of its own with an index answers over the loopback. Measured: the bytes of everything that the search
page loads before a user acts; queries by key with a filter, one at a time, warm; the server's memory over its index,
and its growth over many queries; then twenty users at once, alone and beside commits. An answer is an error where its
status is not 200, where its version is older than one that this user was given before, or where it holds rows of a
version other than its own. Goals at 1,000,000 rows: 300 kB, 150 ms, 400 MB, no growth, no error.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.provenance import RESULTS, write
from benchmarks.search import SITES, fill
from indexer.ann.goal import Goal
from indexer.search.index_build import build_index
from indexer.search.searcher import Searcher
from indexer.serve.labelling.probe import fit
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import EmbeddingBatch, EmbeddingRow, Place, Shard, ShardResult

TABLE = "/t/vectors"
API = "/api/v1/tables/vectors"
MEASURED = 300  # queries one at a time
USERS, EACH = 20, 25
COMMITS = 5
NEW = "new"  # keys of rows that are committed beside the users begin so


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=10_000, help="over which the growth of memory is measured")
    parser.add_argument("--folder", type=Path, help="where the table is made; default: a temporary one")
    parser.add_argument("--database", type=Path, help="a table that was made so before, with its index; it is added to")
    parser.add_argument("--no-file", action="store_true", help="write no file of results")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = args.database or Path(folder) / "db"
        result = {
            "rows": args.rows,
            "dim": args.dim,
            "queries": args.queries,
            **run(path, args),
        }
    if not args.no_file:
        result = write(RESULTS / f"serve-{args.rows}.json", result)
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


def run(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    if args.database is None:
        build_index(fill(path, "overlapping", args.rows, args.dim), Goal())
    store = EmbeddingStore.open(str(path))
    made = store.count(f"NOT starts_with(key, '{NEW}')")
    if (made, store.dim) != (args.rows, args.dim):
        raise SystemExit(f"{path} has {made} rows of {store.dim}: give --rows and --dim so.")
    index = Searcher(store).snapshot.index
    if index is None:
        raise SystemExit(f"{path} has no index")
    kind, index_bytes = index.manifest.kind, sum(fact.nbytes for fact in index.manifest.files.values())
    del index
    with server(path) as (port, process):
        client = Client(port)
        client.get("/readyz")
        painted = first_paint(client)
        for i in range(20):
            client.query(f"k{i}")
        spent = seconds_of(process)
        times = [client.timed(i, args.rows) for i in range(MEASURED)]
        cpu_ms = 1e3 * (seconds_of(process) - spent) / MEASURED
        before = process.memory_info().rss
        for i in range(args.queries):
            client.query(f"k{i % args.rows}", f"site = {i % SITES}")
        after = process.memory_info().rss
        alone = users(port, args.rows)
        busy = process.memory_info().rss
        beside = beside_commits(port, path, args)
    return {
        **painted,
        "query_p50_ms": float(np.percentile(times, 50)),
        "query_p95_ms": float(np.percentile(times, 95)),
        "query_cpu_ms": cpu_ms,
        "label_probe_ms": label_probe_ms(),
        "index": kind,
        "index_bytes": index_bytes,
        "rss_after_users_over_index_bytes": busy - index_bytes,
        "rss_bytes": after,
        "rss_over_index_bytes": after - index_bytes,
        "rss_growth": after / before - 1,
        "errors": len(alone[1]) + len(beside[1]),
        "first_errors": [*alone[1], *beside[1]][:5],
        "users": USERS,
        "users_p95_ms": float(np.percentile(alone[0], 95)),
        "users_beside_commits_p95_ms": float(np.percentile(beside[0], 95)),
        "commits_beside": COMMITS,
    }


def seconds_of(process: psutil.Process) -> float:
    """Processor seconds that the server has used: what a busy machine does not stretch."""
    used = process.cpu_times()
    return float(used.user + used.system)


def label_probe_ms(labels: int = 2_000, dim: int = 512) -> float:
    """The best of five fits of the labelling probe, three classes."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, labels)
    x = (rng.standard_normal((3, dim))[codes] + 3 * rng.standard_normal((labels, dim))).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        fit(x, codes)
        taken.append(1e3 * (time.perf_counter() - started))
    return min(taken)


@contextmanager
def server(path: Path) -> Iterator[tuple[int, psutil.Process]]:
    """A server process on a free port, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "indexer", "serve", str(path), "--port", str(port), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit("the server did not start")
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()


class Client:
    """One user with one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def get(self, path: str) -> bytes:
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != http.client.OK:
            raise SystemExit(f"{path}: {answer.status} {data[:200]!r}")
        return data

    def query(self, key: str, where: str | None = None, limit: int = 48) -> tuple[int, dict[str, Any]]:
        body = {"query": {"positive": [key]}, "limit": limit, **({"filter": where} if where else {})}
        self._connection.request("POST", f"{API}/query", json.dumps(body), {"content-type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def timed(self, i: int, rows: int) -> float:
        """Milliseconds of one query by key, under a filter that is new to the server."""
        started = time.perf_counter()
        status, found = self.query(f"k{i * 7919 % rows}", f"site = {i % SITES} and key <> 'none{i}'")
        if status != http.client.OK or not found["hits"]:
            raise SystemExit(f"a query failed: {status} {str(found)[:200]}")
        return 1e3 * (time.perf_counter() - started)


def first_paint(client: Client) -> dict[str, Any]:
    """Bytes and milliseconds of the search page with all files and answers that it loads by itself, but no pictures."""
    started = time.perf_counter()
    page = client.get(TABLE)
    waiting = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.decode())
    seen: set[str] = set()
    nbytes = len(page)
    while waiting:
        address = waiting.pop()
        name = address.partition("?")[0]
        if name in seen:
            continue
        seen.add(name)
        data = client.get(address)
        nbytes += len(data)
        if name.endswith(".js"):
            waiting += [f"/static/{own}" for own in re.findall(r'from "\./([^"]+)"', data.decode())]
    nbytes += sum(len(client.get(f"{API}/{path}")) for path in ("facets", "pair-cosines", "sample?limit=12"))
    return {
        "first_paint_bytes": nbytes,
        "first_paint_files": len(seen) + 1,
        "first_paint_ms": 1e3 * (time.perf_counter() - started),
    }


def users(port: int, rows: int, running: threading.Event | None = None) -> tuple[list[float], list[str]]:
    """Milliseconds of each query of USERS users at once, and what went wrong; while `running` is set, if given."""

    def one(user: int) -> tuple[list[float], list[str]]:
        client, times, wrong, newest, i = Client(port), [], [], 0, 0
        while i < EACH or (running is not None and running.is_set()):
            started = time.perf_counter()
            try:
                status, found = client.query(f"k{(user * 1000 + i) % rows}", f"site = {i % SITES} or site = {SITES}")
            except (OSError, http.client.HTTPException) as error:
                wrong.append(repr(error))
                client = Client(port)
                continue
            finally:
                i += 1
            times.append(1e3 * (time.perf_counter() - started))
            if status != http.client.OK:
                wrong.append(f"{status}: {found.get('detail')}")
                continue
            if found["version"] < newest:
                wrong.append(f"version {found['version']} after {newest}")
            newest = found["version"]
            late = [h["key"] for h in found["hits"] if (h["columns"].get("made_after") or 0) >= found["version"]]
            wrong += [f"{key} in version {found['version']}" for key in late if key.startswith(NEW)]
        return times, wrong

    with ThreadPoolExecutor(USERS) as pool:
        done = list(pool.map(one, range(USERS)))
    return [t for times, _ in done for t in times], [w for _, wrong in done for w in wrong]


def beside_commits(port: int, path: Path, args: argparse.Namespace) -> tuple[list[float], list[str]]:
    """`users`, while COMMITS shards of rows near the queries are committed; then the newest rows must be found."""
    running = threading.Event()
    running.set()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(users, port, args.rows, running)
        store = EmbeddingStore.open(str(path))
        try:
            for number in range(COMMITS):
                commit(store, number)
        finally:
            running.clear()
        times, wrong = asked.result()
    status, found = Client(port).query("k0", f"site = {SITES}", limit=1000)
    keys = {hit["key"] for hit in found.get("hits", ())}
    missing = [f"{NEW}{i} is not found" for i in range(COMMITS) if f"{NEW}{i}" not in keys]
    return times, wrong + missing + ([] if status == http.client.OK else [f"{status}"])


def commit(store: EmbeddingStore, number: int) -> None:
    """One more row, of a site of its own that every user's filter lets through, marked with the version before it."""
    store.refresh()
    name, columns = f"{NEW}{number}", {"site": SITES, "made_after": store.version}
    vector = store.vectors(f"key = 'k{number}'").vectors
    row = EmbeddingRow(name, Place(name, "", 0, 0, "png"), f"{number:064d}", columns)
    with StoreWriter(store) as writer:
        writer.commit(
            [ShardResult(Shard(name, name, "1"), (EmbeddingBatch((row,), vector, np.ones(1, np.float32)),), (), 1)]
        )


if __name__ == "__main__":
    main()
