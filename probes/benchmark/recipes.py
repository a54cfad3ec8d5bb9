"""Recipes of `probes benchmark`: which files of a public data set are indexed, labelled and probed, and how.

Files are named as published, below the folder that the user gives. Published figures stand beside ours only where the
source states the same test split; `how` says what was done there, and `read` whether the source itself was read. None
of those below was: the founding paper's own tables and those of MedMNIST could not be opened when this was written, and
a figure that no second place confirmed was left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ENCODERS = ("resnet50", "clip-vit-b32")  # of the founding paper (arXiv:2412.09445)


@dataclass(frozen=True)
class Published:
    """A figure from a publication: macro AUC on the data set's own test split."""

    how: str
    auc: float
    source: str
    read: str  # first-hand, or where the source is quoted


@dataclass(frozen=True)
class Recipe:
    """One experiment."""

    title: str
    modality: str
    files: tuple[str, ...]  # what must lie in the folder
    sources: tuple[str, ...]  # of these, what is indexed
    probe: tuple[str, ...]  # options of `probes linear`
    labels: tuple[tuple[str, ...], ...] = ()  # a file, and options of `indexer labels`
    published: tuple[Published, ...] = ()
    note: str = ""


_MEDMNIST = "Yang et al. 2023, Scientific Data 10:41, table 3"
_MEDMNIST_READ = "second-hand: as several public repositories quote the table"
_PLUS = "Doerrich et al. 2025, Scientific Reports 15 (MedMNIST+)"
_PLUS_READ = "second-hand: from notes on the paper"


def _medmnist(
    name: str,
    title: str,
    modality: str,
    trained: Mapping[str, float] | None = None,
    probe: float | None = None,
    label: tuple[str, ...] = ("label",),
    more: tuple[str, ...] = (),
) -> Recipe:
    """`trained`: AUC by network and pixels; `probe`: of a linear probe on CLIP ViT-B/16 at 224 px; `more` options."""
    options = ("--label", ",".join(label), *(("--multilabel",) if len(label) > 1 else ()), *more)
    published = [Published("CLIP ViT-B/16 at 224 px, linear probe", probe, _PLUS, _PLUS_READ)] if probe else []
    published += [
        Published(f"{how} px, trained from scratch", auc, _MEDMNIST, _MEDMNIST_READ)
        for how, auc in (trained or {}).items()
    ]
    return Recipe(
        f"MedMNIST: {title}", modality, (f"{name}.npz",), (f"{name}.npz",),
        (*options, "--group", "none", "--split", "split"), published=tuple(published),
        note="the data set names no patients: the split is its own",
    )  # fmt: skip


_FINDINGS_14 = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Effusion,Emphysema,Fibrosis,Hernia,Infiltration,Mass,Nodule,"
    "Pleural_Thickening,Pneumonia,Pneumothorax"
)
_COMPETITION = "Atelectasis,Cardiomegaly,Consolidation,Edema,pleural_effusion"  # Irvin et al. 2019, section 5

