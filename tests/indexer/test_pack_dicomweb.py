"""A DICOMweb server as a source: a real Orthanc where one is installed, and a server that misbehaves."""

from __future__ import annotations

import http.server
import io
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pydicom
import pytest

from indexer.errors import InputError, ReadError
from indexer.pack.dicomweb import DicomWeb, single_part
from indexer.pack.headers.secret import KeyedHash
from indexer.pack.run import PackOptions, pack
from tests.commands import call
from tests.pictures import deep, dicom, dicom_file, listed, members, samples

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
UPLOADED = (  # every one of another study, of several transfer syntaxes
    "CT_small.dcm", "MR_small_jpeg_ls_lossless.dcm", "examples_jpeg2k.dcm", "examples_palette.dcm", "JPEG-lossy.dcm",
    "693_J2KI.dcm", "image_dfl.dcm", "SC_ybr_full_422_uncompressed.dcm",
)  # fmt: skip


def held_port() -> socket.socket:
    """A port that nobody listens on and nobody else is given while the socket is open."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    return held


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """The root URL of a real server's DICOMweb, on loopback, with a configuration and a storage of its own."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None or not PLUGIN.exists():
        pytest.skip("no Orthanc here: apt-get install orthanc orthanc-dicomweb")
    server, root = _started(program, tmp_path_factory.mktemp("orthanc"))
    try:
        for name in UPLOADED:
            _upload(root, dicom_file(name))
        for number in range(5):  # one series of several instances
            _upload(root, _of_a_series(number))
        yield f"{root}/dicom-web"
    finally:
        server.terminate()
        server.wait(60)


def _of_a_series(number: int) -> bytes:
    return dicom(
        deep(16, 16, seed=number), SOPInstanceUID=f"1.2.3.4.{number + 1}", StudyInstanceUID="1.2.3",
        SeriesInstanceUID="1.2.3.4", PatientID="P-17", PatientName="Doe^Jane", Modality="CR", StudyDate="20200102",
    )  # fmt: skip


