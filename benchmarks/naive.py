"""What a user would otherwise write: DataLoader + webdataset + open_clip under autocast + np.save, in 40 lines."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import webdataset as wds


def main(shards: str, model_name: str, out: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(model_name, device=device)
    model.eval()
    dataset = (
        wds.WebDataset(sorted(map(str, Path(shards).glob("*.tar"))), shardshuffle=False)
        .decode("pil")
        .to_tuple("__key__", "jpg")
        .map_tuple(lambda key: key, preprocess)
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=64, num_workers=os.cpu_count() or 1)
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    keys: list[str] = []
    vectors = []
    for names, images in loader:
        with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
            features = model.encode_image(images.to(device))
        vectors.append(features.float().cpu().numpy())
        keys.extend(names)
    np.save(Path(out) / "vectors.npy", np.concatenate(vectors))
    (Path(out) / "keys.json").write_text(json.dumps(keys))
    del loader  # its workers' time counts once they have ended
    seconds, cpu = time.perf_counter() - start, sum(os.times()[:4]) - cpu
    print(json.dumps({"images": len(keys), "seconds": seconds, "cpu_seconds_per_image": cpu / len(keys)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
