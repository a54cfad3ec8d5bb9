"""Small real models as files and directories: random weights from a seed, written and read back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data

from indexer.pixels import decode
from indexer.types import EncoderSpec

VISION = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def pictures() -> list[Image.Image]:
    """Photographs and a texture, landscape and portrait, none of them square or small."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft2(rng.standard_normal((500, 300, 3)), axes=(0, 1))
    frequency = np.hypot(np.fft.fftfreq(500)[:, None], np.fft.rfftfreq(300)[None]) + 1 / 500
    texture = np.fft.irfft2(spectrum / frequency[..., None], s=(500, 300), axes=(0, 1))
    texture = np.clip(128 + 40 * texture / texture.std(), 0, 255).astype(np.uint8)
    return [Image.fromarray(a) for a in (data.chelsea(), data.coffee(), data.rocket(), texture)]


def squares(images: list[Image.Image], spec: EncoderSpec) -> np.ndarray:
    """The way every image goes here: its bytes through indexer.pixels."""
    squares = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        (picture,) = decode(buffer.getvalue(), "png", spec.pixels)
        squares.append(picture.pixels)
    return np.stack(squares)


def lowest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.min((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


def clip_directory(folder: Path, *, seed: int = 0, preprocess: dict | None = None, **config: object) -> Path:
    """A directory as the hub keeps it, of a tiny CLIP: open_clip_config.json and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT} | config
    content = {"model_cfg": model, "preprocess_cfg": {"mean": MEAN, "std": STD} | (preprocess or {})}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder
