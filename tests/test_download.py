"""Downloads over a network that breaks, lies and changes its mind."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from server import Mirror, serve

from viewfold.errors import FileError, InputError, OutputError
from viewfold.weights import download as module
from viewfold.weights.download import Source, check_url, download, source

CONTENT = bytes(range(251)) * 40


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setattr(module, "TIMEOUT_S", 5.0)
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
    download([mirror.url], tmp_path / "file.pt", max_bytes=10**6, progress=lambda *at: seen.append(at))
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert mirror.asked == [""]
    assert (found := source(tmp_path / "file.pt")) is not None and found.url == mirror.url


def test_a_connection_that_breaks_is_gone_on_from(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cut = [5000, 100]
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert mirror.asked == ["", "bytes=5000-", "bytes=5100-"]


def break_off(mirror: Mirror, path: Path, at: int = 5000) -> None:
    """Leave the beginning of the file behind, as a broken network does."""
    mirror.cut = [at] + [0] * module.ATTEMPTS
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


def test_a_stop_in_the_middle_keeps_what_came(mirror: Mirror, tmp_path: Path) -> None:
    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download([mirror.url], tmp_path / "file.pt", max_bytes=10**6, progress=stop)
    assert (tmp_path / "file.pt.part").read_bytes() == CONTENT
    mirror.asked.clear()
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT and mirror.asked == []


def test_a_server_that_knows_no_ranges_starts_again(mirror: Mirror, tmp_path: Path) -> None:
    break_off(mirror, tmp_path)
    mirror.ranges = False
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.parametrize("length", [len(CONTENT), 7000, 4000])
def test_a_file_that_changed_in_between_is_not_patched_together(
    mirror: Mirror, tmp_path: Path, checks: bool, length: int
) -> None:
    break_off(mirror, tmp_path)
    mirror.content, mirror.etag, mirror.checks = CONTENT[::-1][:length], '"second"', checks
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == mirror.content


def test_without_a_mark_of_its_version_a_file_is_not_resumed(mirror: Mirror, tmp_path: Path) -> None:
    mirror.etag = ""
    mirror.cut = [5000]
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert mirror.asked == ["", ""]


def test_a_weak_mark_says_nothing_of_bytes_but_a_date_does(mirror: Mirror, tmp_path: Path) -> None:
    """`W/` promises the same meaning, not the same bytes."""
    mirror.etag, mirror.cut = 'W/"first"', [5000]
    get(tmp_path, mirror.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT and mirror.asked == ["", ""]
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    for etag, modified, expected in (
        ('"a"', date, '"a"'),
        ('W/"a"', date, date),
        ("", date, date),
        ('W/"a"', None, ""),
    ):
        headers = {"ETag": etag} | ({"Last-Modified": modified} if modified else {})
        assert module._validator(SimpleNamespace(headers=headers)) == expected


def test_only_the_rest_of_the_same_file_goes_on() -> None:
    known = Source(url="https://a.org/x", size=100, validator='"a"')
    for begins, etag, goes_on in (
        ("bytes 40-99/100", '"a"', True),
        ("bytes 40-99/100", "", True),
        ("bytes 40-99/100", '"b"', False),
        ("bytes 41-99/100", '"a"', False),
        ("bytes 40-98/100", '"a"', False),
        ("bytes 40-99/101", '"a"', False),
        ("", '"a"', False),
    ):
        response = SimpleNamespace(headers={"Content-Range": begins, "ETag": etag})
        assert module._continues(response, known, 40) is goes_on


def test_tries_count_from_the_last_new_byte_and_pauses_double(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module, "PAUSE_S", 1.0)
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    mirror.cut = [0, 0, 0, 100, 0, 0, 0]
    with pytest.raises(FileError, match="100 bytes are kept"):
        get(tmp_path, mirror.url)
    assert pauses == [1, 2, 4, 1, 2, 4] and len(mirror.asked) == 7


def test_room_is_counted_with_what_is_there_and_what_must_be_spared(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")

    def free(n: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, n))

    free(3 * len(CONTENT) - 1)
    with pytest.raises(OutputError, match="GiB of space"):
        download([mirror.url], tmp_path / "file.pt", max_bytes=10**6, spare=2)
    free(3 * len(CONTENT))
    download([mirror.url], tmp_path / "file.pt", max_bytes=len(CONTENT), spare=2)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


def test_what_a_download_left_is_forgotten(mirror: Mirror, tmp_path: Path) -> None:
    break_off(mirror, tmp_path)
    module.forget(tmp_path / "file.pt")
    assert list(tmp_path.iterdir()) == [] and source(tmp_path / "file.pt") is None
    module.forget(tmp_path / "file.pt")


@pytest.mark.parametrize(
    ("code", "tries"), [(404, 1), (403, 1), (408, 4), (425, 4), (429, 4), (500, 4), (503, 4), (499, 1)]
)
def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not(
    mirror: Mirror, tmp_path: Path, code: int, tries: int
) -> None:
    mirror.status = code
    with pytest.raises(FileError, match=str(code)):
        get(tmp_path, mirror.url)
    assert len(mirror.asked) == tries == (module.ATTEMPTS if tries > 1 else 1)


@pytest.mark.parametrize(
    ("length", "says"),
    [("99999", "another file than it began"), ("0", "how long"), ("-1", "how long"), ("9e9", "how long")],
)
def test_a_length_that_is_not_true_installs_nothing(mirror: Mirror, tmp_path: Path, length: str, says: str) -> None:
    mirror.length = length
    with pytest.raises(FileError, match=says):
        get(tmp_path, mirror.url)
    assert not (tmp_path / "file.pt").exists()


def test_a_file_beyond_the_bounds_is_refused_before_it_is_written(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileError, match="at most 100 bytes; the server offers 10040"):
        get(tmp_path, mirror.url, max_bytes=100)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, len(CONTENT) - 1))
    with pytest.raises(OutputError, match="GiB of space"):
        get(tmp_path, mirror.url)
    assert names(tmp_path) == set()


def test_the_next_mirror_is_tried_and_every_failure_is_told(mirror: Mirror, tmp_path: Path) -> None:
    with serve(Mirror(b"", status=404)) as gone:
        get(tmp_path, gone.url, mirror.url)
        assert (tmp_path / "file.pt").read_bytes() == CONTENT and gone.asked == [""]
        mirror.status = 503
        (tmp_path / "file.pt").unlink()
        with pytest.raises(FileError, match=r"404.*503.*Nothing was kept"):
            get(tmp_path, gone.url, mirror.url)
    assert len(mirror.asked) == 1 + module.ATTEMPTS


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://example.org/x", "http://example.org/x", "data:,x"])
def test_a_redirect_to_elsewhere_is_refused(mirror: Mirror, tmp_path: Path, to: str) -> None:
    mirror.redirect = to
    with pytest.raises(FileError, match="(?i)redirect"):
        get(tmp_path, mirror.url)
    assert names(tmp_path) == set()


def test_a_redirect_to_a_mirror_is_followed_with_its_range(mirror: Mirror, tmp_path: Path) -> None:
    with serve(Mirror(b"", redirect=mirror.url)) as hub:
        mirror.cut = [5000]
        get(tmp_path, hub.url)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert mirror.asked == ["", "bytes=5000-"]


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
    assert mirror.asked == []
