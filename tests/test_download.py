"""Downloads over a network that breaks, lies and changes its mind."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants as constants
import pytest
from server import Mirror, serve

from viewfold.errors import FileError, InputError, OutputError
from viewfold.weights.download import check_url, download, forget, source

CONTENT = bytes(range(251)) * 40


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is on, chunks are small, and huggingface_hub does not pause between its tries."""
    clock = SimpleNamespace(sleep=lambda _: None, time=time.time)
    monkeypatch.setattr("huggingface_hub.file_download.time", clock)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    monkeypatch.setattr("viewfold.weights.download.PAUSE_S", 0.0)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # it would ask the true hub something
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve(Mirror(CONTENT)) as server:
        yield server


def get(path: Path, *urls: str, max_bytes: int = 10**6) -> None:
    download(urls, path / "file.pt", max_bytes=max_bytes)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"file.pt.lock"}


def test_a_file_arrives_whole_and_says_how_far_it_is(mirror: Mirror, tmp_path: Path) -> None:
    seen = []
    download([mirror.url], tmp_path / "file.pt", max_bytes=len(CONTENT), progress=lambda *at: seen.append(at))
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert seen[0] == (1000, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert mirror.asked == [""]
    assert (found := source(tmp_path / "file.pt")) is not None and found.url == mirror.url
    assert found.sha256 == found.etag and len(found.etag) == 64


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_is_gone_on_from(mirror: Mirror, tmp_path: Path, reset: bool) -> None:
    """huggingface_hub tries again after an end that comes too early, but not after a reset."""
    mirror.cut, mirror.reset = [5000, 2000], reset
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert len(mirror.asked) == 3 and (reset or mirror.asked == ["", "bytes=5000-", "bytes=7000-"])


def break_off(mirror: Mirror, path: Path, at: int = 5000) -> None:
    """Leave the beginning of the file behind, as a broken network does."""
    mirror.cut = [at] + [0] * 20
    with pytest.raises(FileError, match=f"{at} bytes are kept; the same command goes on from there"):
        get(path, mirror.url)
    assert names(path) == {"file.pt.part", "file.pt.part.json"}
    mirror.cut.clear()
    mirror.asked.clear()


def test_the_next_call_goes_on_where_the_last_one_gave_up(mirror: Mirror, tmp_path: Path) -> None:
    break_off(mirror, tmp_path)
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert mirror.asked == ["bytes=5000-"]


def test_another_mirror_of_the_same_file_goes_on_too(mirror: Mirror, tmp_path: Path) -> None:
    break_off(mirror, tmp_path)
    with serve(Mirror(CONTENT)) as other:
        get(tmp_path, other.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT and other.asked == ["bytes=5000-"]


def test_a_stop_in_the_middle_keeps_what_came(mirror: Mirror, tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 4000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download([mirror.url], tmp_path / "file.pt", max_bytes=10**6, progress=stop)
    assert (tmp_path / "file.pt.part").read_bytes() == CONTENT[:3000]
    mirror.asked.clear()
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT and mirror.asked == ["bytes=3000-"]


@pytest.mark.slow
def test_after_a_kill_only_the_rest_is_fetched(tmp_path: Path) -> None:
    """In a process of its own, with huggingface_hub's own chunks of 10 MiB."""
    content = os.urandom(35 * 2**20)
    code = (
        "import sys; from pathlib import Path; from viewfold.weights.download import download;"
        "download([sys.argv[1]], Path(sys.argv[2]), max_bytes=2**30)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with serve(Mirror(content, bytes_per_s=50 * 2**20)) as mirror:
        command = [sys.executable, "-c", code, mirror.url, str(tmp_path / "file.pt")]
        with subprocess.Popen(command, env=environment) as process:
            part = tmp_path / "file.pt.part"
            deadline = time.monotonic() + 60
            while not (part.exists() and part.stat().st_size > 15 * 2**20) and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        have, mirror.sent, mirror.bytes_per_s = part.stat().st_size, 0, float("inf")
        subprocess.run(command, env=environment, check=True)
        assert (tmp_path / "file.pt").read_bytes() == content
        assert 15 * 2**20 < have < len(content) and mirror.sent == len(content) - have
        assert mirror.asked == ["", f"bytes={have}-"]


def test_a_server_that_knows_no_ranges_starts_again(mirror: Mirror, tmp_path: Path) -> None:
    break_off(mirror, tmp_path)
    mirror.ranges = False
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "part",
    [{"Content-Range": f"bytes 0-{len(CONTENT) - 5001}/{len(CONTENT)}"}, {"ETag": '"another"'}],
    ids=["place", "file"],
)
def test_a_part_of_another_place_or_file_is_not_added(mirror: Mirror, tmp_path: Path, part: dict[str, str]) -> None:
    break_off(mirror, tmp_path)
    mirror.part = part
    with pytest.raises(FileError, match=r"goes on with another file, or in another place.* Nothing was kept"):
        get(tmp_path, mirror.url)
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT and mirror.asked == ["bytes=5000-", ""]


@pytest.mark.parametrize("length", [len(CONTENT), 7000, 4000])
def test_a_file_that_changed_in_between_is_not_patched_together(mirror: Mirror, tmp_path: Path, length: int) -> None:
    break_off(mirror, tmp_path)
    mirror.content = CONTENT[::-1][:length]
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == mirror.content and mirror.asked == [""]


def test_bytes_that_nothing_is_known_of_are_not_gone_on_from(mirror: Mirror, tmp_path: Path) -> None:
    break_off(mirror, tmp_path)
    (tmp_path / "file.pt.part.json").write_text("[")
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT and mirror.asked == [""]
    (tmp_path / "file.pt").rename(tmp_path / "file.pt.part")
    with (tmp_path / "file.pt.part").open("ab") as file:
        file.write(b"more")
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


def test_room_is_counted_with_what_is_there_and_what_must_be_spared(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")

    def free(n: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, n))

    free(3 * len(CONTENT) - 1)
    with pytest.raises(OutputError, match="GiB of space"):
        download([mirror.url], tmp_path / "file.pt", max_bytes=10**6, spare=2)
    assert names(tmp_path) == set() and mirror.asked == []
    free(3 * len(CONTENT))
    break_off(mirror, tmp_path)
    free(3 * len(CONTENT) - 5000)
    download([mirror.url], tmp_path / "file.pt", max_bytes=len(CONTENT), spare=2)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


def test_a_disk_that_fills_up_is_not_taken_for_a_broken_network(mirror: Mirror, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            get(tmp_path, mirror.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT and mirror.asked == ["", "bytes=5000-"]


def test_what_a_download_left_is_forgotten(mirror: Mirror, tmp_path: Path) -> None:
    break_off(mirror, tmp_path)
    forget(tmp_path / "file.pt")
    assert list(tmp_path.iterdir()) == [] and source(tmp_path / "file.pt") is None
    forget(tmp_path / "file.pt")


@pytest.mark.parametrize(("code", "tries"), [(404, 1), (403, 1), (401, 1), (429, 6), (500, 6), (503, 6)])
def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not(
    mirror: Mirror, tmp_path: Path, code: int, tries: int
) -> None:
    mirror.status = code
    with pytest.raises(FileError, match=f"{mirror.url}: .*{code}.*Nothing was kept"):
        get(tmp_path, mirror.url)
    assert len(mirror.headers) == tries and mirror.asked == []


@pytest.mark.parametrize("cut", [[], [5000]])
def test_a_server_that_is_busy_when_the_file_is_asked_for_is_asked_four_times(
    mirror: Mirror, tmp_path: Path, cut: list[int]
) -> None:
    mirror.busy, mirror.cut = 3, list(cut)
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    (tmp_path / "file.pt").unlink()
    mirror.asked.clear()
    mirror.busy = 4
    with pytest.raises(FileError, match="503.*Nothing was kept"):
        get(tmp_path, mirror.url)
    assert mirror.asked == [""] * 4


@pytest.mark.parametrize(
    ("length", "says"),
    [
        ("99999", "goes on with another file.*Nothing was kept"),
        ("9000", "more than the 9000 bytes that it offers.*Nothing was kept"),
        ("0", "how long"),
        ("-1", "bad Content-Length"),
        ("9e9", "bad Content-Length"),
    ],
)
def test_a_length_that_is_not_true_installs_nothing(mirror: Mirror, tmp_path: Path, length: str, says: str) -> None:
    mirror.length = length
    with pytest.raises(FileError, match=says):
        get(tmp_path, mirror.url)
    assert not (tmp_path / "file.pt").exists()


def test_a_file_without_a_mark_of_its_version_or_beyond_the_bounds_is_refused_before_it_is_written(
    mirror: Mirror, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match="at most 100 bytes; the server offers 10040"):
        get(tmp_path, mirror.url, max_bytes=100)
    mirror.etag = ""
    with pytest.raises(FileError, match="ETag"):
        get(tmp_path, mirror.url)
    assert names(tmp_path) == set() and mirror.asked == []


def test_the_next_mirror_is_tried_and_every_failure_is_told(mirror: Mirror, tmp_path: Path) -> None:
    with serve(Mirror(b"", status=404)) as gone:
        get(tmp_path, gone.url, mirror.url)
        assert (tmp_path / "file.pt").read_bytes() == CONTENT and gone.asked == []
        mirror.status = 503
        (tmp_path / "file.pt").unlink()
        with pytest.raises(FileError, match=r"answered 404 Not Found; .*answered 503.*Nothing was kept"):
            get(tmp_path, gone.url, mirror.url)
        mirror.headers.clear()
        with pytest.raises(FileError, match=r"503.*404"):
            get(tmp_path, mirror.url, gone.url)
        assert len(mirror.headers) == 1, "only the last mirror is waited for"


def test_no_token_goes_to_a_mirror(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get(tmp_path, mirror.url)
    assert len(mirror.headers) == 2 and not any("hf_secret" in str(headers) for headers in mirror.headers)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://example.org/x", "http://example.org/x", "data:,x"])
def test_a_redirect_to_elsewhere_is_refused(mirror: Mirror, tmp_path: Path, to: str) -> None:
    mirror.redirect = to
    with pytest.raises(FileError, match="redirects, but `mirror` must be an https:// address"):
        get(tmp_path, mirror.url)
    assert names(tmp_path) == set()


def test_a_redirect_is_followed_with_its_range_and_held_to_the_same_rule(mirror: Mirror, tmp_path: Path) -> None:
    with serve(Mirror(CONTENT)) as hub:
        break_off(hub, tmp_path)
        hub.moved = mirror.url  # as a hub sends large files from another host
        get(tmp_path, hub.url)
        assert mirror.asked == ["bytes=5000-"] and (tmp_path / "file.pt").read_bytes() == CONTENT
        (tmp_path / "file.pt").unlink()
        hub.moved = "http://example.org/file.pt"
        with pytest.raises(FileError, match="redirects, but `mirror` must be an https:// address"):
            get(tmp_path, hub.url)


def test_nobody_listens(tmp_path: Path) -> None:
    with serve(Mirror(b"")) as gone:
        pass
    with pytest.raises(FileError, match="refused"):
        get(tmp_path, gone.url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x",
        "file:///etc/passwd",
        "https://",
        "example.org/x",
        "http://[::1",
        "http://127.1.evil.org/x",
        "",
    ],
)
def test_only_safe_addresses_are_mirrors(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="https://"):
        get(tmp_path, url)
    assert names(tmp_path) == set()


def test_a_secure_mirror_stays_secure() -> None:
    check_url("https://example.org/x", before="https://example.com/x")
    with pytest.raises(InputError):
        check_url("http://localhost/x", before="https://example.org/x")


def test_two_processes_do_not_write_one_file(mirror: Mirror, tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / "file.pt.lock"), pytest.raises(OutputError, match="another process"):
        get(tmp_path, mirror.url)
    assert mirror.headers == []
