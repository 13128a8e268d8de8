"""Models from strangers: a load succeeds or says what is wrong; it runs nothing and asks for no more than there is."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzz
import pytest
import torch
from fakes import tiny_model
from safetensors.torch import save_file

from viewfold import limits
from viewfold.errors import WeightsError
from viewfold.weights.checkpoint import read_checkpoint
from viewfold.weights.components import read_components
from viewfold.weights.folder import check_folder
from viewfold.weights.network import load_unet
from viewfold.weights.pickle_check import check_pickle

SPARE_BYTES = 2 * 2**30


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Two gigabytes more than now and no more, so that what asks for many fails at once."""
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    before = resource.getrlimit(resource.RLIMIT_AS)
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    tiny_model(folder)
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A valid model to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def safetensors(path: Path, header: dict[str, Any] | bytes, body: bytes = b"", claimed: int | None = None) -> Path:
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(packed) if claimed is None else claimed) + packed + body)
    return path


def entry(shape: list[Any], begin: int = 0, end: int = 16, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry([2**40, 2**40])},
        {"a": entry([2**62, 2])},
        {"a": entry([-1, 4])},
        {"a": entry([4], end=8)},
        {"a": entry([4], begin=16, end=0)},
        {"a": entry([4], begin=2**63, end=2**63 + 16)},
        {"a": entry([4]), "b": entry([4])},
        {"a": entry([2], end=8), "b": entry([3], begin=4)},
        {"a": entry([4], dtype="Q99")},
        {"a": entry([4], dtype="F64")},
        {"a": entry([4.5])},
        {"a": "text"},
        {"a": None},
        {},
        [],
        b"{" * 1000,
        b'{"a":' * 5000,
        b"\xff\xfe{}",
    ],
)
def test_a_table_of_contents_that_lies_is_refused(tmp_path: Path, header: Any) -> None:
    with pytest.raises(WeightsError, match="`path` must"):
        read_checkpoint(safetensors(tmp_path / "x.safetensors", header, bytes(16)))


@pytest.mark.parametrize("claimed", [0, 1, 100, 2**31, 2**63, 2**64 - 1])
def test_a_table_of_contents_longer_than_its_file_is_refused(tmp_path: Path, claimed: int) -> None:
    with pytest.raises(WeightsError, match="`path` must be a whole .safetensors"):
        read_checkpoint(safetensors(tmp_path / "x.safetensors", {"a": entry([4])}, bytes(16), claimed=claimed))


