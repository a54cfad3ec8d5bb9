"""D17: a result as one page, as text, and as reporting items."""

from __future__ import annotations

import html
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import probes
from probes.evaluation.bootstrap import Interval
from probes.reporting.definitions import definitions
from probes.reporting.words import NAMES, p_value, rate, with_interval
from probes.runs.result_files import read_result
from tests.commands import call
from tests.probes.cohort import make_cohort, make_rows, rows_of
from tests.probes.test_results import FINDING
from tests.probes.test_rows import ILL, probe


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Folders of a binary result with everything, a nested one, a multi-label and an image-level one."""
    folder = tmp_path_factory.mktemp("results")
    db = make_cohort(folder / "db", patients=240)
    more = ("--subgroup", "sex,site", "--prevalence", ".1", "--shuffle-control")
    probe("linear", db, *ILL, *more, "--out", folder / "binary")
    probe("linear", db, *ILL, "--few-shot", "--penalty", ".1", "--out", folder / "few")
    probe("linear", db, *FINDING, "--split", "nested", "--out", folder / "nested")
    probe("linear", db, "--label", "a,b,c", "--multilabel", "--group", "patient", "--out", folder / "labels")
    probe("knn", db, "--label", "finding", "--group", "none", "--where", "site = 'A'", "--out", folder / "images")
    return folder


class Page(HTMLParser):
    """Text, headings and open tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.words, self.headings, self.open, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "path", "use", "rect", "stop", "image", "line", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_a_page_loads_nothing_from_anywhere(results):
    for name in ("binary", "nested", "labels", "images"):
        for tag, attributes in page(results / name).tags:
            assert tag not in ("script", "link", "iframe", "img"), (name, tag)
            for key in ("src", "href", "xlink:href"):
                assert attributes.get(key, "#").startswith(("#", "data:image/png")), (name, tag, attributes)
        assert "url(http" not in (results / name / "report.html").read_text()


def test_what_qualifies_the_numbers_comes_before_them(results):
    binary = page(results / "binary")
    assert binary.headings == [
        "linear probe: ill", "In short", "Where the rows come from", "Leakage audit",
        "Results on rows that chose nothing",
        "Curves",
        "Confusion matrix", "Calibration", "Operating points", "Subgroups", "How C was chosen",
        "Limits", "Reporting items", "Definitions",
    ]  # fmt: skip
    text = binary.text
    assert text.index("no patient is on two sides") < text.index("Where the rows come from")
    for words in ("images read", "decoded and embedded, 0 failed", "majority", "stratified random", "prevalence"):
        assert words in text
    assert "Not for clinical use." in text
    plots = sum(tag == "svg" for tag, _ in binary.tags)
    bars = len([s for s in read_result(results / "binary").subgroups if s.auc])
    assert plots == 4 + bars  # ROC, precision and recall, reliability, the choice; each subgroup's interval
    assert "Label efficiency" in page(results / "few").headings


def test_an_image_level_page_begins_with_its_warning(results):
    body = (results / "images" / "report.html").read_text().split("<main>")[1]
    assert body.startswith("<p class='warning'>image-level split: results may be inflated</p>")
    assert "matched by --where" in page(results / "images").text


def test_nested_pages_show_mean_and_sd_and_no_interval(results):
    text = page(results / "nested").text
    assert "mean ± SD of the folds" in text
    assert "95 % interval" not in text
    assert "Outer folds" in text


def test_a_multilabel_page_has_no_confusion_matrix_and_no_agreement(results):
    labels = page(results / "labels")
    assert "Confusion matrix" not in labels.headings
    assert "same label" not in labels.text
    assert "positive rows of each label" in labels.text


def test_every_number_of_the_page_is_the_results(results):
    done = call("probes", "report", results / "binary", "--html", results / "again.html", "--json")
    assert done.json == {"report": str(results / "again.html")}
    assert (results / "again.html").read_text() == (results / "binary" / "report.html").read_text()
    result = json.loads((results / "binary" / "result.json").read_text())
    text = re.sub(r"\s+", " ", page(results / "binary").text)
    for value in result["test"]["metrics"].values():
        assert f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f}" in text
    for row in result["subgroups"]:
        assert f"{row['column']} = {row['value']}" in text
        if row["auc"] is None:
            assert "n too small" in text
    rates = result["operating"][0]["rates"]
    assert all(f"{rates[name]['value']:.3f}" in text for name in ("sensitivity", "specificity", "ppv", "npv"))


@pytest.mark.case("X8")
def test_names_from_the_data_cannot_break_the_page(tmp_path):
    vectors, metadata = rows_of(80)
    for row in metadata:
        row["finding"] = f"<script>alert('{row['finding']}')</script> & $x^2$ \N{GREEK SMALL LETTER ALPHA}"
    make_rows(tmp_path / "db", vectors, metadata)
    probe("linear", str(tmp_path / "db"), *FINDING, "--subgroup", "finding", "--out", tmp_path / "out")
    drawn = page(tmp_path / "out")
    assert not any(tag == "script" for tag, _ in drawn.tags)
    assert "<script>alert('mass')</script> & $x^2$" in drawn.text


