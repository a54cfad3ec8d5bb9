"""Presets: published protocols as fixed fields of a request.

`dino`: D6 with the vote of Caron 2021, on unit rows. `medmnist`: Doerrich 2025, the vote of scikit-learn's classifier
on raw features. `uni`: Chen 2024, on centred unit rows. `clip`: Radford 2021 A.3, raw features and C by halving; the
criterion is D5's inner AUC.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "dino": {"scaling": "none", "metric": "cosine", "vote": "softmax", "temperature": 0.07, "k": 20},
    "medmnist": {"scaling": "raw", "metric": "euclidean", "vote": "uniform", "k": 11},
    "uni": {"scaling": "center_l2", "metric": "cosine", "vote": "uniform", "k": 20},
    "clip": {"scaling": "raw", "search": "halving"},
}
# where it differs from the record's default
SCALING = {"ridge": "zscore", "knn": "none", "prototype": "center_l2", "zero-shot": "none"}
