"""The faults that were found by using the product: id → what was seen. A test that shows one is marked with its id:
`@pytest.mark.case("P1")`, or has it in its name: `test_case_p1_…`. `python -m pytest tests -k cases` runs all of them,
`-k case_P1_` those of one.
"""

from __future__ import annotations

import re

PIXELS = {
    "P1": "VOI and modality LUTs: sign of the first value mapped, unsigned data whatever the VR, two entries a word",
    "P2": "TIFF under LZW, PackBits, zstd loses byte order, polarity, sign, depth, palette, alpha, predictor; copies",
    "P3": "colour models that the codestream decides: YBR_PARTIAL, YBR_ICT, YBR_RCT, JPEG 2000's transformation",
    "P4": "HighBit, padding, numbers of another VR or with a comma: the image is wrong or wholly refused",
    "P5": "'corrupt' for what is unsupported; gzip of several members; 16-bit grey and alpha near black",
}
ARCHIVES = {
    "R1": "two samples of one key in a row: the first gets the metadata of the second",
    "R2": "links in a tar are dropped in silence",
    "R3": "links, pipes, hidden files and scanners' file names in a folder are passed over without a word",
    "R4": "a DICOMweb server that caps its pages or ignores the offset",
    "R5": "x.nii.gz and x.json are never joined",
    "R6": "a sparse member is embedded right and read back wrong; content is not compared",
    "R7": "files of one key beside the image (masks, second cameras): metadata lost, masks become rows",
    "R8": "damaged JSON beside a good image: index refuses, pack takes",
    "R9": "NaN and Infinity in JSON that is printed or stored",
}
IN_USE = {
    "U1": "lines of the README that do not run as printed",
    "U2": "an archive that moved is embedded again, and its pictures are grey boxes",
    "U3": "results are overwritten in place, or left in part on a full disk",
    "U4": "a target that cannot be written is a traceback",
    "U5": "a DICOM tree indexed unpacked gets no modality, patient or series",
    "U6": "a mistyped secret makes a new one: one patient has two hashes",
    "U7": "--exclude-same patient for a new exam of a known patient; one cine fills the page",
    "U8": "one large shard: no progress, and nothing kept of a stopped run",
    "U9": "rows of deleted files stay in silence; no way to delete rows",
    "U10": "reports whose legends, columns and folded parts are cut",
    "U11": "numbers that mislead: intervals without width or without their estimate",
    "U12": "the search page differs by terminal and leaves out filter and exclusion",
    "U13": "near-duplicates lists nothing and writes Parquet under the name of CSV",
    "U14": "optimize drops the version that a result names; the card names no edition",
    "U15": "a key with a typing error gets no suggestion; failures name hashes",
}
TABLES = {
    "T1": "a label column by one of Lance's own names makes the table unreadable",
    "T2": "--changed replace drops the labels of the rows it keeps",
    "T3": "rows rounded to float16 are taken for unit rows",
    "T4": "a double-quoted name in --where is read as text",
    "T5": "NaN in Parquet labels is a number",
    "T6": "whole numbers of 19 and more digits become float64",
    "T7": "filters against the query lose recall, and the printed recall does not say so",
    "T8": "a huge k takes all memory; pages repeat rows",
    "T9": "thousands of copies of one image: near-duplicates refuses",
    "T10": "--exclude-same on dates, decimals and NaN",
    "T11": "labels join the wrong row, or none, where a number or a word is written in another way",
    "T12": "Infinity in JSON, vectors without direction, line breaks in keys",
}
PROBES = {
    "N1": "duplicated and blank rows end a linear probe in a traceback",
    "N2": "the operating point is not that of the model tested; penalties chosen by a hair of AUC",
    "N3": "one group of a class in train is called one class only",
    "N4": "intervals without their estimate or without width; a thousand classes do not converge",
    "N5": "the vector cache is taken for another table's",
}
SECURITY = {
    "X1": "a stored address runs a command, is fetched, or shows a local image",
    "X2": "modules in the current folder are run",
    "X3": "a model's configuration runs code or asks the network",
    "X4": "packed headers, fields and files that tell more than is said",
    "X5": "links and redirects that lead elsewhere are followed",
    "X6": "one bad input blocks a run for ever",
    "X7": "small files that take all memory or never end",
    "X8": "names that steer pages, terminals and lists",
    "X9": "passwords in addresses are stored",
    "X10": "a reader's descriptor blocks writers, and the message names a dead process",
}
NEW_DATA = {
    "M1": "search and near-duplicates do not rank by cosine",
    "M2": "the positive class is chosen by the alphabet",
    "M3": "the sweep of penalties compares copies of one fit",
    "M4": "intervals of few groups miss on one side",
    "M5": "a label column given for a part of the files adds folder names as classes",
    "M6": "DICOM indexed unpacked has no patient; ids that split one patient",
    "M7": "two definitions under one name, p values of zero, advice of another machine",
    "M8": "the usual layouts of public data sets are not joined",
}
STORES = {
    "O1": "two writers of one table in an object store double its rows",
    "O2": "a store that ignores conditional puts loses rows without an error",
    "O3": "packing into an object store writes a local folder of that name",
    "O4": "presigned and compressed addresses; whole shards fetched for a picture; an unreachable database",
}
CASES = PIXELS | ARCHIVES | IN_USE | TABLES | PROBES | SECURITY | NEW_DATA | STORES
OTHERS = re.compile(r"[SD]\d+")  # of sections that are not listed here: structure, doors