def _started(program: str, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A running server and its root URL; on another port where somebody took the first before it did."""
    for tried in range(5):
        with held_port() as held:
            port = held.getsockname()[1]
        storage, log = str(folder / f"storage{tried}"), folder / f"log{tried}"
        facts = {
            "HttpPort": port, "DicomServerEnabled": False, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "StorageDirectory": storage, "IndexDirectory": storage,
            "Plugins": [str(PLUGIN)],
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(facts), encoding="utf-8")
        with log.open("w", encoding="utf-8") as stream:
            server = subprocess.Popen([program, folder / "orthanc.json"], stdout=stream, stderr=stream)
        if _answers(server, f"http://127.0.0.1:{port}"):
            return server, f"http://127.0.0.1:{port}"
    raise RuntimeError(f"Orthanc did not start: {log.read_text(encoding='utf-8')}")


def _answers(server: subprocess.Popen[bytes], root: str) -> bool:
    """Whether it does before it ends; the time limit of the tests is the only one."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"{root}/system", timeout=60):
                return True
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    return False


def _upload(root: str, data: bytes) -> None:
    request = urllib.request.Request(f"{root}/instances", data, method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["Status"] == "Success"


@pytest.fixture
def secret(tmp_path) -> Path:
    path = tmp_path / "keys" / "secret"
    path.parent.mkdir()
    path.touch(mode=0o600)
    path.write_text("ab" * 32)
    return path


def packed(url: str, destination: Path, secret: Path, **options):
    """As they are, so that the bytes can be compared."""
    return pack(PackOptions(f"dicomweb+{url}", destination, secret, keep_headers=True, **options))


def images(folder: Path) -> set[bytes]:
    return {
        data for shard in folder.glob("*.tar") for name, data in members(shard).items() if not name.endswith(".json")
    }


def test_every_instance_of_a_real_server_is_packed_byte_for_byte(orthanc, tmp_path, secret):
    report = packed(orthanc, tmp_path / "out", secret)
    assert (report.files, report.packed) == (len(UPLOADED) + 5, len(UPLOADED) + 5)
    stored = {dicom_file(name) for name in UPLOADED} | {_of_a_series(number) for number in range(5)}
    assert images(tmp_path / "out") == stored


def test_a_real_servers_instances_are_those_that_another_client_lists(orthanc, tmp_path, secret):
    from dicomweb_client.api import DICOMwebClient

    client = DICOMwebClient(orthanc)
    expected = {match["00080018"]["Value"][0] for match in client.search_for_instances(get_remaining=True)}
    packed(orthanc, tmp_path / "out", secret)
    assert {path.rpartition("/")[2] for path in listed(tmp_path / "out")} == expected


@pytest.mark.parametrize(
    ("query", "count"),
    [("Modality=CR", 5), ("PatientID=P-17", 5), ("00080060=CR", 5), ("Modality=CT", 2), ("Modality=XA", 0),
     ("StudyInstanceUID=1.2.3", 5), ("Modality=CR&StudyDate=20210101-", 0)],
)  # fmt: skip
def test_filters_choose_the_series_of_a_real_server(orthanc, tmp_path, secret, query, count):
    assert packed(f"{orthanc}?{query}", tmp_path / "out", secret).packed == count


def test_metadata_of_a_real_servers_instances_is_hashed_and_allow_listed(orthanc, tmp_path, secret):
    packed(f"{orthanc}?Modality=CR", tmp_path / "out", secret)
    found = samples(tmp_path / "out")
    keyed = KeyedHash(b"\xab" * 32)
    assert set(found) == {keyed("instance", f"1.2.3.4.{number + 1}") for number in range(5)}
    assert {fields["patient"] for fields in found.values()} == {keyed("patient", "\\P-17")}
    assert {fields["year"] for fields in found.values()} == {2020}
    assert "Doe" not in json.dumps(found)


def test_answers_come_in_pages_and_nothing_is_lost_or_doubled(orthanc, tmp_path, secret, monkeypatch):
    monkeypatch.setattr("indexer.pack.dicomweb.PAGE", 2)
    report = packed(orthanc, tmp_path / "out", secret)
    assert (report.packed, report.same_instance) == (len(UPLOADED) + 5, 0)


def test_two_runs_from_a_real_server_give_the_same_bytes_and_the_second_writes_nothing(orthanc, tmp_path, secret):
    first = packed(orthanc, tmp_path / "one", secret, shard_files=4)
    packed(orthanc, tmp_path / "two", secret, shard_files=4, processes=2)
    one, two = (sorted(p.read_bytes() for p in (tmp_path / name).glob("*.tar")) for name in ("one", "two"))
    assert one == two
    assert len(one) == 4
    assert packed(orthanc, tmp_path / "one", secret, shard_files=4).shards_kept == first.shards == 4


def test_a_servers_shards_close_at_their_size_too(orthanc, tmp_path, secret):
    report = packed(orthanc, tmp_path / "out", secret, shard_bytes=600_000)
    assert report.shards > 2


def test_a_dry_run_asks_the_server_and_writes_nothing(orthanc, tmp_path):
    done = call(
        "indexer",
        "pack",
        f"dicomweb+{orthanc}",
        tmp_path / "out",
        "--secret",
        tmp_path / "s",
        "--new-secret",
        "--dry-run",
        "--json",
    )
    assert done.json["packed"] == len(UPLOADED) + 5
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "s").exists()


def test_an_address_beside_the_root_is_one_clear_line(orthanc, tmp_path):
    done = call("indexer", "pack", f"dicomweb+{orthanc}-not", tmp_path / "out", "--secret", tmp_path / "s")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "404" in done.err


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("dicomweb+http://h/dicom-web?Modalty=MR", "Modalty is not a DICOM keyword.*Did you mean Modality"),
        ("dicomweb+http://me:pass@h/dicom-web", "netrc"),
        ("dicomweb+ftp://h/dicom-web", "is not dicomweb"),
        ("dicomweb+http:///dicom-web", "is not dicomweb"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_before_anything_is_asked(url, words):
    with pytest.raises(InputError, match=words):
        DicomWeb.from_url(url)


def test_a_server_that_is_not_there_is_one_short_line(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib3.util.Retry.get_backoff_time", lambda _: 0)
    with held_port() as held:
        done = call("indexer", "pack", f"dicomweb+http://127.0.0.1:{held.getsockname()[1]}/x", tmp_path / "out")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "does not answer: " in done.err
    assert "Connection refused. Run again" in done.err
    assert len(done.err) < 200


class Faulty(http.server.BaseHTTPRequestHandler):
    """Answers from a table: path without query → (status, type, body, bytes announced and not sent)."""

    answers: dict[str, tuple[int, str, bytes, int]] = {}  # noqa: RUF012 - filled by each test

    def do_GET(self):
        path, _, query = self.path.partition("?")
        status, kind, body, missing = self.answers.get(path, (404, "text/plain", b"no", 0))
        if "offset=" in query and "offset=0" not in query:
            status, body = 204, b""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) + missing))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def faulty():
    """(root URL, the table of answers) of a server that does as it is told."""
    Faulty.answers = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Faulty.answers
    server.shutdown()
    server.server_close()
    thread.join()


