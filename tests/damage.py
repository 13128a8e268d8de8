"""Damage to files of any kind and to whole folders, drawn from a seed; `fuzz.py` reads what comes out."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import pickletools
import random
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUMBERS = [0, 1, -1, 2, 7, 255, 2**16, 2**20, 2**31 - 1, 2**31, 2**32, 10**9, 2**53, 2**63 - 1, 2**64, 10**40, 1e308]
VALUES = [
    None,
    True,
    False,
    "",
    "x",
    "../../../etc/passwd",
    "/dev/zero",
    "\0",
    "é" * 9,
    [],
    {},
    [[]],
    0.5,
    float("nan"),
]
CALLS = ["os system", "builtins eval", "posix system", "subprocess Popen", "builtins getattr", "builtins bytearray"]
CALLS += [
    "_codecs encode",
    "torch load",
    "torch.serialization load",
    "torch._utils _rebuild_sparse_tensor",
    "torch Tensor",
]
CALLS += ["torch FloatTensor", "torch._tensor _rebuild_from_type_v2", "collections Counter", "torch.hub load"]
OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
KEYS = ["auto_map", "quantization_config", "", "num_layers", "_class_name", "x"]


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, insert or overwrite; near the beginning or the end more often than not."""
    if not data:
        return bytes(rng.randbytes(rng.randrange(64)))
    span = rng.choice([16, 256, len(data)])
    at = min(len(data) - 1, rng.randrange(span)) if rng.random() < 0.6 else max(0, len(data) - 1 - rng.randrange(span))
    size = rng.choice([1, 4, 8, 64, 1024])
    number = int(rng.choice(NUMBERS)) % 2**64
    match rng.randrange(7):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + data[at : at + size] * rng.choice([2, 3, 100]) + data[at + size :]
        case 3:
            return data[:at] + rng.randbytes(size) + data[at:]
        case 4:
            return data[:at] + data[at + size :]
        case 5:
            packed = number.to_bytes(8, rng.choice(["little", "big"]))[: rng.choice([1, 2, 4, 8])]
            return data[:at] + packed + data[at + len(packed) :]
        case _:
            other = rng.randrange(len(data))
            return data[:at] + data[other : other + size] + data[at + size :]


