"""The doctor tries everything: what is missing, broken or wrong on a machine is said, each with its way out."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from indexer.archive.shards import find_shards
from indexer.doctor import decoders, slides
from indexer.doctor import trial as trials
from indexer.doctor.machine import quickest
from indexer.doctor.specimens import LEVELS, SYNTAXES, dicom, files
from indexer.encoders.families import hub
from indexer.errors import InputError, PixelError
from indexer.pipeline.sampling import archive_sample
from indexer.pixels.dicom.stored import PLUGINS, UNCOMPRESSED
from indexer.types import Part, Picture
from tests.archives import archive, png, write_tar
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.hidden import without
from tests.pictures import tiff


def test_every_format_and_transfer_syntax_that_we_decode_is_tried_and_works_here():
    report = call("indexer", "doctor", "--json").json
    assert [f["name"] for f in report["formats"] if not f["works"]] == []
    tried = {s["uid"]: s for s in report["transfer_syntaxes"]}
    assert set(tried) == {*PLUGINS, *UNCOMPRESSED}
    assert all(s["works"] and s["decoder"] for s in tried.values()), tried
    assert [problem for problem in report["problems"] if "decode" in problem] == []  # others hang on the machine
    assert report["machine"]["versions"]["torch"].split("+")[0]
    assert "efficientnet-lite0" in report["encoders_here"]
    assert (report["slides"]["works"], report["slides"]["detail"]) == (True, "")


def test_missing_decoders_are_named_with_the_extra_that_brings_them(tmp_path):
    done = without(tmp_path, "gdcm openjpeg pylibjpeg jpeg_ls nibabel", "doctor", "--json", "--strict")
    report = json.loads(done.stdout)
    broken = {s["uid"]: s["detail"] for s in report["transfer_syntaxes"] if not s["works"]}
    lacking = {uid for uid, plugins in PLUGINS.items() if not {"pillow", "pydicom"} & set(plugins)}
    lacking.add("1.2.840.10008.1.2.4.51")  # Pillow reads the 8-bit ones of these only
    assert set(broken) == lacking
    for uid in lacking - {"1.2.840.10008.1.2.4.51"}:
        assert f"{uid} " in broken[uid]
        assert "embedding-indexer[dicom]" in broken[uid]
    (nifti,) = (f for f in report["formats"] if f["name"] == "NIfTI")
    assert not nifti["works"]
    assert "embedding-indexer[nifti]" in nifti["detail"]
    assert len(report["problems"]) >= len(lacking) + 1
    assert done.returncode == 1


def test_without_pydicom_and_openslide_no_dicom_decodes_no_slide_is_read_and_the_rest_does(tmp_path):
    report = json.loads(without(tmp_path, "pydicom openslide", "doctor", "--json").stdout)
    assert not report["slides"]["works"]
    assert "embedding-indexer[wsi]" in report["slides"]["detail"]
    assert not any("slides" in problem for problem in report["problems"])  # few need them
    assert report["transfer_syntaxes"] == []
    assert all(f["works"] for f in report["formats"])
    assert any("embedding-indexer[dicom]" in problem for problem in report["problems"])


def test_a_decoder_that_gives_wrong_pixels_is_told_from_one_that_works(monkeypatch):
    negative = np.repeat(255 - LEVELS[..., None], 3, -1)
    monkeypatch.setattr(decoders, "decode", lambda *_: iter([Picture(Part(""), negative)]))
    assert {f.detail for f in decoders.try_formats()} == {"decodes, and wrongly: off by 255 grey levels"}
    assert not any(f.works for f in decoders.try_formats())


def test_slides_that_are_read_wrongly_or_not_at_all_are_a_problem(monkeypatch):
    monkeypatch.setattr(slides, "region", lambda *_, **__: np.zeros((slides.TILE, slides.TILE, 3), np.uint8))
    assert slides.try_slides().detail == "reads, and wrongly: pixels"

    def refused(_):
        raise PixelError("not a slide")

    monkeypatch.setattr(slides, "slide_facts", refused)
    report = call("indexer", "doctor", "--json").json
    assert not report["slides"]["works"]
    assert any("not a slide" in problem for problem in report["problems"])


def test_the_specimens_hold_the_picture_by_other_readers():
    import io

    import pydicom
    from PIL import Image

    for specimen in files():
        if specimen.name in ("JPEG", "PNG 8 bit", "TIFF 8 bit", "TIFF LZW", "TIFF JPEG", "WebP", "BMP", "GIF", "PGM"):
            image = np.asarray(Image.open(io.BytesIO(specimen.make())).convert("L")).astype(int)
            assert np.abs(image - LEVELS).max() <= specimen.tolerance, specimen.name
    for syntax in SYNTAXES:
        dataset = pydicom.dcmread(io.BytesIO(dicom(syntax)))
        assert dataset.file_meta.TransferSyntaxUID == syntax.uid
        if syntax.uid in UNCOMPRESSED:
            assert np.array_equal(dataset.pixel_array, LEVELS.astype(np.uint16) * 16)


@pytest.mark.parametrize(
    ("gflops", "precision"),
    [({"fp32": 100, "bf16": 300}, "bf16"), ({"fp32": 100, "bf16": 20}, "fp32"), ({"fp32": 100, "bf16": 105}, "fp32")],
)
def test_the_quickest_precision_is_the_one_measured_so(gflops, precision):
    assert quickest(gflops) == precision


class Silent(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_hub_that_answers_one_that_does_not_and_one_switched_off_are_told_apart(monkeypatch):
    import huggingface_hub.constants as constants

    server = http.server.HTTPServer(("127.0.0.1", 0), Silent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host = f"127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", f"http://{host}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.reach() == (False, "disabled: HF_HUB_OFFLINE is set")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PROBE_SECONDS", 60)  # however busy the machine is
    assert hub.reach() == (True, f"{host} answers")
    server.shutdown()
    server.server_close()
    thread.join()
    with socket.socket() as held:  # a port that nobody listens on and nobody else can take
        held.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", f"http://{host}")
        assert hub.reach() == (False, f"{host} does not answer")


def shards_of(path: Path):
    return find_shards([str(path)]).shards


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(trials, "MODEL_SECONDS", 0.05)


def test_a_trial_counts_what_it_reads_and_its_sum_is_that_of_the_stages(tmp_path, quick):
    folder = archive(tmp_path, shards=3, images=5)
    write_tar(folder / "broken.tar", [("a.png", b"\x89PNG\r\n\x1a\n broken"), ("b.png", png(99)), ("c.jpg", b"")])
    before = sorted(tmp_path.rglob("*"))
    found = trials.trial(shards_of(folder), FakeEncoder(), 200)
    assert (found.images, found.failed) == (18, 2)
    assert found.reasons == {"corrupt image": 1, "empty file": 1}
    together = 1 / (1 / found.decode_per_second + 1 / found.model_per_second)  # the CPU's cores do both
    assert found.expected_per_second == pytest.approx(min(found.read_per_second, together))
    assert found.hours_a_million == pytest.approx(1e6 / found.expected_per_second / 3600)
    assert found.bottleneck.startswith(("model-bound: ", "decode-bound: ", "read-bound: "))
    assert sorted(tmp_path.rglob("*")) == before


class Clock:
    """Stands in for `time`: it goes on by what is slept, and by a millisecond where it is read, whatever the load."""

    def __init__(self):
        self.now, self.lock = 0.0, threading.Lock()

    def sleep(self, seconds):
        with self.lock:
            self.now += seconds
            return self.now

    def perf_counter(self):
        return self.sleep(0.001)


def test_a_slow_model_is_the_bottleneck_and_a_slow_decoder_too(tmp_path, quick, monkeypatch):
    folder, clock = archive(tmp_path, shards=1, images=8), Clock()

    def slow(value):
        clock.sleep(0.5)
        return value

    monkeypatch.setattr(trials, "time", clock)
    found = trials.trial(shards_of(folder), FakeEncoder(change=slow), 8)
    assert found.bottleneck.startswith("model-bound: ")
    decode = trials.decode
    monkeypatch.setattr(trials, "decode", lambda *arguments: (clock.sleep(0.3), decode(*arguments))[1])
    found = trials.trial(shards_of(folder), FakeEncoder(), 8)
    assert found.bottleneck.startswith("decode-bound: ")


def test_a_trial_takes_from_the_whole_archive(tmp_path, quick, monkeypatch):
    folder = archive(tmp_path, shards=40, images=2)
    seen = []
    read = archive_sample.read_shard
    monkeypatch.setattr(archive_sample, "read_shard", lambda shard: seen.append(shard.name) or read(shard))
    assert trials.trial(shards_of(folder), FakeEncoder(), 10).images == 10
    assert [Path(name).name for name in seen] == [f"{n:03d}.tar" for n in range(0, 40, 4)]


def test_the_files_of_a_sample_of_pictures_are_not_held_together(tmp_path, monkeypatch):
    alive, most = [], []
    read = archive_sample.read_shard

    def watched(shard):
        for item in read(shard):
            alive.append(weakref.ref(item))
            most.append(sum(sample() is not None for sample in alive))
            yield item

    monkeypatch.setattr(archive_sample, "read_shard", watched)
    found, images = archive_sample.sample_pictures(
        shards_of(archive(tmp_path, shards=2, images=20)), FakeEncoder().spec.pixels, 40
    )
    assert (len(found), len(alive)) == (40, 40)
    assert len(set(images.tolist())) == 40
    assert max(most) < 10


def test_frames_of_one_file_are_images_of_the_trial_up_to_its_number(tmp_path, quick):
    write_tar(tmp_path / "a.tar", [("a.tif", tiff(np.zeros((30, 8, 8), np.uint8), photometric="minisblack"))])
    assert trials.trial(shards_of(tmp_path / "a.tar"), FakeEncoder(), 12).images == 12
    assert trials.trial(shards_of(tmp_path / "a.tar"), FakeEncoder(), 200).images == 30


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([("a.png", b"\x89PNG\r\n\x1a\n broken")], "decoded no image: 1 x corrupt image"),
        ([("a.png", b"")], "read no image: 1 x empty file"),
        ([], "read no image: the shards are empty"),
    ],
)
def test_shards_without_one_good_image_are_an_error_that_says_why(tmp_path, content, words):
    write_tar(tmp_path / "a.tar", content)
    with pytest.raises(InputError, match=words):
        trials.trial(shards_of(tmp_path / "a.tar"), FakeEncoder(), 10)


def test_a_typing_error_in_the_shards_is_told_at_once(tmp_path):
    done = call("indexer", "doctor", tmp_path / "nothing.tar")
    assert (done.code, done.out) == (1, "")
    assert "nothing.tar" in done.err
    assert done.err.count("\n") == 1


def test_a_person_reads_every_section(tmp_path, quick):
    text = call("indexer", "doctor", archive(tmp_path, 1, 4)).out
    for words in ("devices", "versions: ", "formats", "DICOM transfer syntaxes", "1.2.840.10008.1.2.4.70", "GB free",
                  "model hub: ", "encoders with weights here: ", "trial of 4 images", "expected: "):  # fmt: skip
        assert words in text


@pytest.mark.parametrize("breaks", [False, True])
def test_problems_are_listed_line_by_line_or_said_to_be_none(breaks, monkeypatch):
    monkeypatch.setattr("indexer.doctor.report._room", lambda _: [])  # and the speed of this machine says nothing here
    monkeypatch.setattr("indexer.doctor.report._devices", lambda _: [])
    if breaks:
        monkeypatch.setattr(decoders, "decode", lambda *_: iter([Picture(0, np.zeros((*LEVELS.shape, 3), np.uint8))]))
    problems = call("indexer", "doctor", "--json").json["problems"]
    text = call("indexer", "doctor").out
    assert bool(problems) == breaks
    assert [line.removeprefix("problem: ") for line in text.splitlines() if line.startswith("problem: ")] == problems
    assert ("no problems found" in text) != breaks


def test_a_trial_of_a_small_folder_takes_as_many_of_its_groups_as_it_needs(tmp_path, quick):
    for seed in range(150):
        (tmp_path / f"photo{seed}.png").write_bytes(png(seed))
    assert len(shards_of(tmp_path)) > 100
    assert trials.trial(shards_of(tmp_path), FakeEncoder(), 200).images == 150
    assert trials.trial(shards_of(tmp_path), FakeEncoder(), 60).images == 60
