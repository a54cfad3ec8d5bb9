"""All encoders of the model libraries, for `indexer encoders --all`. Importing the libraries takes seconds."""

from __future__ import annotations

from indexer.encoders.families import openclip, timm_models, torchvision_resnets
from indexer.encoders.families.catalogue import Listed


def everything() -> list[Listed]:
    """Each published (model, weights) pair of open_clip, torchvision's ResNets and timm."""
    return [*torchvision_resnets.listed(), *openclip.listed(), *timm_models.listed()]
