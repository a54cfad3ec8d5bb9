"""Whole slides: which tiles become rows, with which pixels and columns, and what becomes of flawed ones."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from indexer.archive.reader import around, read_place
from indexer.archive.slides.find import SlideOptions, find_slides, slide_again
from indexer.errors import InputError, ReadError, ShardChanged
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index
from indexer.search.drawing.pages import html_page
from indexer.search.drawing.pictures import pictures_of
from indexer.search.drawing.sheet import INSET, contact_sheet
from indexer.search.options import SearchOptions
from indexer.search.queries import Query
from indexer.search.results import QueryHits, SearchResult
from indexer.serve.pictures import Drawing, draw
from indexer.serve.pictures import find as find_picture
from indexer.slides.place import FRAME
from indexer.slides.tissue import shares, tissue
from indexer.store.rows import PLACE_COLUMNS, place_of
from indexer.store.table import EmbeddingStore
from indexer.types import Hit, TileRule
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.killed import killed_after
from tests.slides import CANARY, aperio, dicom_slide, generic, glass, label, region, scanned, section, stained

RULE = TileRule(256, 1.0)
COLUMNS = ["key", "part_x", "part_y", "part_level", "part_mpp", "part_tissue", "slide", "content", *PLACE_COLUMNS]


def run(sources, db, rule=RULE, *, options=SlideOptions(), table="t", changed="error", part=8192, encoder=None):  # noqa: B008
    encoder = encoder or FakeEncoder()
    store = EmbeddingStore.create(str(db), table, encoder.spec, tiles=rule)
    store.require_tiles(rule)
    found = find_slides([str(source) for source in sources], options)
    report = index(found.shards, store, encoder, RunOptions(changed=changed, commit_rows=part))
    store.refresh()
    return store, report


def rows(store, columns=COLUMNS):
    return store.vectors(columns=columns).columns.to_pylist()


def failures(store):
    return {(Path(f["shard"].partition("#")[0]).name, f["key"]): f["reason"] for f in store.failures().to_pylist()}


def ppm(pixels):
    return b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()


def saturation(pixels):
    """HSV saturation of 0 to 255, in floating point."""
    largest = pixels.max(axis=2).astype(float)
    return 255 * (largest - pixels.min(axis=2)) / np.maximum(largest, 1)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """One picture of 2048 x 1536 as a slide of each format, at 0.5 micrometres a pixel."""
    root = tmp_path_factory.mktemp("slides")
    picture = section()
    aperio(root / "jpeg.svs", picture)
    aperio(root / "j2k.svs", picture, compression="APERIO_JP2000_RGB")
    generic(root / "deflate.tif", picture)
    generic(root / "lzw.tiff", picture, compression="lzw")
    return root


@pytest.fixture(scope="module")
def table(slides, tmp_path_factory):
    (slides / "slides.csv").write_text("slide,patient,label\njpeg,p1,ill\nlzw.tiff,p2,well\n", encoding="utf-8")
    return run([slides], tmp_path_factory.mktemp("db"))[0]


def test_every_tile_with_tissue_is_a_row_with_the_pixels_that_openslide_reads(slides, table):
    found = rows(table)
    by_slide = {name: [row for row in found if row["slide"] == name] for name in ("jpeg", "j2k", "deflate", "lzw")}
    grid = [
        (x, y) for y in range(0, 1536 - 511, 512) for x in range(0, 2048 - 511, 512)
    ]  # CLAM's rule, from the corner
    inside = {(x, y) for x, y in grid if 512 <= x < 1536 and y < 1280}  # where the picture has tissue on a quarter
    for own in by_slide.values():
        assert {(row["part_x"], row["part_y"]) for row in own} == inside
    for row in found:
        path = Path(row["shard"].partition("#")[0])
        assert (row["part_level"], row["part_mpp"]) == (1, 1.0)  # the level of 1 micrometre, as it is
        assert row["key"] == f"{path.name}#{row['part_x']},{row['part_y']}"
        expected = region(path, row["part_x"], row["part_y"], 1, 256, 256)
        assert row["content"] == hashlib.sha256(ppm(expected)).hexdigest()
        assert read_place(str(path), place_of(row), row["content"]) == ppm(expected)
    assert {row["content"] for row in by_slide["lzw"]} == {
        row["content"] for row in by_slide["deflate"]
    }  # lossless both


@pytest.mark.parametrize(
    ("mpp", "level", "side"), [(0.5, 0, 256), (0.505, 0, 256), (0.8, 0, 410), (1.4, 1, 358), (2.1, 2, 269)]
)
def test_tiles_come_from_the_nearest_finer_level_resized_once(slides, tmp_path, mpp, level, side):
    store, _ = run([slides / "deflate.tif"], tmp_path, TileRule(256, mpp, tissue=0))
    found = rows(store)
    step = side * 2**level
    assert len(found) == (2048 // step) * (1536 // step)
    for row in found:
        assert (row["part_level"], row["part_x"] % step, row["part_y"] % step) == (level, 0, 0)
        expected = region(slides / "deflate.tif", row["part_x"], row["part_y"], level, side, 256)
        assert row["content"] == hashlib.sha256(ppm(expected)).hexdigest()


def test_tissue_is_the_median_saturation_above_the_threshold_and_its_mask_lies_beside_the_run(slides, table):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (61, 47, 3), dtype=np.uint8) // 8 * 4 + 100
    picture[:20] = glass(20, 47)
    picture[:, :5] = 8  # nearly black, and saturated where it is not grey
    expected = scipy.ndimage.median_filter(
        np.where(picture.max(axis=2) >= 32, saturation(picture), 0), 7, mode="nearest"
    )
    for threshold in (5, 15, 40, 80):
        assert np.array_equal(tissue(picture, threshold), expected > threshold)
    mask = expected > 15
    corners = np.array([[0, 0], [20, 30], [40, 48]])
    own = [mask[y // 2 : (y + 12) // 2, x // 2 : (x + 12) // 2].mean() for x, y in corners.tolist()]
    assert np.allclose(shares(mask, 2.0, corners, 12.0), own)
    folder = Path(table.uri) / "t.runs"
    masks = {path.name: np.asarray(Image.open(path)) for path in folder.glob("*/*.tissue.png")}
    assert sorted(masks) == [f"{name}.tissue.png" for name in ("deflate.tif", "j2k.svs", "jpeg.svs", "lzw.tiff")]
    mask = masks["deflate.tif.tissue.png"]
    assert mask.shape == (96, 128)  # of 16 pixels each
    assert mask[24:72, 40:88].mean() > 0.7
    assert not mask[:, :24].any()


def test_the_rows_of_a_slide_have_the_columns_of_the_csv_beside_it(slides, table, tmp_path):
    found = {row["slide"]: (row["patient"], row["label"]) for row in rows(table, ["slide", "patient", "label"])}
    assert found == {"jpeg": ("p1", "ill"), "lzw": ("p2", "well"), "deflate": (None, None), "j2k": (None, None)}
    (tmp_path / "mpp.csv").write_text("slide,mpp\njpeg,0.5\nlzw,0.5\nother,0.5\n", encoding="utf-8")
    options = SlideOptions(mpp_of=str(tmp_path / "mpp.csv"))
    for sources in ([slides], [slides / name for name in ("j2k.svs", "jpeg.svs", "lzw.tiff")]):
        notes = find_slides([str(source) for source in sources], options).notes
        assert notes == (f"{tmp_path / 'mpp.csv'}: rows that name no slide: 1: other",)
    for shard in find_slides([str(slides)], SlideOptions()).shards:
        assert slide_again(shard.name, shard.url, shard.identity, hash_content=False) == shard
    again = FakeEncoder()
    _, report = run([slides], table.uri, encoder=again)
    assert (report.shards_skipped, again.pictures) == (4, 0)


def test_a_resolution_is_the_files_or_the_users_and_never_guessed(tmp_path):
    picture = section(512, 768, (0, 0), 1)
    for name, mpp in {"none": None, "zero": 0.0, "absurd": 352.8, "given": None, "coarse": 2.0}.items():
        aperio(tmp_path / f"{name}.svs", picture, mpp=mpp, levels=1)
    (tmp_path / "mpp.csv").write_text("slide;mpp\ngiven.svs;0.5\n", encoding="utf-8")
    store, _ = run([tmp_path / "*.svs"], tmp_path / "db", options=SlideOptions(mpp_of=str(tmp_path / "mpp.csv")))
    assert failures(store) == {
        ("none.svs", ""): "no resolution in the file",
        ("zero.svs", ""): "absurd resolution",
        ("absurd.svs", ""): "absurd resolution",
        ("coarse.svs", ""): "no level fine enough",
    }
    assert {(row["slide"], row["part_mpp"]) for row in rows(store)} == {("given", 1.0)}
    (tmp_path / "mpp.csv").write_text("slide;mpp\ngiven;0.25\nnone;0.5\n", encoding="utf-8")
    options = SlideOptions(mpp_of=str(tmp_path / "mpp.csv"))
    with pytest.raises(ShardChanged, match=r"given\.svs"):
        run([tmp_path / "*.svs"], tmp_path / "db", options=options)
    store, _ = run([tmp_path / "*.svs"], tmp_path / "db", options=options, changed="replace")
    assert {row["slide"] for row in rows(store)} == {"none"}  # the other is now smaller than a tile
    assert failures(store)[("given.svs", "")] == "slide smaller than a tile"


def test_flawed_slides_are_named_failures_and_the_others_are_read(tmp_path):
    aperio(tmp_path / "good.svs", section())
    aperio(tmp_path / "blank.svs", glass(1536, 2048))
    aperio(tmp_path / "small.svs", section(300, 300, (0, 0), 1))
    whole = generic(tmp_path / "part.tif", section(repeat=3), compression=None).read_bytes()
    (tmp_path / "part.tif").write_bytes(whole[: len(whole) // 2])  # the pages' directories at the end are gone
    (tmp_path / "text.svs").write_text("no slide", encoding="utf-8")
    broken = bytearray(aperio(tmp_path / "broken.svs", section()).read_bytes())
    at = broken.find(b"\xff\xd8", len(broken) // 2)
    broken[at : at + 2] = b"\0\0"  # one coded tile
    (tmp_path / "broken.svs").write_bytes(broken)
    store, report = run([tmp_path], tmp_path / "db")
    found = failures(store)
    keyed = {name: reason for (name, key), reason in found.items() if not key}
    assert keyed == {
        "blank.svs": "no tissue",
        "small.svs": "slide smaller than a tile",
        "part.tif": "not a slide",
        "text.svs": "not a slide",
    }
    assert {reason for (name, key), reason in found.items() if key} <= {"unreadable region of a slide"}
    assert {row["slide"] for row in rows(store)} >= {"good"}
    assert report.shards_partial == len(keyed)
    assert report.embedded + report.failed == report.images


def test_coordinates_of_clam_and_trident_give_the_same_tiles(slides, table, tmp_path):
    own = [row for row in rows(table) if row["slide"] == "deflate"]
    corners = np.array([[row["part_x"], row["part_y"]] for row in own])
    kinds = {
        "clam": {"patch_size": 256, "patch_level": 1, "downsample": (2.0, 2.0), "name": "deflate"},
        "trident": {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 20, "overlap": 0},
    }
    for kind, attributes in kinds.items():
        (tmp_path / kind).mkdir()
        with h5py.File(tmp_path / kind / ("deflate.h5" if kind == "clam" else "deflate_patches.h5"), "w") as file:
            file["coords"] = corners[::-1]
            file["coords"].attrs.update(attributes)
        options = SlideOptions(coords=str(tmp_path / kind))
        store, _ = run([slides / "deflate.tif"], tmp_path / f"{kind}-db", options=options)
        assert [(row["key"], row["content"], row["part_tissue"]) for row in rows(store)] == [
            (row["key"], row["content"], row["part_tissue"]) for row in own[::-1]
        ]
        (shard,) = find_slides([str(slides / "deflate.tif")], options).shards
        assert slide_again(shard.name, shard.url, shard.identity, hash_content=False) == shard
        for rule, reason in ((TileRule(224, 1.0), "another tile size"), (TileRule(256, 0.5), "another resolution")):
            store, _ = run([slides / "deflate.tif"], tmp_path / f"{kind}-{rule.mpp}-{rule.tile}", rule, options=options)
            assert failures(store) == {("deflate.tif", ""): f"coordinates of {reason}"}
    for number, (attributes, reason) in enumerate(
        [
            ({"patch_size": np.nan}, "coordinates of another tile size"),
            ({"patch_size": 256, "patch_size_level0": np.inf}, "bad coordinates"),
        ]
    ):
        with h5py.File(tmp_path / "odd.h5", "w") as file:
            file["coords"] = corners
            file["coords"].attrs.update(attributes)
        options = SlideOptions(coords=str(tmp_path / "odd.h5"))
        store, _ = run([slides / "deflate.tif"], tmp_path / f"odd-{number}", options=options)
        assert failures(store) == {("deflate.tif", ""): reason}


def test_a_file_of_coordinates_is_never_taken_for_two_slides(slides, tmp_path):
    for name in ("a/s.tif", "b/s.tif"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        (tmp_path / "in" / name).write_bytes((slides / "deflate.tif").read_bytes())
    (tmp_path / "coords").mkdir()
    for source, given, file in ((tmp_path / "in", "coords", "coords/s.h5"), (slides, "one.h5", "one.h5")):
        (tmp_path / file).touch()
        with pytest.raises(InputError, match=f"{file} would be taken for .* and for "):
            find_slides([str(source)], SlideOptions(coords=str(tmp_path / given)))


def test_a_table_keeps_one_rule_for_tiles(slides, table, tmp_path):
    for other in (TileRule(224, 1.0), TileRule(256, 0.5), TileRule(256, 1.0, tissue=0.5), None):
        with pytest.raises(InputError, match=r"--tile 256 --mpp 1 --tissue 0\.25 --saturation 15"):
            run([slides], table.uri, other)
    done = call("indexer", "index", slides, table.uri, "--tile", 256, "--mpp", 1, "--table", "t")
    assert (done.code, "table was written by encoder fake" in done.err) == (1, True)


def test_no_word_and_no_pixel_of_a_label_leaves_the_slide(slides, table):
    assert CANARY.encode() in (slides / "jpeg.svs").read_bytes()
    for path in Path(table.uri).rglob("*"):
        assert not path.is_file() or b"CANARY" not in path.read_bytes(), path
    blue = label()[0, 0]
    for row in rows(table):
        data = read_place(row["shard"].partition("#")[0], place_of(row), row["content"])
        pixels = np.frombuffer(data[-3 * 256 * 256 :], np.uint8).reshape(-1, 3)
        assert not (pixels == blue).all(axis=1).any()


@pytest.mark.parametrize("step", [2, 5])
def test_a_run_that_dies_within_a_slide_goes_on_where_it_stopped(slides, tmp_path, step):
    rule = TileRule(128, 0.5, tissue=0)  # 192 tiles
    whole, _ = run([slides / "jpeg.svs"], tmp_path / "whole", rule)
    with killed_after(step):
        run([slides / "jpeg.svs"], tmp_path / "db", rule, part=30)
    before = EmbeddingStore.open(str(tmp_path / "db"), "t").count()
    again = FakeEncoder()
    store, report = run([slides / "jpeg.svs"], tmp_path / "db", rule, part=30, encoder=again)
    assert {row["key"]: row for row in rows(store)} == {row["key"]: row for row in rows(whole)}
    assert store.count() == 192 == before + report.embedded
    vectors = [
        dict(zip([r["key"] for r in rows(s)], s.vectors().vectors.tolist(), strict=True)) for s in (whole, store)
    ]
    assert vectors[0] == vectors[1]


def test_slides_that_moved_get_their_new_address_without_embedding(slides, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    for name in ("jpeg.svs", "slides.csv"):
        (old / name).write_bytes((slides / name).read_bytes())
    store, _ = run([old], tmp_path / "db")
    old.rename(new)
    assert call("indexer", "relocate", store.uri, old, new).code == 0
    again = FakeEncoder()
    store, report = run([new], tmp_path / "db", encoder=again)
    assert (report.shards_skipped, again.pictures) == (1, 0)


def test_a_tile_is_read_back_from_where_its_row_says_and_from_nowhere_else(slides, table, tmp_path):
    row = rows(table)[0]
    path = row["shard"].partition("#")[0]
    with pytest.raises(ReadError, match="below no folder"):
        read_place(path, place_of(row), row["content"], roots=[str(tmp_path)])
    for member in ("0,0 level 0 256>999999", "0,0 level 9 256>256", "../x", ""):
        place = place_of(row | {"member": member})
        with pytest.raises(ReadError):
            read_place(path, place, row["content"])
        with pytest.raises(ReadError):
            around(path, place, 128)


def test_without_tile_slides_are_passed_over_with_the_way_out(slides, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(stained()).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "s.svs").write_bytes((slides / "jpeg.svs").read_bytes())
    done = call("indexer", "index", tmp_path / "in", tmp_path / "db", "--json")
    assert (done.code, done.json["embedded"]) == (0, 1)
    assert "whole slide, which is read with --tile 256 --mpp 0.5, 1: s.svs" in done.err
    done = call("indexer", "index", tmp_path / "in" / "s.svs", tmp_path / "db")
    assert done.code == 1
    assert "--tile 256 --mpp 0.5" in done.err


def test_without_the_packages_that_read_slides_one_line_names_them(slides, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    done = call("indexer", "index", slides, tmp_path / "db", "--tile", 256, "--mpp", 0.5)
    assert (done.code, done.out) == (1, "")
    assert done.err.strip().splitlines() == [
        "error: slides are read with the extra `wsi`: pip install 'embedding-indexer[wsi]'."
    ]
    assert not (tmp_path / "db").exists()


def test_a_scanned_slide_is_read_and_searched_by_the_commands(tmp_path):
    path = scanned(tmp_path)
    done = call("indexer", "index", path, tmp_path / "db", "--tile", 512, "--mpp", 0.5, "--json")
    assert done.code == 0, done.err
    store = EmbeddingStore.open(str(tmp_path / "db"))
    found = rows(store)
    assert done.json["embedded"] == len(found) > 5
    for row in found:
        expected = region(path, row["part_x"], row["part_y"], 0, 512, 512)
        assert (row["part_mpp"], row["content"]) == (0.499, hashlib.sha256(ppm(expected)).hexdigest())
        assert (saturation(expected) > 15).mean() > 0.15
    Image.fromarray(expected).save(tmp_path / "query.png")
    done = call("indexer", "search", store.uri, tmp_path / "query.png", "-k", 1, "--json")
    (hit,) = done.json["queries"][0]["hits"]
    assert (hit["key"], hit["score"] > 0.999) == (found[-1]["key"], True)
    assert json.loads(call("indexer", "info", store.uri, "--json").out)[0]["tiles"]["tile"] == 512


@pytest.mark.parametrize("compressed", [False, True])
def test_a_dicom_slide_is_one_slide_of_all_its_files_with_the_tiles_that_openslide_reads(tmp_path, compressed):
    pytest.importorskip("pydicom")
    first = dicom_slide(tmp_path / "in" / "s", section(), compressed=compressed)
    copied = b"DICM" in first.read_bytes()[:132]
    store, report = run([tmp_path / "in"], tmp_path / "db")
    found = rows(store)
    assert (copied, report.failed, report.shards_done) == (True, 0, 1)
    assert [(row["part_x"], row["part_y"]) for row in found] == [(x, y) for y in (0, 512, 1024) for x in (512, 1024)]
    for row in found:
        assert (row["part_level"], row["part_mpp"]) == (1, 1.0)
        expected = region(first, row["part_x"], row["part_y"], 1, 256, 256)
        assert row["content"] == hashlib.sha256(ppm(expected)).hexdigest()
        assert read_place(str(first), place_of(row), row["content"], roots=[str(tmp_path)]) == ppm(expected)
    assert not any(CANARY.encode() in file.read_bytes() for file in (tmp_path / "db").rglob("*") if file.is_file())


def test_pages_show_a_tile_and_its_place_in_the_slide(slides, tmp_path):
    store, _ = run([slides / "deflate.tif"], tmp_path / "db", table="efficientnet-lite0")
    row = next(row for row in rows(store) if (row["part_x"], row["part_y"]) == (1024, 512))
    path = slides / "deflate.tif"
    drawn = around(str(path), place_of(row), 128, roots=[str(slides)])
    assert drawn is not None
    red = np.argwhere((drawn == FRAME).all(axis=2))  # of 2048 x 1536 pixels, 16 each, 16 rows of white above
    assert (red.min(axis=0).tolist(), red.max(axis=0).tolist()) == ([16 + 32, 64], [16 + 63, 95])
    with Image.open(path) as picture:
        shown = np.asarray(picture.resize((128, 96), Image.Resampling.BOX)).astype(int)
    assert np.abs(drawn[16:112].astype(int) - shown)[:, :60].mean() < 2
    assert (drawn[:16] == 255).all()
    with pytest.raises(ReadError, match="below no folder"):
        around(str(path), place_of(row), 128, roots=[str(tmp_path)])
    view = EmbeddingStore.open(store.uri)
    spot = next(i for i, one in enumerate(rows(view)) if one["key"] == row["key"])
    answers = [QueryHits("q", [Hit(1, row["key"], 1.0, int(view.vectors().row_ids[spot]), {})])]
    pictures = pictures_of(view, Query(keys=(row["key"],)), view.vectors().row_ids[spot : spot + 1], answers)
    result = SearchResult("t", 1, "key", "exact", SearchOptions(), answers, pictures)
    page = html_page(result)
    assert page.count("in its slide") == 2  # of the query and of its hit
    sheet = np.asarray(contact_sheet(result))
    place = np.asarray(Image.fromarray(pictures.queries[0].around).resize((INSET, INSET), Image.Resampling.BOX))
    y, x = np.argwhere((place != 255).any(axis=2))[0].tolist()
    spots = np.argwhere((sheet[y:, x:] == place[y, x]).all(axis=2)).tolist()
    assert sum(np.array_equal(sheet[i : i + INSET, j : j + INSET], place) for i, j in spots) == 2  # query and hit
    whole = find_picture(view, lambda *_: str(path), Drawing(row["key"], 128, part="slide"))
    jpeg = np.asarray(Image.open(io.BytesIO(draw(view, whole, ()))))
    assert np.abs(jpeg.astype(int) - drawn).mean() < 6