def test_the_text_on_the_terminal_holds_the_same_numbers(results, tmp_path):
    result = json.loads((results / "binary" / "result.json").read_text())
    request = result["request"]
    done = call("probes", "linear", request["db"], *ILL, "--replicates", "100")
    for value in result["test"]["metrics"].values():
        assert f"{value['value']:.3f}  ({value['low']:.3f} to {value['high']:.3f}" in done.out
    assert done.out.rstrip().endswith("Research use only, not for clinical use.")


@pytest.mark.case("U14")
def test_a_card_lists_every_item_and_says_who_answers_it(results, tmp_path):
    items = call("probes", "card", results / "binary", "--html", tmp_path / "card.html", "--json").json
    named = {(i["checklist"], i["number"]): i for i in items}
    assert [i["number"] for i in items if i["checklist"] == "CLAIM 2024"] == [str(n) for n in range(1, 45)]
    assert sum(i["checklist"] == "TRIPOD+AI 2024" for i in items) == 52
    assert {i["answered_by"] for i in items} == {"this result", "this result and the authors", "the authors"}
    for of in (("CLAIM 2024", "11"), ("CLAIM 2024", "44"), ("TRIPOD+AI 2024", "17")):
        assert (named[of]["answered_by"], named[of]["answer"]) == ("the authors", "to be answered by the authors")
    answer = {key: item["answer"] for key, item in named.items()}
    assert "patient-level split" in answer["CLAIM 2024", "20"]
    assert "100 bootstrap draws of whole groups" in answer["CLAIM 2024", "29"]
    assert "near-duplicate audit" in answer["CLAIM 2024", "30"]
    assert "1: sensitivity 0." in answer["CLAIM 2024", "38"]
    assert "5 subgroups" in answer["TRIPOD+AI 2024", "14"]
    without = {(i["checklist"], i["number"]): i["answer"] for i in card(results / "few")}
    assert "--subgroup" in without["CLAIM 2024", "36"]
    lines = call("probes", "card", results / "binary").out.splitlines()
    assert lines[0].split("\t") == ["checklist", "number", "topic", "answered_by", "answer"]
    drawn = Page((tmp_path / "card.html").read_text(encoding="utf-8")).text
    assert all(text in drawn for text in answer.values())
    for folder in ("nested", "labels", "images"):
        answers = " ".join(item["answer"] for item in card(results / folder))
        assert "NaN" not in answers
        assert "nan" not in answers
    nested = {(i["checklist"], i["number"]): i["answer"] for i in card(results / "nested")}
    assert "bootstrap" not in " ".join(nested.values())
    assert "scores of single rows are not kept" in nested["CLAIM 2024", "39"]  # a nested result writes no predictions
    assert "no single model" in nested["CLAIM 2024", "43"]
    assert {p.name for p in (results / "nested").iterdir()} == {"report.html", "result.json"}


def test_a_model_card_says_what_is_known_and_names_what_people_must_answer(results, tmp_path):
    for folder in ("binary", "nested", "labels"):
        call("probes", "card", results / folder, "--html", tmp_path / "card.html")
        drawn, result = Page((tmp_path / "card.html").read_text(encoding="utf-8")), read(results / folder)
        for heading in ("Model", "Intended use", "Data", "Performance", "Limits and warnings", "For people to answer"):
            assert heading in drawn.headings
        text = re.sub(r"\s+", " ", drawn.text)
        for value in result["test"]["metrics"].values():
            assert f"{value['value']:.3f}" in text
        for words in (result["source"]["fingerprint"], *result["warnings"], "13 image acquisition protocol"):
            assert re.sub(r"\s+", " ", words) in text
        assert "nan" not in text.lower().replace("finance", "")
        terms = {attributes["href"][1:] for tag, attributes in drawn.tags if attributes.get("class") == "term"}
        assert terms == {attributes.get("id") for tag, attributes in drawn.tags if tag == "dt"} - {None}


def read(folder):
    return json.loads((folder / "result.json").read_text())


def test_every_interval_is_quoted_with_what_simulations_say_of_it(results):
    """Of the test rows here there are fewer than 20 groups or more; both are said."""
    for folder in ("binary", "images"):
        result, text = read(results / folder), re.sub(r"\s+", " ", page(results / folder).text)
        area = result["test"]["metrics"]["auc_macro"]
        assert result["test"]["groups"] >= 20
        assert f"{area['low']:.3f} to {area['high']:.3f}) {area['held']:.0f} %" in text
        assert result["test"]["classes"][0]["ap"]["held"] > 80
        assert result["operating"][0]["rates"]["sensitivity"]["held"] > 80


