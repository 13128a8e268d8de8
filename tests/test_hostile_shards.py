"""Shards that a stranger broke on purpose: each is one line that names it, in no time and little memory."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_shards import SHAPE, as_npy, write_shards

from viewfold.data.batches import LatentSet
from viewfold.errors import AssetError, ViewfoldError

GOOD = np.zeros((8, *SHAPE), np.float16)


def write(folder: Path, members: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "shard-00000.tar", "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder


def described(text: str, body: bytes = b"") -> bytes:
    """A .npy file with a header of one's own."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + body


HEADER = "{'descr': '%s', 'fortran_order': %s, 'shape': %s}\n"
SAID = json.dumps({"captions": ["a"]}).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (described(HEADER % ("<f2", "False", "(1000000000, 4, 1000, 1000)")), "0 bytes for an array of the shape"),
        (described(HEADER % ("<f2", "False", f"({'9' * 4000}, 4, 4, 4)")), "bytes for an array"),
        (described(HEADER % ("|O", "False", "(8, 4, 4, 4)"), b"cos\nsystem\n(S'true'\ntR."), "an array of |O"),
        (described(HEADER % ("<f2", "True", "(8, 4, 4, 4)"), bytes(1024)), "Fortran"),
        (described(HEADER % (">f2", "False", "(8, 4, 4, 4)"), bytes(1024)), "an array of >f2"),
        (described("{'descr': [('a', '<f2', (4, 4))], 'fortran_order': False, 'shape': (8,)}"), "an array of"),
        (described("(" * 7000 + "\n"), "floats"),
        (described("x" * 9000), "a header of 9000 bytes"),
        (described(HEADER % ("<f2", "False", "(8, 4, -4, 4)")), "the shape"),
        (described(HEADER % ("<f2", "False", "(8, True, 4, 4)")), "the shape"),
        (described("{}"), "'descr'"),
        (as_npy(GOOD)[:500], "372 bytes for an array"),
        (as_npy(GOOD) + b"x", "1025 bytes for an array"),
        (b"", "no array of NumPy"),
        (b"\x93NUMPY\x03\x00\xff\xff\xff\xff", "a header of"),
        (as_npy(GOOD.astype(np.int16)), "an array of <i2"),
        (as_npy(np.full((8, *SHAPE), 1e30, np.float32)), "finite latents"),
    ],
)  # fmt: skip
def test_arrays_are_what_they_say_or_are_refused(content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="1 of 1 samples cannot be trained on") as error:
        LatentSet(write(tmp_path, {"a.json": SAID, "a.latents.npy": content}))
    assert says in str(error.value) and "`a" in str(error.value) and len(str(error.value)) < 500


def test_a_log_variance_whose_samples_would_be_infinite_is_refused(tmp_path: Path) -> None:
    """They were finite in the file, and infinite in a batch."""
    moments = np.stack([GOOD, np.full_like(GOOD, -4)], axis=1)
    moments[3, 1, 0, 0, 0] = 1000
    with pytest.raises(AssetError, match=r"log variances of at most 30; got 1000\. Pack it again"):
        LatentSet(write(tmp_path, {"a.json": SAID, "a.moments-080.npy": as_npy(moments)}))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 100_000, "cannot be read"),
        (b'{"a":' * 100_000, "cannot be read"),
        (b"1" * 10_000, "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (json.dumps({"captions": ["x" * 10_001]}).encode(), "at most 10000 letters"),
        (json.dumps({"captions": ["x"] * 5000}).encode(), "at most 4096 captions"),
        (b'{"captions": ["\\ud800"]}', "whole letters"),
        (json.dumps({"captions": ["x"], "render": {"orbits": 10**9}}).encode(), "at least 1 orbit"),
        (b'{"captions": ["x"], "views": [{"world_from_camera": [1e400], "fov_deg": 1}]}', "poses"),
        (json.dumps({"captions": ["x"], "views": {"a": 1}}).encode(), "poses"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_sample_is_of_a_reasonable_size(content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="`a.json`") as error:
        LatentSet(write(tmp_path, {"a.json": content, "a.latents.npy": as_npy(GOOD)}))
    assert says in str(error.value) and len(str(error.value)) < 1000


def test_a_tar_that_is_a_pipe_a_bomb_or_cut_short_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shard-00001.tar")
    with pytest.raises(AssetError, match="shard-00001.tar` cannot be read: it is a pipe"):
        LatentSet(tmp_path)
    (tmp_path / "shard-00001.tar").unlink()
    head = tarfile.TarInfo("long")
    head.type, head.size = tarfile.XHDTYPE, 2**32
    with (tmp_path / "shard-00000.tar").open("wb") as file:
        file.write(head.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(2**33)  # a sparse file: it is as long as it says
    with pytest.raises(AssetError, match=r"shard-00000.tar` cannot be read: a header of 4294967296 bytes"):
        LatentSet(tmp_path)
    whole = (write_shards(tmp_path / "whole") / "shard-00000.tar").read_bytes()
    for length in (0, 100, 512, 700, 5000, len(whole) // 2):
        (tmp_path / "shard-00000.tar").write_bytes(whole[:length])
        with pytest.raises(AssetError, match="shard-00000.tar"):
            LatentSet(tmp_path)


@pytest.mark.slow
def test_shards_with_changed_bytes_give_numbers_or_one_line(tmp_path: Path) -> None:
    whole = (write_shards(tmp_path, samples=3, views=4) / "shard-00000.tar").read_bytes()
    rng, before = random.Random(0), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"drawn": 0, "refused": 0}
    until = time.monotonic() + 20
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 3, 30))):
            at = rng.randrange(len(content))
            content[at] = rng.choice((0, 255, rng.randrange(256), ord("9"), content[at] ^ 1))
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        (tmp_path / "shard-00000.tar").write_bytes(content)
        try:
            batch = LatentSet(tmp_path, views=4).draw(4, torch.Generator().manual_seed(0), views=4)
            assert bool(batch.latents.isfinite().all())
            outcomes["drawn"] += 1
        except ViewfoldError as error:
            assert len(str(error)) < 2000
            outcomes["refused"] += 1
        if time.monotonic() > until:
            break
    assert min(outcomes.values()) > 10, outcomes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, "KiB"