def test_a_vast_table_of_contents_is_not_parsed(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "x.safetensors", b"{}", claimed=limits.CHECKPOINT_HEADER_BYTES + 1)
    os.truncate(path, limits.CHECKPOINT_HEADER_BYTES * 2)
    with pytest.raises(WeightsError, match=f"claims a header of {limits.CHECKPOINT_HEADER_BYTES + 1} bytes"):
        read_checkpoint(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    (tmp_path / "nowhere.safetensors").symlink_to("x")
    for path in list(tmp_path.iterdir()):
        with pytest.raises(WeightsError, match="is (not a file|a folder)"):
            read_checkpoint(path)


def test_a_name_that_is_no_text_can_be_told(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.pt"))
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="must be a whole PyTorch file") as refused:
        read_checkpoint(path)
    assert rb"\udcff\udcfe.pt" in str(refused.value).encode("utf-8", "backslashreplace")  # as the error stream does


def pickled(*instructions: bytes) -> bytes:
    return b"\x80\x02" + b"".join(instructions) + b"."


def archive(path: Path, data: bytes) -> Path:
    """Write a pickle as torch.save packs it."""
    torch.save({"a": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in entries.items():
            new.writestr(name, data if name.endswith("data.pkl") else content)
    return path


def call(name: str, *arguments: bytes) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


TUPLES = b"K\x01\x85q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(100))
BOMBS = {
    "os.system": call("os system", text("touch owned")),
    "posix.system": call("posix system", text("touch owned")),
    "nt.system": call("nt system", text("touch owned")),
    "builtins.eval": call("builtins eval", text("open('owned', 'w')")),
    "builtins.getattr": call("builtins getattr", call("builtins __import__", text("os")), text("system")),
    "builtins.bytearray": call("builtins bytearray", b"\x8a\x05\x00\x00\x00\x00\x10"),
    "_codecs.encode": call("_codecs encode", text("a"), text("hex")),
    "torch.load": call("torch load", text("other.pt")),
    "torch.FloatTensor": call("torch FloatTensor", b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\x7f"),
    "a tuple of": b"}" + TUPLES + b"K\x01s",
    "calls a value": b"]q\x00(h\x00h\x00e)R",
    "names a storage": b"](\x8c\x01a\x85tQ".replace(b"\x8c\x01a\x85", b"]q\x00h\x00"),
    "instructions": b"}" + b"K\x01K\x02s" * 1000,
}


@pytest.mark.parametrize("says", BOMBS)
@pytest.mark.parametrize("packed", [True, False])
def test_a_pickle_that_does_more_than_hold_weights_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, packed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(limits, "PICKLE_OPCODES", 2000)
    data = pickled(b"}" + text("state_dict"), BOMBS[says], b"s")
    path = tmp_path / "x.pt"
    archive(path, data) if packed else path.write_bytes(data)
    with pytest.raises(WeightsError, match=says):
        read_checkpoint(path)
    assert not Path("owned").exists()


class Nested:
    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, ([("deeper", Inner())],))


class Inner:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch owned",))


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_found_however_deep_and_in_every_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.pt").write_bytes(pickle.dumps({"a": [{"b": Nested()}]}, protocol))
    with pytest.raises(WeightsError, match="`path` must"):
        read_checkpoint("x.pt")
    assert not Path("owned").exists()


@pytest.mark.slow
def test_a_pickle_as_deep_as_it_is_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="`path` must hold tensors"):
        read_checkpoint(archive(tmp_path / "x.pt", pickled(b"]" * 20_000 + b"a" * 19_999)))


@pytest.mark.parametrize("value", [{"a": 1}, [(1, 2.5, None, True)], {"x": ("y", b"z", 2**70)}, {1, 2}])
def test_harmless_values_beside_weights_are_no_reason_to_refuse(value: Any) -> None:
    check_pickle(io.BytesIO(pickle.dumps({"state_dict": {}, "state": value}, 3)), name="x.pt")


def test_a_stride_of_zero_and_weights_that_share_memory(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(2**40)}, tmp_path / "vast.pt")
    with pytest.raises(WeightsError, match="claims"):
        read_checkpoint(tmp_path / "vast.pt")
    tied = torch.zeros(1000)
    torch.save({"a": tied, "b": tied}, tmp_path / "tied.pt")
    assert set(read_checkpoint(tmp_path / "tied.pt")) == {"a", "b"}


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("number", [10**9, 10**30, -(10**9), float("inf"), float("nan")])
def test_a_number_beyond_all_models_is_refused_before_anything_is_built(tmp_path: Path, number: float) -> None:
    for name in ("config.json", "scheduler_config.json"):
        for value in (number, [8, number], {"x": [[number]]}):
            (tmp_path / name).write_text(json.dumps({"sample_size": 8, "block_out_channels": value}))
            with pytest.raises(WeightsError, match="`(block_out_channels|x)` is"):
                check_folder(tmp_path)
        (tmp_path / name).write_text(json.dumps({"num_hidden_layers": 257}))
        with pytest.raises(WeightsError, match="at most 256; `num_hidden_layers` is 257"):
            check_folder(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("unet", {"block_out_channels": [2**18, 2**18]}),
        ("unet", {"cross_attention_dim": 2**20}),
        ("vae", {"block_out_channels": [2**16, 2**16, 2**16]}),
        ("text_encoder", {"vocab_size": 2**20, "hidden_size": 2**14}),
        ("text_encoder", {"num_hidden_layers": 32, "intermediate_size": 2**18}),
    ],
)
def test_a_configuration_of_a_vast_network_allocates_nothing(model: Path, part: str, values: dict[str, Any]) -> None:
    change(model / part / "config.json", **values)
    for path in (model / part).glob("*.safetensors"):
        save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="weights that its config.json describes"):
        read_components(model)


