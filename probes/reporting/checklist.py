"""The items of CLAIM (2024) and TRIPOD+AI (2024), each with the result's answer or named as the authors' to answer.

CLAIM: Tejani et al. 2024, Radiology: Artificial Intelligence 6(4) e240300 (44 items; the update of the 2020 edition).
TRIPOD+AI: Collins et al. 2024, BMJ 385 e078378 (27 items in 52 parts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from probes.reporting.answers import answers
from probes.reporting.page import html_table
from probes.runs.result import ProbeResult

CLAIM, TRIPOD = "CLAIM 2024", "TRIPOD+AI 2024"
RESULT, BOTH, AUTHORS = "this result", "this result and the authors", "the authors"
TO_ANSWER = "to be answered by the authors"
TOPICS = {
    CLAIM: {
        "1": "identification as a study of AI methodology", "2": "summary of design, methods, results, conclusions",
        "3": "background and intended use", "4": "study aims, objectives and hypotheses",
        "5": "prospective or retrospective study", "6": "study goal", "7": "data sources",
        "8": "inclusion and exclusion criteria", "9": "data pre-processing", "10": "selection of data subsets",
        "11": "de-identification methods", "12": "how missing data were handled", "13": "image acquisition protocol",
        "14": "how the reference standard was obtained", "15": "rationale for the reference standard",
        "16": "source of the reference standard's annotations", "17": "annotation of the test set",
        "18": "inter- and intra-rater variability", "19": "how data were assigned to partitions",
        "20": "level at which partitions are disjoint", "21": "intended sample size",
        "22": "detailed description of the model", "23": "software libraries, frameworks and packages",
        "24": "initialisation of model parameters", "25": "details of the training approach",
        "26": "method of selecting the final model", "27": "ensembling techniques",
        "28": "metrics of model performance", "29": "measures of significance and uncertainty",
        "30": "robustness or sensitivity analysis", "31": "explainability or interpretability",
        "32": "evaluation on internal data", "33": "testing on external data", "34": "clinical trial registration",
        "35": "numbers of patients or examinations included and excluded",
        "36": "demographic and clinical characteristics of each partition",
        "37": "performance metrics and their statistical uncertainty",
        "38": "estimates of diagnostic performance and their precision", "39": "failure analysis of incorrect results",
        "40": "study limitations", "41": "implications for practice, intended use, clinical role",
        "42": "reference to the full protocol or technical details",
        "43": "availability of software, trained model and data", "44": "funding and the role of funders",
    },
    TRIPOD: {
        "1": "title", "2": "abstract", "3a": "healthcare context and rationale", "3b": "population and intended use",
        "3c": "known health inequalities", "4": "objectives", "5a": "sources of data", "5b": "dates of the data",
        "6a": "study setting", "6b": "eligibility criteria", "6c": "treatments received", "7": "data preparation",
        "8a": "outcome definition", "8b": "qualification of those who assessed the outcome",
        "8c": "blinding of the outcome's assessment", "9a": "choice of predictors", "9b": "definition of predictors",
        "9c": "qualification of those who assessed predictors", "10": "sample size", "11": "missing data",
        "12a": "how data were used for development and evaluation", "12b": "how predictors were handled",
        "12c": "type of model, building steps, internal validation", "12d": "heterogeneity between clusters",
        "12e": "performance measures", "12f": "model updating", "12g": "how predictions were calculated",
        "13": "class imbalance", "14": "fairness", "15": "model output", "16": "training versus evaluation",
        "17": "ethical approval", "18a": "funding", "18b": "conflicts of interest", "18c": "protocol",
        "18d": "registration", "18e": "data sharing", "18f": "code sharing", "19": "patient and public involvement",
        "20a": "flow of participants", "20b": "characteristics of participants",
        "20c": "comparison of development and evaluation data", "21": "numbers in each analysis",
        "22": "full model specification", "23a": "performance with intervals",
        "23b": "heterogeneity of performance", "24": "results of model updating", "25": "interpretation",
        "26": "limitations", "27a": "handling of poor-quality input", "27b": "interaction with users",
        "27c": "next steps and generalisability",
    },
}  # fmt: skip
# Items of which the result knows a part only: the archive behind the table, its people, the policy of sharing
ALSO_AUTHORS = {
    "C7", "C10", "C30", "C31", "C33", "C35", "C36", "C39", "C40", "C42", "C43",
    "T5a", "T12d", "T14", "T18f", "T20a", "T20b", "T20c", "T26", "T27a",
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One reporting item."""

    checklist: str  # CLAIM | TRIPOD
    number: str
    topic: str
    answered_by: str  # RESULT | BOTH | AUTHORS
    answer: str


def items(result: ProbeResult) -> list[Item]:
    """Every item of both lists, with the result's answer where it has one."""
    known = answers(result)
    out = []
    for checklist, topics in TOPICS.items():
        for number, topic in topics.items():
            key = checklist[0] + number
            by = AUTHORS if key not in known else BOTH if key in ALSO_AUTHORS else RESULT
            out.append(Item(checklist, number, topic, by, known.get(key, TO_ANSWER)))
    return out


def items_html(result: ProbeResult, *, folded: bool = True) -> str:
    """One table for each checklist, in a report folded (and open in print)."""
    listed, out = items(result), []
    for checklist in TOPICS:
        own = [item for item in listed if item.checklist == checklist]
        summary = _summary(checklist, own)
        table = html_table(_rows(own), "words items")
        out.append(
            f"<details><summary>{summary}</summary>{table}</details>" if folded else f"<h2>{summary}</h2>{table}"
        )
    return "".join(out)


def _summary(checklist: str, own: Sequence[Item]) -> str:
    authors = sum(item.answered_by == AUTHORS for item in own)
    return f"{checklist}: {len(own)} items, {len(own) - authors} with an answer here, {authors} for the authors"


def _rows(own: Sequence[Item]) -> list[list[str]]:
    rows = [["item", "topic", "answered by", "answer"]]
    for item in own:
        shown = f"<span class='dim'>{item.answer}</span>" if item.answered_by == AUTHORS else escape(item.answer)
        rows.append([item.number, escape(item.topic), item.answered_by, shown])
    return rows