RECIPES: Mapping[str, Recipe] = {
    "aptos": Recipe(
        "APTOS 2019: grades of diabetic retinopathy", "retinal photographs",
        ("train_images/", "train.csv"), ("train_images",), ("--label", "grade", "--ordinal", "--group", "none"),
        (("train.csv", "--preset", "aptos"),), note="the file names no patients",
    ),
    "messidor": Recipe(
        "Messidor-2: grades of diabetic retinopathy", "retinal photographs",
        ("images/", "messidor_data.csv"), ("images",), ("--label", "grade", "--ordinal", "--group", "none"),
        (("messidor_data.csv", "--preset", "messidor"),), note="the file names no patients",
    ),
    "cbis-ddsm": Recipe(
        "CBIS-DDSM: the worst mass of a mammogram", "mammography",
        ("CBIS-DDSM/ (DICOM)", "mass_case_description_train_set.csv", "mass_case_description_test_set.csv"),
        ("CBIS-DDSM",), ("--label", "malignancy", "--ordinal", "--group", "patient"),
        (
            ("mass_case_description_train_set.csv", "--preset", "cbis-ddsm"),
            ("mass_case_description_test_set.csv", "--preset", "cbis-ddsm"),
        ),
        note="cropped images and masks have no label and are left out",
    ),
    "ham10000": Recipe(
        "HAM10000: seven kinds of skin lesion", "dermatoscopy",
        ("HAM10000_images_part_1/", "HAM10000_images_part_2/", "HAM10000_metadata.csv"),
        ("HAM10000_images_part_1", "HAM10000_images_part_2"), ("--label", "diagnosis", "--group", "lesion"),
        (("HAM10000_metadata.csv", "--preset", "ham10000"),),
        note="split by lesion: images of one lesion are never on both sides",
    ),
    "nih-cxr14": Recipe(
        "NIH ChestX-ray14: fourteen findings", "chest radiographs",
        ("images/ (images_001 … unpacked into one folder)", "Data_Entry_2017.csv"), ("images",),
        ("--label", _FINDINGS_14, "--multilabel", "--group", "patient"),
        (("Data_Entry_2017.csv", "--preset", "nih-cxr14"),),
    ),
    "chexpert": Recipe(
        "CheXpert: the five findings of its competition", "chest radiographs",
        ("train/", "train.csv"), ("train",), ("--label", _COMPETITION, "--multilabel", "--group", "patient"),
        (("train.csv", "--preset", "chexpert"),), note="uncertain labels are left out (U-Ignore)",
    ),
    "pathmnist": _medmnist(
        "pathmnist", "nine tissues", "histology",
        {"ResNet-18 at 28": 0.983, "ResNet-18 at 224": 0.989, "ResNet-50 at 28": 0.990, "ResNet-50 at 224": 0.989},
    ),
    "chestmnist": _medmnist(
        "chestmnist", "fourteen findings", "chest radiographs",
        {"ResNet-18 at 28": 0.768, "ResNet-18 at 224": 0.773, "ResNet-50 at 224": 0.773}, 0.763,
        tuple(f"label_{i}" for i in range(14)),
    ),
    "pneumoniamnist": _medmnist(
        "pneumoniamnist", "pneumonia or not", "chest radiographs",
        {"ResNet-18 at 28": 0.944, "ResNet-18 at 224": 0.956, "ResNet-50 at 28": 0.948, "ResNet-50 at 224": 0.962},
        0.972,
    ),
    "breastmnist": _medmnist(
        "breastmnist", "malignant or not", "breast ultrasound", {"ResNet-18 at 28": 0.901}, 0.865
    ),
    "dermamnist": _medmnist(
        "dermamnist", "seven kinds of skin lesion", "dermatoscopy", {"ResNet-18 at 28": 0.917}, 0.959
    ),
    "retinamnist": _medmnist(
        "retinamnist", "grades of diabetic retinopathy", "retinal photographs",
        {"ResNet-18 at 28": 0.717, "ResNet-18 at 224": 0.710, "ResNet-50 at 28": 0.726, "ResNet-50 at 224": 0.716},
        0.854, more=("--ordinal",),
    ),
    "octmnist": _medmnist("octmnist", "four diagnoses", "retinal OCT"),
    "bloodmnist": _medmnist("bloodmnist", "eight kinds of cell", "blood microscopy"),
    "tissuemnist": _medmnist("tissuemnist", "eight kinds of cell", "kidney microscopy"),
    "organamnist": _medmnist("organamnist", "eleven organs, axial", "abdominal CT"),
    "organcmnist": _medmnist("organcmnist", "eleven organs, coronal", "abdominal CT"),
    "organsmnist": _medmnist("organsmnist", "eleven organs, sagittal", "abdominal CT"),
}  # fmt: skip