def a_series(answers, instances: list[str]) -> None:
    def value(uid):
        return {"vr": "UI", "Value": [uid]}

    series = [{"0020000D": value("1.2"), "0020000E": value("1.3")}]
    found = [{"00080018": value(uid)} for uid in instances]
    answers["/series"] = (200, "application/dicom+json", json.dumps(series).encode(), 0)
    answers["/studies/1.2/series/1.3/instances"] = (200, "application/dicom+json", json.dumps(found).encode(), 0)


def part(data: bytes) -> bytes:
    return b"--x\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--x--\r\n"


MULTIPART = 'multipart/related; type="application/dicom"; boundary=x'


def test_an_instance_that_the_server_refuses_is_left_out_with_its_answer(faulty, tmp_path, secret):
    root, answers = faulty
    a_series(answers, ["1.1", "1.2"])
    data = dicom(deep(8, 8), SOPInstanceUID="1.1")
    answers["/studies/1.2/series/1.3/instances/1.1"] = (200, MULTIPART, part(data), 0)
    report = packed(root, tmp_path / "out", secret)
    assert (report.packed, report.left_out) == (1, {"unreadable file": 1})
    assert listed(tmp_path / "out")["1.2/1.3/1.2"]["note"] == "the server answers 404"
    assert images(tmp_path / "out") == {data}


def test_an_instance_over_the_size_limit_is_left_out_before_it_fills_the_memory(faulty, tmp_path, secret, monkeypatch):
    root, answers = faulty
    a_series(answers, ["1.1"])
    answers["/studies/1.2/series/1.3/instances/1.1"] = (200, MULTIPART, part(dicom(deep(80, 80))), 0)
    monkeypatch.setattr("indexer.pack.dicomweb.MAX_IMAGE", 2000)
    assert packed(root, tmp_path / "out", secret).left_out == {"unreadable file": 1}
    assert listed(tmp_path / "out")["1.2/1.3/1.1"]["note"] == "file too large"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, MULTIPART, part(b"half of it"), 5000), "broke off"),
        ((200, MULTIPART, part(b"whole")[:-12], 0), "cut or damaged"),
        ((500, "text/plain", b"oh", 0), "answers 500"),
    ],
)
def test_a_server_that_fails_in_the_middle_is_asked_again_by_the_next_run(faulty, tmp_path, secret, answer, words):
    root, answers = faulty
    a_series(answers, ["1.1", "1.2"])
    good, late = dicom(deep(8, 8), SOPInstanceUID="1.1"), dicom(deep(9, 9), SOPInstanceUID="1.2")
    answers["/studies/1.2/series/1.3/instances/1.1"] = (200, MULTIPART, part(good), 0)
    answers["/studies/1.2/series/1.3/instances/1.2"] = answer
    with pytest.raises(ReadError, match=words):
        packed(root, tmp_path / "out", secret, shard_files=1)
    answers["/studies/1.2/series/1.3/instances/1.2"] = (200, MULTIPART, part(late), 0)
    report = packed(root, tmp_path / "out", secret, shard_files=1)
    assert (report.packed, report.shards_kept) == (2, 1)
    assert images(tmp_path / "out") == {good, late}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "no DICOM JSON"),
        (b"{}", "not a list of matches"),
        (b'[{"0020000D": {"Value": ["1.2"]}}]', "lacks 0020000E"),
        (b'[{"0020000D": {"Value": ["../../etc"]}, "0020000E": {"Value": ["1"]}}]', "a UID that is none"),
    ],
)
def test_answers_that_are_no_matches_are_errors_that_say_so(faulty, body, words):
    root, answers = faulty
    answers["/series"] = (200, "application/json", body, 0)
    with pytest.raises(InputError, match=words):
        list(DicomWeb.from_url(f"dicomweb+{root}").list())