def test_a_configuration_of_a_deep_network_takes_no_time(model: Path) -> None:
    change(model / "unet" / "config.json", layers_per_block=16, transformer_layers_per_block=[16, 16])
    with pytest.raises(WeightsError, match="weights of 512 layers"):
        read_components(model)


@pytest.mark.parametrize("values", [[1] * 65, [[[[[[[[[[1]]]]]]]]]]])
def test_a_list_beyond_all_models_is_refused(tmp_path: Path, values: list[Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"block_out_channels": values}))
    with pytest.raises(WeightsError, match="lists of at most 64, 8 deep"):
        check_folder(tmp_path)


@pytest.mark.parametrize("key", ["auto_map", "quantization_config", "backbone"])
def test_a_configuration_that_names_other_code_or_weights_is_refused(model: Path, key: str) -> None:
    change(model / "text_encoder" / "config.json", **{key: {"AutoModel": "evil/repo--code.Model"}})
    with pytest.raises(WeightsError, match=key):
        read_components(model)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.txt"])
def test_a_vast_vocabulary_is_not_read(model: Path, name: str) -> None:
    path = model / "tokenizer" / name
    path.touch()
    os.truncate(path, limits.FOLDER_TEXT_BYTES + 1)
    with pytest.raises(WeightsError, match=rf"{name}` must be at most {limits.FOLDER_TEXT_BYTES} bytes"):
        read_components(model)


@pytest.mark.parametrize("target", ["/dev/zero", "nowhere", "pipe"])
def test_a_folder_of_what_are_no_files_is_refused(model: Path, target: str) -> None:
    os.mkfifo(model / "pipe")
    for part in ("tokenizer", "unet"):
        path = next((model / part).glob("*.json"))
        path.rename(model / path.name)
        path.symlink_to(model / target if target == "pipe" else target)
        with pytest.raises(WeightsError, match=r"must be a file; it (is a pipe|cannot be read)"):
            read_components(model)
        path.unlink()
        path.symlink_to(model / path.name)  # as the caches of downloads do
    read_components(model)


@pytest.mark.parametrize("shard", ["../../unet/diffusion_pytorch_model.safetensors", "/etc/passwd", "absent", 3, None])
def test_weights_do_not_come_from_elsewhere(model: Path, shard: Any) -> None:
    index = {"metadata": {}, "weight_map": {"conv_in.weight": shard}}
    (model / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="files that lie beside it"):
        read_components(model)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_that_is_missing_or_empty_is_named(model: Path, part: str) -> None:
    shutil.rmtree(model / part)
    with pytest.raises(WeightsError, match=part):
        read_components(model)
    (model / part).mkdir()
    with pytest.raises(WeightsError, match=part):
        read_components(model)


def test_an_adapter_in_the_place_of_a_network_is_refused(model: Path) -> None:
    (model / "unet" / "adapter_config.json").write_text('{"base_model_name_or_path": "../elsewhere"}')
    with pytest.raises(WeightsError, match="adapter"):
        load_unet(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(fuzz.KINDS))
def test_damaged_files_are_read_or_say_why(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A little of `python tests/fuzz.py`; whatever else is raised fails here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sources = fuzz.samples(kind, tmp_path / "good")
    outcomes = set()
    for case in range(60):
        folder = tmp_path / str(case)
        folder.mkdir()
        of = [path for path in sources if kind != "models" or path.is_dir() == (case % 20 == 0)]
        outcomes.add(fuzz.read(*fuzz.prepare(case, {kind: of}, folder)))
        shutil.rmtree(folder)
    assert outcomes >= {"refused", "loaded"}
