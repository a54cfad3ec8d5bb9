"""An installed clip-retrieval over the same shards: `PYTHON benchmarks/peer.py SHARDS MODEL OUT`.

Run by the interpreter clip-retrieval is installed for (its pins are older than ours), so nothing of ours is imported.
The weights are random as everywhere in the benchmark: speed does not depend on them, and no hub is asked.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import open_clip

from indexer.cores import cores


def main(shards: str, model: str, out: str) -> None:
    create = open_clip.create_model_and_transforms

    def with_random_weights(name: str, **options: Any) -> Any:
        options |= {"pretrained": None, "cache_dir": None}
        return create(name, **options)

    open_clip.create_model_and_transforms = with_random_weights
    os.environ["WANDB_MODE"] = "disabled"
    from clip_retrieval import clip_inference
    from clip_retrieval.clip_inference import mapper

    load, started = mapper.load_clip, []

    def timed(**options: Any) -> Any:
        loaded = load(**options)
        started.append(time.perf_counter())  # loading and its warm-up are not what is measured
        return loaded

    mapper.load_clip = timed
    names = [path.stem for path in sorted(Path(shards).glob("*.tar"))]
    count = sum(1 for path in Path(shards).glob("*.tar") for _ in _members(path))
    clip_inference(
        input_dataset=f"{shards}/{{{names[0]}..{names[-1]}}}.tar",
        output_folder=out,
        input_format="webdataset",
        clip_model=f"open_clip:{model}/random",
        enable_text=False,
        enable_metadata=False,
        num_prepro_workers=cores(),
        output_partition_count=1,
    )
    seconds = time.perf_counter() - started[0]
    found = sum(1 for _ in Path(out, "img_emb").glob("*.npy"))
    if not found:
        sys.exit("clip-retrieval wrote no embeddings")
    print()
    print(json.dumps({"images": count, "seconds": seconds, "images_per_second": count / seconds}))


def _members(path: Path) -> list[str]:
    import tarfile

    with tarfile.open(path) as archive:
        return [name for name in archive.getnames() if name.endswith(".jpg")]


if __name__ == "__main__":
    main(*sys.argv[1:])
