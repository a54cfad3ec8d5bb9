"""How the label files of public data sets are read: each preset is a short list of options of `indexer labels`.

A preset decides nothing that its options do not say, and the command prints them; options typed beside it go before.
Column names are those of the files as published, in the version that `file` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preset:
    """The options for one file of one data set."""

    file: str  # the file to give
    source: str  # who describes it
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # option → its values, one for each time
    note: str = ""  # what the user should know


_CHEXPERT = (
    "Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,"
    "Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices,No Finding"
)
_ISIC_2019 = "MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
_ISIC_2018 = "MEL,NV,BCC,AKIEC,BKL,DF,VASC"

_WANG = "Wang et al. 2017, arXiv:1705.02315"


def _nih(sex: str) -> Mapping[str, tuple[str, ...]]:
    """Options for the NIH's list of findings, whose version of 2020 renamed the column of the sex."""
    columns = f"Finding Labels,Patient ID=patient,Patient Age=age,{sex}=sex,View Position=view"
    return {"on": ("Image Index=key",), "split-values": ("Finding Labels=|",), "columns": (columns,)}


PRESETS: Mapping[str, Preset] = {
    "chexpert": Preset(
        "train.csv or valid.csv",
        "Irvin et al. 2019, arXiv:1901.07031; uncertain labels left out (U-Ignore)",
        {
            "from-key": (r"(?P<view>(?P<patient>patient\d+)/study\d+/[^/]+)$",), "on": ("Path=view",),
            "rewrite": ("^.*(?=patient)", ""), "uncertain": ("-1=missing",),
        },
        "blank (not mentioned) stays missing; --uncertain -1=1 gives U-Ones, -1=0 U-Zeros",
    ),
    "mimic-cxr": Preset(
        "mimic-cxr-2.0.0-chexpert.csv.gz",
        "Johnson et al. 2019, Scientific Data 6:317; uncertain labels left out",
        {
            "from-key": (r"p(?P<patient>\d{8})/s(?P<study>\d{8})/",), "on": ("study_id=study",),
            "columns": (_CHEXPERT,), "uncertain": ("-1=missing",),
        },
        "one line a study, joined to each image of it; the split file joins with --on dicom_id=key --columns split",
    ),
    "nih-cxr14": Preset(
        "Data_Entry_2017.csv", _WANG, _nih("Patient Gender"),
        "Data_Entry_2017_v2020.csv names a column otherwise: --preset nih-cxr14-2020",
    ),
    "nih-cxr14-2020": Preset("Data_Entry_2017_v2020.csv", _WANG, _nih("Patient Sex")),
    "isic": Preset(
        "ISIC_2019_Training_GroundTruth.csv",
        "ISIC 2019 challenge; Combalia et al. 2019, arXiv:1908.02288",
        {"on": ("image=key",), "one-hot": (f"{_ISIC_2019}=diagnosis",)},
    ),
    "isic-2018": Preset(
        "ISIC2018_Task3_Training_GroundTruth.csv",
        "Codella et al. 2019, arXiv:1902.03368",
        {"on": ("image=key",), "one-hot": (f"{_ISIC_2018}=diagnosis",)},
    ),
    "ham10000": Preset(
        "HAM10000_metadata.csv (HAM10000_metadata from Dataverse)",
        "Tschandl et al. 2018, Scientific Data 5:180161",
        {"on": ("image_id=key",), "columns": ("dx=diagnosis,lesion_id=lesion,dx_type,age,sex,localization",)},
        "several images show one lesion: give the probes --group lesion",
    ),
    "aptos": Preset(
        "train.csv", "APTOS 2019 Blindness Detection (Kaggle)",
        {"on": ("id_code=key",), "columns": ("diagnosis=grade",)}, "grades 0 to 4: give the probes --ordinal",
    ),
    "messidor": Preset(
        "messidor_data.csv",
        "Messidor-2, graded by Krause et al. 2018, Ophthalmology 125:1264",
        {
            "on": ("image_id=key",),
            "columns": ("adjudicated_dr_grade=grade,adjudicated_dme=dme,adjudicated_gradable=gradable",),
        },
        "ungradable images have no grade",
    ),
    "cbis-ddsm": Preset(
        "mass_case_description_train_set.csv, or calc_ and test_",
        "Lee et al. 2017, Scientific Data 4:170177",
        {
            "on": ("image file path=key",), "columns": ("pathology=malignancy,patient_id=patient,assessment",),
            "grades": ("malignancy=BENIGN_WITHOUT_CALLBACK<BENIGN<MALIGNANT",), "repeated": ("max",),
        },
        "several findings of one image: the worst counts, in grades 0, 1, 2",
    ),
    "vindr": Preset(
        "image_labels_train.csv (VinDr-CXR)",
        "Nguyen et al. 2022, Scientific Data 9:429",
        {"on": ("image_id=key",), "without": ("rad_id",), "repeated": ("majority",)},
        "three readers an image: what most of them say",
    ),
    "medmnist": Preset(
        "", "Yang et al. 2023, Scientific Data 10:41", {},
        "the labels are in the .npz: `indexer index pathmnist.npz DB` makes the columns split and label (label_0, … "
        "where there are several), and the probes take --split split",
    ),
}  # fmt: skip
