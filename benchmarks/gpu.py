"""Images a second on real GPUs: four encoders, with and without torch.compile, from memory and from JPEG.

Needs a GPU; without one it says so and exits with 2. Goal: end to end at 0.9 of min(decoding alone, the model alone).
The result is written to benchmarks/results/gpu-<the device's name>.json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.provenance import RESULTS, provenance, write
from benchmarks.stages import Settings
from benchmarks.synthetic import shards
from benchmarks.throughput import CEILING_GOALS, ceiling, stage

ENCODERS = ("open_clip:ViT-B-32", "open_clip:ViT-L-14", "open_clip:RN50", "torchvision:resnet50")
NO_GPU = 2  # exit code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of decoding alone and of the model alone")
    parser.add_argument("--encoder", action="append", help=f"default: {', '.join(ENCODERS)}")
    parser.add_argument("--device", default="cuda", help="cuda (every visible one) or cuda:N")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--archive", type=Path, help="where the synthetic shards are kept between runs")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print(
            "no GPU is visible here: nothing was measured. Run this on a machine with an NVIDIA GPU.", file=sys.stderr
        )
        return NO_GPU
    decoders = ["cpu", "gpu"] if find_spec("torchcodec") else ["cpu"]
    if len(decoders) == 1:
        print("torchcodec is not installed: --decoder gpu is not measured", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.archive or Path(scratch)
        shards(folder, args.images)
        chosen = Settings("", "random", precision=args.precision, device=args.device, seconds=args.seconds)
        rows = [row for name in args.encoder or ENCODERS for row in measured(folder, name, chosen, decoders)]
    result = {**provenance("cuda"), "images": args.images, "runs": rows}
    name = re.sub(r"[^a-z0-9]+", "-", result["machine"]["gpus"][0].lower()).strip("-")
    path = RESULTS / f"gpu-{name}.json"
    write(path, result, "cuda")
    print(json.dumps(result) if args.json else table(result))
    return int(any(row["end_to_end_over_ceiling"] < CEILING_GOALS["gpu"] for row in rows))


def measured(folder: Path, encoder: str, chosen: Settings, decoders: list[str]) -> list[dict[str, Any]]:
    """Of one encoder: the model alone compiled and not, and each of them from JPEG by each decoder."""
    facts = asdict(chosen) | {"encoder": encoder}
    decoding = {d: stage("decode", folder, Settings(**facts | {"decoder": d})) for d in decoders}
    rows = []
    for compiled in (True, False):
        settings = facts | {"compiled": compiled}
        model = stage("model", folder, Settings(**settings))
        for decoder in decoders:
            whole = stage("end-to-end", folder, Settings(**settings | {"decoder": decoder}))
            top = ceiling(decoding[decoder]["images_per_second"], model["images_per_second"], model["device"])
            rows.append({
                "encoder": encoder,
                "compiled": compiled,
                "decoder": decoder,
                "batch_size": model["batch_size"],
                "device": model["device"],
                "model_images_per_second": model["images_per_second"],
                "decode_images_per_second": decoding[decoder]["images_per_second"],
                "ceiling_images_per_second": top,
                "end_to_end_images_per_second": whole["images_per_second"],
                "end_to_end_over_ceiling": whole["images_per_second"] / top,
                "busy_share": whole["busy_share"],
                "bottleneck": whole["bottleneck"],
                "decoder_difference": whole["decoder_difference"],
                "peak_rss_bytes": whole["peak_rss_bytes"],
                "loaded_rss_bytes": whole["loaded_rss_bytes"],
            })  # fmt: skip
    return rows


def table(result: dict[str, Any]) -> str:
    head = f"{', '.join(result['machine']['gpus'])}; {result['machine']['cores']} cores; {result['images']} JPEG files"
    rates = "".join(f"{name:>10}" for name in ("decode/s", "model/s", "whole/s"))
    lines = [
        f"{r['encoder']:<22}{'yes' if r['compiled'] else 'no':>9}{r['decoder']:>8}{r['batch_size']:>6}"
        f"{r['decode_images_per_second']:>10.0f}{r['model_images_per_second']:>10.0f}"
        f"{r['end_to_end_images_per_second']:>10.0f}{r['end_to_end_over_ceiling']:>7.3f}  {r['bottleneck']}"
        for r in result["runs"]
    ]
    return "\n".join([head, f"{'encoder':<22}{'compiled':>9}{'decoder':>8}{'batch':>6}{rates}{'ratio':>7}", *lines])


if __name__ == "__main__":
    sys.exit(main())
