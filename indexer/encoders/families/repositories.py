"""`hf-hub:<repository>` and `local-dir:<path>`: a weights file with an open_clip or timm configuration beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from indexer.encoders.families.catalogue import WEIGHT_FILES, licence_of
from indexer.encoders.families.definition import EncoderDefinition
from indexer.encoders.families.file_hash import sha256
from indexer.encoders.families.hub import commit_of, fetch
from indexer.encoders.families.weights import WeightsRequest
from indexer.errors import EncoderError, WeightsNotFound

HUB = "hf-hub"
DIRECTORY = "local-dir"
OPEN_CLIP_CONFIG = "open_clip_config.json"
TIMM_CONFIG = "config.json"
REVISION = "revision:"


def hub_definition(repository: str, request: WeightsRequest) -> EncoderDefinition:
    """A hub repository at the commit in `request`, else at the cached or, without one, the newest commit."""
    if request.kind in ("file", "random"):
        raise EncoderError(
            f"{HUB}:{repository} brings its own weights; {request.kind} weights need an architecture by name "
            "(open_clip:NAME, timm:NAME) or local-dir:."
        )
    revision = request.value.removeprefix(REVISION) or None
    config = fetch(repository, (OPEN_CLIP_CONFIG, TIMM_CONFIG), revision, download=request.download)
    commit = commit_of(config)
    name, weights = f"{HUB}:{repository}", f"{REVISION}{commit}"

    def state_file() -> Path:
        return fetch(repository, WEIGHT_FILES, commit, download=request.download)

    if config.name == OPEN_CLIP_CONFIG:
        from indexer.encoders.families import openclip

        return openclip.from_directory(
            config.parent, state_file, name, weights, licence_of(name, ""), download=request.download
        )
    from indexer.encoders.families import timm_models

    return timm_models.from_config(config, state_file, timm_models.Facts(name, weights, licence_of(name, "")))


def directory_definition(path: str, request: WeightsRequest) -> EncoderDefinition:
    """A directory with a configuration and a weights file.

    Its name in the spec is the directory's last component, its identity the hash of both files, so the directory may
    move: `--weights DIR` then gives the new path.
    """
    directory = Path(request.value if request.kind == "file" else path).expanduser().resolve()
    if not directory.is_dir():
        raise WeightsNotFound(
            f"no directory {directory}. Give the model's directory as local-dir:PATH or --weights PATH."
        )
    config = next((directory / n for n in (OPEN_CLIP_CONFIG, TIMM_CONFIG) if (directory / n).is_file()), None)
    state_file = next((directory / n for n in WEIGHT_FILES if (directory / n).is_file()), None)
    if config is None or state_file is None:
        missing = f"{OPEN_CLIP_CONFIG} or {TIMM_CONFIG}" if config is None else " or ".join(WEIGHT_FILES)
        raise WeightsNotFound(f"{directory} holds no {missing}. Download the whole model repository into it.")
    both = hashlib.sha256((sha256(config) + sha256(state_file)).encode()).hexdigest()
    name, weights = f"{DIRECTORY}:{directory.name}", f"sha256:{both}"
    if config.name == OPEN_CLIP_CONFIG:
        from indexer.encoders.families import openclip

        return openclip.from_directory(
            directory, lambda: state_file, name, weights, "unknown", download=request.download
        )
    from indexer.encoders.families import timm_models

    return timm_models.from_config(config, lambda: state_file, timm_models.Facts(name, weights, "unknown"))