def damage_value(value: Any, rng: random.Random) -> Any:
    """Change one place of a JSON document."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        value = copy.copy(value)
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                value.pop(key)
            case 1 if isinstance(value, dict):
                value[rng.choice(KEYS)] = value[key]
            case 1:
                value.extend(value * rng.choice([1, 50]))
            case _:
                value[key] = damage_value(value[key], rng)
        return value
    deep: Any = []
    for _ in range(rng.choice([3, 100, 5000])):
        deep = [deep]
    return rng.choice([*NUMBERS, *VALUES, deep, str(value) * 3, [value] * 3, {"x": value}])


def damage_json(data: bytes, rng: random.Random) -> bytes:
    try:
        made = damage_value(json.loads(data), rng)
        text = json.dumps(made)
        if isinstance(made, dict) and made and rng.random() < 0.1:  # a name that occurs twice
            name = rng.choice(list(made))
            text = f"{{{json.dumps(name)}: {json.dumps(damage_value(made[name], rng))}, {text[1:]}"
        return text.encode()
    except (ValueError, RecursionError):
        return damage_bytes(data, rng)


def damage_header(data: bytes, rng: random.Random) -> bytes:
    """Change the table of contents of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    if size > len(data):
        return damage_bytes(data, rng)
    header = damage_json(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def damage_pickle(data: bytes, rng: random.Random) -> bytes:
    """Remove, repeat, exchange or add instructions."""
    try:
        starts = [at for _, _, at in pickletools.genops(data) if at is not None] + [len(data)]
    except Exception:  # already damaged
        return damage_bytes(data, rng)
    parts = [data[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    at = rng.randrange(len(parts))
    call = b"c" + rng.choice(CALLS).replace(" ", "\n").encode() + b"\n"
    argument = rng.choice(
        [b"X\x0b\x00\x00\x00touch owned\x85R", b"\x8a\x05\x00\x00\x00\x00\x10\x85R", b")R", b"}b", b"\x85\x81"]
    )
    match rng.randrange(7):
        case 0:
            parts.pop(at)
        case 1:
            parts.insert(at, parts[rng.randrange(len(parts))])
        case 2:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        case 3:
            parts.insert(at, rng.choice(OPCODES) + rng.randbytes(rng.choice([0, 1, 4])))
        case 4:
            parts.insert(at, call + argument)
        case 5:
            parts[at] = damage_bytes(parts[at], rng)
        case _:
            globals_at = [i for i, part in enumerate(parts) if part.startswith(b"c")] or [at]
            parts[rng.choice(globals_at)] = call
    return b"".join(parts)


def damage_archive(data: bytes, rng: random.Random) -> bytes:
    """Change the pickle in a zip file, or what is around it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # already damaged
        return damage_bytes(data, rng)
    if not entries:  # an end without a beginning is an archive too
        return damage_bytes(data, rng)
    at = next((i for i, (name, _) in enumerate(entries) if name.endswith("data.pkl")), 0)
    match rng.randrange(10):
        case 0 if len(entries) > 1:
            entries.pop(rng.randrange(len(entries)))
        case 1:
            i = rng.randrange(len(entries))
            entries[i] = (
                rng.choice(
                    ["../x", "/x", "\udc80".encode("utf-8", "surrogatepass").decode("latin1"), "archive/constants.pkl"]
                ),
                entries[i][1],
            )
        case _:
            entries[at] = (entries[at][0], damage_pickle(entries[at][1], rng))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        with zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED])) as archive:
            for name, content in entries:
                archive.writestr(name, content)
    return file.getvalue()


def damage_glb(data: bytes, rng: random.Random) -> bytes:
    """Change the description in a GLB, and leave its lengths right; or exchange, repeat or leave out its chunks."""
    if len(data) < 20:
        return damage_bytes(data, rng)
    if rng.random() < 0.15:
        chunks, at = [], 12
        while at + 8 <= len(data):
            end = at + 8 + struct.unpack_from("<I", data, at)[0]
            chunks.append(data[at:end])
            at = end
        body = b"".join(rng.choices(chunks, k=rng.choice([1, 2, 3])))
        return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body
    (length,) = struct.unpack_from("<I", data, 12)
    text = damage_json(data[20 : 20 + length], rng)
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    head = struct.pack("<4sIIII", b"glTF", 2, (20 + len(text) + len(rest)) % 2**32, len(text) % 2**32, 0x4E4F534A)
    return head + text + rest


def damage_words(data: bytes, rng: random.Random) -> bytes:
    """Change numbers, words or lines of a text."""
    words = re.split(rb"(\s+)", data)
    for _ in range(rng.choice([1, 3, 30])):
        at = rng.randrange(len(words))
        other = rng.choice([*NUMBERS, "nan", "-inf", "1/2/3", "-1//-1", "", "#", "\\", '"', "\udc80", "x" * 5000, "\0"])
        words[at] = rng.choice([words[rng.randrange(len(words))], str(other).encode("utf-8", "surrogateescape")])
    return b"".join(words)


def damage_tar(data: bytes, rng: random.Random) -> bytes:
    """Change a member of a tar, its name or its kind, and leave the tar whole."""
    made, damages = io.BytesIO(), {"json": damage_json, "csv": damage_words, "txt": damage_words}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as old:
            members = [(member, old.extractfile(member)) for member in old.getmembers()]
            with tarfile.open(fileobj=made, mode="w", pax_headers=dict(old.pax_headers)) as new:
                chosen = rng.randrange(len(members))
                for number, (member, file) in enumerate(members):
                    content = file.read() if file else b""
                    if number == chosen:
                        content = damages.get(member.name.rpartition(".")[2], damage_bytes)(content, rng)
                        if rng.random() < 0.3:
                            member.name = rng.choice(
                                [members[0][0].name, "../x.json", "/x.png", "x", "a/b.c.d", "é" * 90]
                            )
                        if rng.random() < 0.1:
                            member.type = rng.choice([tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, b"V", b"S"])
                    member.size = len(content) if member.isreg() else 0
                    new.addfile(member, io.BytesIO(content))
    except (tarfile.TarError, ValueError, OSError, LookupError, RecursionError):  # already damaged
        return damage_bytes(data, rng)
    return made.getvalue()


def damage_packed(data: bytes, rng: random.Random) -> bytes:
    """Change the JSON that is packed with gzip."""
    try:
        return gzip.compress(damage_json(gzip.decompress(data), rng))
    except (OSError, EOFError, zlib.error):
        return damage_bytes(data, rng)


OF_SUFFIX = {
    ".json": damage_json, ".gltf": damage_json, ".safetensors": damage_header, ".glb": damage_glb, ".tar": damage_tar,
    ".obj": damage_words, ".mtl": damage_words, ".ply": damage_words, ".csv": damage_words, ".txt": damage_words,
    ".jsonl": damage_words, ".gz": damage_packed,
}  # fmt: skip


def damage_file(path: Path, rng: random.Random) -> None:
    """Change a file in a way of its own kind, or as bytes."""
    data = path.read_bytes()
    kind: Callable[[bytes, random.Random], bytes] = damage_bytes
    if rng.random() < 0.75:
        kind = OF_SUFFIX.get(path.suffix, damage_bytes)
        if path.suffix == ".pt":
            kind = damage_archive if data[:2] == b"PK" else damage_pickle
    path.write_bytes(kind(data, rng))


def damage_folder(folder: Path, rng: random.Random) -> None:
    """Change one file of a folder, or what it is."""
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()) or [folder / "x"])
    if rng.random() < 0.85 and path.is_file():
        return damage_file(path, rng)
    if path.is_dir():
        return None
    path.unlink(missing_ok=True)
    match rng.randrange(7):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(rng.choice(["/dev/zero", "/dev/tty", "nowhere", "/etc/passwd", "..", path.name]))
        case 3:
            odd = Path(os.fsdecode(os.fsencode(path.with_name("x")) + b"\xff\xfe"))
            if not odd.exists():
                odd.write_bytes(b"x")
        case 4:
            path.write_bytes(rng.randbytes(100))
        case 5:
            path.write_bytes(b"")
        case _:
            pass
