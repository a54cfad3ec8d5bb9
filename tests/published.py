"""The first lines of public data sets' label files, as published, and what they mean."""

from __future__ import annotations

from indexer.user_tables.presets import PRESETS

PUBLISHED = {  # preset → keys, the file as published, a column and its values
    "chexpert": (
        [f"CheXpert-v1.0-small/train/patient0000{i}/study{j}/view1_frontal.jpg" for i in (1, 2) for j in (1, 2)],
        "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema\n"
        "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,\n"
        "CheXpert-v1.0/train/patient00001/study2/view1_frontal.jpg,Female,87,Frontal,AP,,-1.0\n"
        "CheXpert-v1.0/train/patient00002/study1/view1_frontal.jpg,Male,83,Frontal,AP,,1.0\n"
        "CheXpert-v1.0/train/patient00002/study2/view1_frontal.jpg,Male,83,Frontal,AP,,0.0\n",
        {
            "Edema": [None, None, 1, 0], "no_finding": [1, None, None, None],
            "patient": ["patient00001"] * 2 + ["patient00002"] * 2,
        },
    ),
    "mimic-cxr": (
        [
            "files/p10/p10000032/s50414267/a.jpg", "files/p10/p10000032/s50414267/b.jpg",
            "files/p11/p11000011/s51000000/c.jpg",
        ],
        "subject_id,study_id," + PRESETS["mimic-cxr"].options["columns"][0]
        + "\n10000032,50414267," + ",".join("1" * 14)
        + "\n11000011,51000000," + ",".join(["-1.0", "0.0", *[""] * 12]) + "\n",
        {
            "Cardiomegaly": [1, 1, 0], "enlarged_cardiomediastinum": [1, 1, None],
            "patient": ["10000032"] * 2 + ["11000011"],
        },
    ),
    "nih-cxr14": (
        ["images_001/images/00000001_000.png", "images_001/images/00000001_001.png"],
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
        "00000001_000.png,Cardiomegaly|Emphysema,0,1,58,M,PA,2682,2749,0.143,0.143,\n"
        "00000001_001.png,No Finding,1,1,58,M,PA,2682,2749,0.143,0.143,\n",
        {"Cardiomegaly": [1, 0], "no_finding": [0, 1], "patient": [1, 1], "sex": ["M", "M"]},
    ),
    "nih-cxr14-2020": (
        ["images/00000001_000.png"],
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
        "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143,\n",
        {"Cardiomegaly": [1], "patient": [1], "sex": ["M"], "view": ["PA"]},
    ),
    "isic": (
        ["ISIC_2019_Training_Input/ISIC_0000000.jpg", "ISIC_2019_Training_Input/ISIC_0000001.jpg"],
        "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n"
        "ISIC_0000000,0.0,1.0,0,0,0,0,0,0,0\nISIC_0000001,1.0,0,0,0,0,0,0,0,0\n",
        {"diagnosis": ["NV", "MEL"]},
    ),
    "isic-2018": (
        ["ISIC_0024306.jpg"], "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_0024306,0,0,0,1.0,0,0,0\n",
        {"diagnosis": ["AKIEC"]},
    ),
    "ham10000": (
        ["HAM10000_images_part_1/ISIC_0027419.jpg", "HAM10000_images_part_2/ISIC_0025030.jpg"],
        "lesion_id,image_id,dx,dx_type,age,sex,localization\nHAM_0000118,ISIC_0027419,bkl,histo,80.0,male,scalp\n"
        "HAM_0000118,ISIC_0025030,bkl,histo,80.0,male,scalp\n",
        {"diagnosis": ["bkl", "bkl"], "lesion": ["HAM_0000118"] * 2, "age": [80.0, 80.0]},
    ),
    "aptos": (["train_images/000c1434d8d7.png"], "id_code,diagnosis\n000c1434d8d7,2\n", {"grade": [2]}),
    "messidor": (
        ["20051020_43808_0100_PP.png", "IM004176.JPG"],
        "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\n"
        "20051020_43808_0100_PP.png,1,0,1\nIM004176.jpg,,,0\n",
        {"grade": [1, None], "gradable": [1, 0]},
    ),
    "cbis-ddsm": (
        [
            "Mass-Training_P_00001_LEFT_CC/1.3.6/1.3.7/000000.dcm",
            "Mass-Training_P_00001_LEFT_MLO/1.3.8/1.3.9/000000.dcm",
        ],
        "patient_id,breast_density,abnormality id,assessment,pathology,image file path\n"
        "P_00001,3,1,4,BENIGN,Mass-Training_P_00001_LEFT_CC/1.3.6/1.3.7/000000.dcm\n"
        "P_00001,3,2,5,MALIGNANT,Mass-Training_P_00001_LEFT_CC/1.3.6/1.3.7/000000.dcm\n"
        "P_00001,3,1,2,BENIGN_WITHOUT_CALLBACK,Mass-Training_P_00001_LEFT_MLO/1.3.8/1.3.9/000000.dcm\n",
        {"malignancy": [2, 0], "assessment": [5, 2], "patient": ["P_00001"] * 2},
    ),
    "vindr": (
        ["train/000434271f63a053c4128a0ba6352c7f.dicom"],
        "image_id,rad_id,Aortic enlargement,No finding\n" + "".join(
            f"000434271f63a053c4128a0ba6352c7f,R{i},{int(i > 1)},0\n" for i in range(1, 4)),
        {"aortic_enlargement": [1], "no_finding": [0]},
    ),
}  # fmt: skip