def test_the_one_part_of_a_message_is_found_whatever_bytes_it_holds():
    data = b"\r\n--y\r\n\0\r\n\r\n--x" + bytes(range(256))
    assert single_part(part(data), MULTIPART) == data
    assert single_part(data, "application/dicom") == data
    assert pydicom.dcmread(io.BytesIO(single_part(part(dicom(deep(8, 8))), MULTIPART))).Rows == 8


class Paged(http.server.BaseHTTPRequestHandler):
    """One series of many instances, in pages of at most `cap`, by a server with habits of its own."""

    instances = 150
    cap = 100
    warns = True
    counts = False  # the series says how many instances it has
    ignores_offset = False
    asked = 0

    def do_GET(self):
        path, _, query = self.path.partition("?")
        options = dict(pair.split("=") for pair in query.split("&") if "=" in pair)
        type(self).asked += 1
        if self.asked > 20:
            raise RuntimeError("asked for ever")
        uid = {"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": ["1.3"]}}
        if self.counts:
            uid["00201209"] = {"Value": [self.instances]}
        found = [uid] if path == "/series" else [{"00080018": {"Value": [f"1.{n}"]}} for n in range(self.instances)]
        start = 0 if self.ignores_offset else int(options["offset"])
        page = found[start : start + min(self.cap, int(options["limit"]))]
        body = json.dumps(page).encode() if page else b""
        self.send_response(200 if page else 204)
        if self.warns and start + len(page) < len(found):
            self.send_header("Warning", f'299 {self.path}: "There are {len(found) - start - len(page)} more"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def paged(request):
    kind = type("Own", (Paged,), request.param)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kind.instances
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.case("R4")
@pytest.mark.parametrize(
    "paged",
    [{}, {"warns": False, "counts": True}, {"instances": 1234, "cap": 10_000}, {"instances": 1000, "cap": 500},
     {"instances": 40, "ignores_offset": True}],
    indirect=True,
)  # fmt: skip
def test_every_instance_is_listed_however_the_server_cuts_its_pages(paged):
    root, instances = paged
    found = [file.path for file in DicomWeb.from_url(f"dicomweb+{root}").list()]
    assert found == [f"1.2/1.3/1.{number}" for number in range(instances)]


@pytest.mark.case("R4")
@pytest.mark.parametrize(
    "paged",
    [{"ignores_offset": True}, {"ignores_offset": True, "warns": False, "counts": True},
     {"ignores_offset": True, "warns": False, "instances": 900, "cap": 900}],
    indirect=True,
)  # fmt: skip
def test_a_server_that_ignores_offset_and_keeps_matches_back_is_an_error_and_not_asked_for_ever(
    paged, tmp_path, secret
):
    with pytest.raises(ReadError, match="ignores offset"):
        packed(paged[0], tmp_path / "out", secret)
    assert not (tmp_path / "out").exists()
