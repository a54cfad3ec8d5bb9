"""`indexer search` and `indexer build-ann` as a user types them; the encoder is a stand-in, all else is real."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import indexer.encoders
from indexer.archive.shards import find_shards
from indexer.pipeline.run import index
from indexer.search.drawing.pages import html_page
from indexer.search.drawing.sheet import contact_sheet, drawable, fitted, sheet_font, wrapped
from indexer.search.options import SearchOptions
from indexer.search.results import QueryHits, SearchResult
from indexer.store.table import EmbeddingStore
from indexer.types import Hit
from tests.archives import archive, picture, png, write_tar
from tests.commands import call
from tests.fakes import FakeEncoder


class TwoTowers(FakeEncoder):
    """Text "7" means the picture of seed 7."""

    text = True

    def embed_text(self, texts):
        side = self.spec.pixels.size
        return self.embed(np.stack([picture(int(t), side) for t in texts]))


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    root = tmp_path_factory.mktemp("search")
    folder = archive(root, shards=2, images=20)
    store = EmbeddingStore.create(str(root / "db"), "t", TwoTowers().spec)
    index(find_shards([str(folder)]).shards, store, TwoTowers())
    return root / "db"


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(indexer.encoders, "load_spec", lambda _spec, **_options: TwoTowers())


def image_file(folder, seed):
    path = folder / f"query{seed}.png"
    path.write_bytes(png(seed))
    return path


def sheet_size(path):
    with Image.open(path) as sheet:
        return sheet.size


def test_several_image_files_answer_in_the_order_given(db, tmp_path):
    done = call("indexer", "search", db, image_file(tmp_path, 31), image_file(tmp_path, 4), "-k", 3, "--json")
    assert done.code == 0, done.err
    assert [q["query"][-11:] for q in done.json["queries"]] == ["query31.png", "/query4.png"]
    assert [q["hits"][0]["key"] for q in done.json["queries"]] == ["im31", "im4"]
    hit = done.json["queries"][1]["hits"][0]
    assert hit["score"] == pytest.approx(1, abs=1e-3)
    assert hit["columns"] == {"n": 4, "patient": "p1", "sex": "F"}
    assert [len(q["hits"]) for q in done.json["queries"]] == [3, 3]


LOADED = """
import sys
from indexer.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
import pyarrow
print(pyarrow.default_memory_pool().backend_name, *({"pandas", "torch", "lancedb"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("words", "own_heaps"), [(("search", "--key", "im1"), False), (("health",), False), (("failures",), True)]
)
def test_a_command_loads_what_it_needs_and_one_that_decodes_no_archive_has_one_heap(db, words, own_heaps):
    name, *options = words
    environment = {k: v for k, v in os.environ.items() if k != "ARROW_DEFAULT_MEMORY_POOL"}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, name, db, *options],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    pool, *loaded = done.stdout.splitlines()[-1].split()
    assert name != "search" or loaded == []
    assert (pool != "system") == own_heaps or sys.platform != "linux"


def test_piped_output_is_a_header_and_tab_separated_rows(db):
    lines = call("indexer", "search", db, "--key", "im3", "-k", 2, "--columns", "patient").out.splitlines()
    assert lines[0].split("\t") == ["query", "rank", "score", "key", "patient"]
    assert len(lines) == 3
    assert lines[1].split("\t")[:2] == ["im3", "1"]
    none = call("indexer", "search", db, "--key", "im3", "--where", "n > 999", "--columns", "patient")
    assert none.out.splitlines() == lines[:1]


def test_text_finds_the_picture_it_means(db):
    done = call("indexer", "search", db, "--text", "7", "--text", "12", "-k", 1, "--json")
    assert [q["hits"][0]["key"] for q in done.json["queries"]] == ["im7", "im12"]


def test_filters_and_exclusion_hold_on_the_command_line(db, tmp_path):
    query = image_file(tmp_path, 9)
    options = ("--where", "sex = 'M'", "--exclude-same", "patient", "-k", 40, "--json")
    (answer,) = call("indexer", "search", db, query, *options).json["queries"]
    expected = {f"im{n}" for n in range(40) if n % 2 and n // 4 != 9 // 4}
    assert {hit["key"] for hit in answer["hits"]} == expected


@pytest.mark.parametrize(
    "arguments",
    [(), ("--key", "im1", "--text", "2"), ("--shards", "x"), ("--key", "im1", "--out", "x"), ("--key", "im1", "-k", 0)],
)
def test_a_query_that_is_none_or_two_is_wrong_usage(db, arguments):
    assert call("indexer", "search", db, *arguments).code == 2


def test_errors_are_one_line_with_exit_code_1(db, tmp_path):
    for arguments in (("--key", "nosuch"), (tmp_path / "missing.png",), ("--key", "im1", "--columns", "nosuch")):
        done = call("indexer", "search", db, *arguments)
        assert done.code == 1
        assert done.err.startswith("error: ")
        assert len(done.err.splitlines()) == 1


def test_the_page_holds_the_pictures_read_back_from_the_shards(db, tmp_path):
    page = tmp_path / "page.html"
    call("indexer", "search", db, image_file(tmp_path, 5), "-k", 2, "--html", page)
    text = page.read_text()
    found = [base64.b64decode(m) for m in re.findall(r"data:image/jpeg;base64,([^'\"]+)", text)]
    assert len(found) == 3  # the query and two hits
    query, first = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) for data in found[:2])
    assert np.abs(query - first).mean() < 1  # the query is the stored image im5
    large = np.asarray(Image.fromarray(picture(5)).resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(first - large).mean() < 8
    assert "http" not in text.replace("https://schema", "")  # nothing is fetched


def test_names_on_the_page_are_escaped(db, tmp_path):
    folder = tmp_path / "<b>odd"
    folder.mkdir()
    page = tmp_path / "page.html"
    call("indexer", "search", db, image_file(folder, 5), "-k", 1, "--html", page)
    assert "<b>odd" not in page.read_text()
    assert "&lt;b&gt;odd" in page.read_text()


def test_a_picture_that_is_gone_is_told_in_its_place(db, tmp_path):
    import shutil

    root = tmp_path / "moved"
    folder = archive(root, shards=1, images=6)
    store = EmbeddingStore.create(str(root / "db"), "t", TwoTowers().spec)
    index(find_shards([str(folder)]).shards, store, TwoTowers())
    shutil.rmtree(folder)
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.png"
    done = call("indexer", "search", root / "db", "--key", "im1", "-k", 2, "--html", page, "--png", sheet)
    assert done.code == 0
    assert page.read_text().count("cannot be opened") == 3
    assert sheet_size(sheet)[0] > 3 * 224


def test_a_contact_sheet_has_a_row_a_query(db, tmp_path):
    sheet = tmp_path / "sheet.png"
    call("indexer", "search", db, "--key", "im1", "--key", "im2", "-k", 3, "--png", sheet)
    width, height = sheet_size(sheet)
    assert width > 4 * 224
    assert height > 2 * 224
    named = tmp_path / "named.png"
    call("indexer", "search", db, "--key", "im1", "--key", "im2", "-k", 3, "--png", named, "--columns", "n,patient")
    assert sheet_size(named)[0] == width
    assert sheet_size(named)[1] < height  # one line less below each picture: by default there is sex too


def ink(image, colour):
    """How many pixels are of this colour."""
    return int((np.asarray(image) == np.array(colour)).all(2).sum())


@pytest.mark.case("U12")
def test_a_contact_sheet_shows_every_column_and_what_restricts_the_hits():
    def sheet(columns, **options):
        hit = Hit(1, "k", 0.5, 0, columns)
        return contact_sheet(SearchResult("t", 1, "key", "exact", SearchOptions(**options), [QueryHits("q", [hit])]))

    seven = {f"column{i}": "value" for i in range(7)}
    heights = [sheet(dict(list(seven.items())[:n])).height for n in range(8)]
    assert len(set(np.diff(heights))) == 1  # one line for each
    assert sheet({}, where="sex = 'F'", exclude_same="patient", one_per="study").height > sheet({}).height


@pytest.mark.case("U12")
def test_letters_of_many_scripts_are_drawn_and_others_told_by_their_code():
    font = sheet_font()
    box = font.getmask("\uffff")  # what is drawn for a letter that the font lacks
    for letter in "äöüßéñøłçğşăžαΩжщ€µ°":
        assert drawable(letter) == letter
        assert bytes(font.getmask(letter)) != bytes(box)
    assert drawable("Fälle 例\n") == "Fälle \\u4f8b?"


def test_wrapped_text_keeps_every_word_within_the_width():
    font = sheet_font()
    text = "exact scan of all rows, table version 12 " * 5
    lines = wrapped(text, font, 200)
    assert " ".join(lines).split() == text.split()
    assert max(font.getlength(line) for line in lines) <= 200


@pytest.mark.case("U12")
def test_the_page_is_the_same_whether_the_text_goes_to_a_terminal_or_not(db, tmp_path, monkeypatch):
    pages = []
    for terminal in (False, True):
        stdout = SimpleNamespace(isatty=lambda answer=terminal: answer)
        monkeypatch.setattr("indexer.commands.search.sys", SimpleNamespace(stdout=stdout))
        page = tmp_path / "page.html"
        options = ("--where", "sex = 'M'", "--exclude-same", "patient", "-k", 2, "--html", page)
        done = call("indexer", "search", db, "--key", "im6", *options)
        assert done.code == 0, done.err
        pages.append(page.read_text())
    assert pages[0] == pages[1]
    facts = re.findall(r"<span class='label'>(\w+)</span> (\w+)", pages[0])
    assert facts[:3] == [("n", "6"), ("patient", "p1"), ("sex", "F")]  # of the query
    assert facts.count(("sex", "M")) == 2
    assert "--where" in pages[0]
    assert "sex = &#x27;M&#x27;" in pages[0]
    assert "--exclude-same patient" in pages[0]


@pytest.mark.case("U12")
def test_a_long_key_on_the_page_keeps_its_part(db, tmp_path):
    hit = Hit(1, "folder/" * 40 + "cine.dcm#17", 0.5, 0, {})
    result = SearchResult("t", 1, "key", "exact", SearchOptions(), [QueryHits("q", [hit])])
    assert "cine.dcm#17</div>" in html_page(result)


def test_a_long_name_on_a_contact_sheet_keeps_its_end_and_stays_within_its_picture():
    font = sheet_font()
    shown = fitted("folder/" * 40 + "tomogram_0042.dcm", font, 224)
    assert shown.startswith("…")
    assert shown.endswith("tomogram_0042.dcm")
    assert font.getlength(shown) <= 224
    assert fitted("short\n", font, 224) == "short?"


def test_whole_shards_are_searched_into_parquet_and_nothing_is_dropped(db, tmp_path):
    queries = write_tar(
        tmp_path / "queries.tar",
        [("a.png", png(3)), ("a.json", b'{"patient": "p0"}'), ("bad.png", b"no image"), ("c.png", png(77))],
    )
    out = tmp_path / "hits.parquet"
    options = ("-k", 2, "--exclude-same", "patient", "--columns", "patient")
    done = call("indexer", "search", db, "--shards", queries, "--out", out, *options, "--json")
    assert done.code == 0, done.err
    assert {n: done.json[n] for n in ("images", "searched", "failed", "hits")} == {
        "images": 3, "searched": 2, "failed": 1, "hits": 4,
    }  # fmt: skip
    rows = pq.read_table(out).to_pylist()
    assert [r["query"] for r in rows] == ["a", "a", "bad", "c", "c"]
    assert rows[2]["error"]
    assert rows[2]["rank"] is None
    assert "p0" not in {r["patient"] for r in rows[:2]}  # the query shard's own metadata says which patient it is


def test_build_ann_reports_what_it_measured_and_search_uses_it(db):
    built = call("indexer", "build-ann", db, "--json")
    assert built.code == 0, built.err
    assert (built.json["kind"], built.json["rows"], built.json["recall_at_10"]) == ("exact", 40, 1)
    assert "no approximation pays" in built.err
    assert built.err.index("predicted build time") < built.err.index("no approximation pays")
    assert built.json["predicted_seconds"] is not None
    assert call("indexer", "search", db, "--key", "im3", "--json").json["how"].startswith("exact index of 40 rows")
    forced = call("indexer", "build-ann", db, "--kind", "ivf-sq8", "--json")
    assert forced.json["kind"] == "ivf-sq8"
    assert {c["kind"] for c in forced.json["candidates"]} == {"exact", "ivf-sq8"}
    assert call("indexer", "build-ann", db, "--refresh", "--json").json["action"] == "unchanged"
    assert call("indexer", "build-ann", db, "--kind", "nosuch").code == 2


def test_a_query_without_hits_says_what_no_row_matches(db):
    done = call("indexer", "search", db, "--key", "im3", "--where", "sex = 'X'")
    assert (done.code, done.out) == (0, "query\trank\tscore\tkey\n")
    assert "no row matches --where \"sex = 'X'\"" in done.err
    assert call("indexer", "search", db, "--key", "im3").err == ""


def test_what_is_no_vector_file_is_told_in_our_words(db, tmp_path):
    for name in ("labels.csv", "empty.npy", "cut.zip"):
        (tmp_path / name).write_bytes({"labels.csv": b"key,grade\n", "empty.npy": b"", "cut.zip": b"PK\x03\x04"}[name])
    np.savez(tmp_path / "several.npz", a=np.zeros((1, 3)))
    for file in sorted(tmp_path.iterdir()):
        done = call("indexer", "search", db, "--vectors", file)
        assert (done.code, done.out) == (1, "")
        assert f"{file} is not a .npy file" in done.err
        assert "pickle" not in done.err
    assert "cannot be read: No such file" in call("indexer", "search", db, "--vectors", tmp_path / "nosuch.npy").err


def test_a_text_without_quotes_is_told_from_a_wrong_column(db):
    done = call("indexer", "search", db, "--key", "im3", "--where", "sex = female")
    assert "If female is a text and no column, put it in single quotes: 'female'." in done.err
    assert "_row" not in done.err
    done = call("indexer", "search", db, "--key", "im3", "--where", "sexx = 'F'")
    assert "Did you mean 'sex'? If" in done.err