def card(folder):
    return call("probes", "card", folder, "--json").json


def test_every_term_of_a_page_leads_to_its_one_definition_quoted_from_the_protocols(results):
    protocols = (Path(probes.__file__).parent / "protocols.md").read_text(encoding="utf-8")
    protocols = re.sub(r"\s+", " ", protocols)
    for name in ("binary", "nested", "labels", "images", "few"):
        drawn = page(results / name)
        terms = {attributes["href"][1:] for tag, attributes in drawn.tags if attributes.get("class") == "term"}
        defined = {attributes.get("id") for tag, attributes in drawn.tags if tag == "dt"} - {None}
        assert terms == defined
        assert len(terms) >= 12
        entries = re.findall(r"<dt id='def-(\w+)'>.*?</dt><dd>(.*?)</dd>", (results / name / "report.html").read_text())
        for key, sentence in entries:
            assert f"`{key}`: {html.unescape(sentence)}" in protocols
    assert set(definitions()) == set(NAMES)


def test_every_link_within_a_page_leads_somewhere_and_no_name_is_given_twice(results):
    for name in ("binary", "nested", "labels", "images", "few"):
        drawn = page(results / name)
        ids = [attributes["id"] for _, attributes in drawn.tags if "id" in attributes]
        shared = {i for i in ids if ids.count(i) > 1}  # marks and clips that several drawings define alike
        assert not {i for i in shared if not re.fullmatch(r"[Cmp][0-9a-f_]+", i)}
        links = [attributes[key] for _, attributes in drawn.tags for key in ("href", "xlink:href") if key in attributes]
        links += [f"#{found}" for found in re.findall(r"url\(#([^)]+)\)", (results / name / "report.html").read_text())]
        assert {link for link in links if link[1:] not in ids} == set()
        assert len(links) > 20


@pytest.mark.case("U11", "M7")
def test_undefined_numbers_are_words_with_their_reason():
    perfect = {name: Interval(value, value, value) for name, value in (("sensitivity", 0.5), ("specificity", 1.0))}
    nan = Interval(math.nan, math.nan, math.nan)
    rates = {**perfect, "ppv": Interval(1, 1, 1), "npv": Interval(0.9, 0.8, 1), "lr_positive": nan, "lr_negative": nan}
    assert rate("lr_positive", rates, with_interval) == "not defined (no false positives)"
    assert rate("specificity", rates, with_interval) == "1.000  (1.000 to 1.000)"
    assert rate("lr_negative", {**rates, "sensitivity": nan}, with_interval) == "not defined (no positive rows)"
    assert rate("ppv", {**rates, "ppv": nan}, with_interval) == "not defined (no row called positive)"
    assert rate("ppv", dict.fromkeys(rates, nan), with_interval).startswith("not defined (too few rows")
    assert [p_value(p) for p in (0.0, 9.9e-5, 1e-4, 0.03125, 1.0, math.nan)] == [
        "< 0.0001", "< 0.0001", "0.0001", "0.0312", "1.0000", "not defined",
    ]  # fmt: skip


@pytest.mark.case("M7")
def test_a_gap_has_its_interval_and_labels_have_losses_of_their_own(results):
    found = read_result(results / "binary")
    text = re.sub(r"\s+", " ", page(results / "binary").text)
    assert found.gaps
    for gap in found.gaps:
        assert f"{gap.gap:.3f} ({gap.difference.low:z.3f} to {gap.difference.high:z.3f})" in text
    labels = page(results / "labels").text
    for words in ("log-loss, mean of labels", "log-loss, labels pooled", "Brier score, mean of labels (0 to 1)"):
        assert words in labels
    for name in ("binary", "nested", "labels", "images", "few"):
        assert "NaN" not in page(results / name).text


@pytest.mark.case("M7")
def test_scores_by_patient_say_how_many_patients_are_left_out(results, tmp_path):
    vectors, metadata = rows_of(120)
    for number, row in enumerate(metadata):
        row["room"] = f"room {number // 3 % 40}"  # of three patients, who differ in their findings
    make_rows(tmp_path / "db", vectors, metadata)
    more = ("--label", "finding", "--group", "room", "--out", tmp_path / "out")
    done = call("probes", "linear", tmp_path / "db", *more, "--replicates", "50")
    found = read_result(tmp_path / "out")
    assert found.patients.rows < found.test.groups
    words = f"by room, n = {found.patients.rows} of {found.test.groups}"
    assert words in done.out
    assert words in page(tmp_path / "out").text
    left = f"{found.test.groups - found.patients.rows} groups left out: their rows are of several classes"
    assert left in done.out
    assert left in page(tmp_path / "out").text
