"""D17: a result as one page, as text, and as reporting items."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tests.commands import call
from tests.probes.cohort import make_cohort
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
        "linear probe: ill", "Where the rows come from", "Leakage audit", "Results on rows that chose nothing",
        "Curves",
        "Confusion matrix", "Calibration", "Operating points", "Subgroups", "How C was chosen",
        "Limits", "Reporting items (CLAIM, TRIPOD+AI)",
    ]  # fmt: skip
    text = binary.text
    assert text.index("no patient is on two sides") < text.index("Where the rows come from")
    for words in ("images read", "decoded and embedded, 0 failed", "majority", "stratified random", "prevalence"):
        assert words in text
    assert "Not for clinical use." in text
    assert sum(tag == "svg" for tag, _ in binary.tags) == 6
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
    assert "positives of each label" in labels.text


def test_every_number_of_the_page_is_the_results(results):
    done = call("probes", "report", results / "binary", "--html", results / "again.html", "--json")
    assert done.json == {"report": str(results / "again.html")}
    assert (results / "again.html").read_text() == (results / "binary" / "report.html").read_text()
    import json

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
    from tests.probes.cohort import make_rows, rows_of

    vectors, metadata = rows_of(80)
    for row in metadata:
        row["finding"] = f"<script>alert('{row['finding']}')</script> & $x^2$ \N{GREEK SMALL LETTER ALPHA}"
    make_rows(tmp_path / "db", vectors, metadata)
    probe("linear", str(tmp_path / "db"), *FINDING, "--subgroup", "finding", "--out", tmp_path / "out")
    drawn = page(tmp_path / "out")
    assert not any(tag == "script" for tag, _ in drawn.tags)
    assert "<script>alert('mass')</script> & $x^2$" in drawn.text


def test_the_text_on_the_terminal_holds_the_same_numbers(results, tmp_path):
    import json

    result = json.loads((results / "binary" / "result.json").read_text())
    request = result["request"]
    done = call("probes", "linear", request["db"], *ILL, "--replicates", "100")
    for value in result["test"]["metrics"].values():
        assert f"{value['value']:.3f}  ({value['low']:.3f} to {value['high']:.3f}" in done.out
    assert done.out.rstrip().endswith("Research use only, not for clinical use.")


def test_a_card_fills_what_the_result_knows_and_says_not_provided_else(results):
    items = call("probes", "card", results / "binary", "--json").json
    named = {(i["checklist"], i["number"]): i["answer"] for i in items}
    assert named["CLAIM", "12"] == named["TRIPOD+AI", "17"] == "not provided"
    assert "patient-level split" in named["CLAIM", "21"]
    assert "100 bootstrap draws of whole groups" in named["CLAIM", "29"]
    assert "5 subgroups" in named["TRIPOD+AI", "14"]
    assert "near-duplicate audit" in named["CLAIM", "30"]
    text = call("probes", "card", results / "binary").out
    assert text.splitlines()[0].split("\t") == ["checklist", "number", "topic", "answer"]
    nested = {i["number"]: i["answer"] for i in call("probes", "card", results / "nested", "--json").json}
    assert "bootstrap" not in nested["29"]
    assert "NaN" not in " ".join(nested.values())
    assert "nan" not in " ".join(nested.values())
