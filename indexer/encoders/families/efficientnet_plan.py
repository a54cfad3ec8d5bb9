"""The facts of the bundled encoder, EfficientNet-Lite0 with ImageNet weights from an installed package.

Architecture: Tan and Le, "EfficientNet" (2019), in the Lite variant (no squeeze-and-excitation, ReLU6). Nothing here
imports torch: the network is built twice from it, of torch's modules and of its library's bare operators.
"""

from __future__ import annotations

from indexer.encoders.families.catalogue import CatalogueEntry
from indexer.types import EncoderSpec, PixelSpec

STAGES = (  # kernel, stride of the first block, expansion, channels, blocks
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1),
)  # fmt: skip
STEM, DIM, SIZE = 32, 1280, 224
EPSILON = 1e-3  # of the batch norms, as in the TensorFlow network from which the weights come
PIXELS = PixelSpec(SIZE, 256, "bicubic", "crop")
HALF = (0.5, 0.5, 0.5)  # mean and std of the input
HEAD = 2  # tensors of the classifier, which end the file


def plain_spec(entry: CatalogueEntry) -> EncoderSpec:
    """The spec of the catalogue's entry before any option."""
    return EncoderSpec(entry.name, entry.weights, "pooled", DIM, HALF, HALF, "fp32", PIXELS, entry.licence)


def padding(kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after a side: of stride 2 as TensorFlow pads an even side, one less before than after."""
    total = kernel - stride
    return total // 2, total - total // 2
