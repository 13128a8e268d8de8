"""Where a file comes from, in the file's own fields: the record, how each format holds it, and how it is read back.

A record says that a model made something: which (name and hash of the weights), from which prompt (its hash; the text
stays with its writer), with which seed, and IPTC's digital source type for it.  What no model made gets no record.
Formats: PNG text and XMP; WebP EXIF and XMP; GIF, OBJ and PLY comment; GLB `asset.generator` and `asset.extras`; USDZ
the fields of its textures, and its layer's comment; STL one word in its 80 bytes, that a model made it.

Anyone can strip or forge these fields: they inform, they prove nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from viewfold import limits
from viewfold.errors import AssetError, InputError
from viewfold.formats import MESHES, PICTURES
from viewfold.label import software
from viewfold.store import open_regular

Record = dict[str, Any]

TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC NewsCodes, digital source type: made by a model trained on samples."""

FIELDS = {
    "software": str,
    "digital_source_type": str,
    "model": str,
    "weights_sha256": str,
    "prompt_sha256": str,
    "seed": int,
    "watermark": str,
}
"""What a record may hold; anything else in a file is not passed on."""

_SOFTWARE_TAG, _DESCRIPTION_TAG = 0x0131, 0x010E  # of TIFF 6.0, used by EXIF
_XMP_KEY = "XML:com.adobe.xmp"  # of PNG, by the XMP specification, part 3
_MARKER = "viewfold provenance "
_STL_HEADER_BYTES = 80
_ZIP_HEAD = struct.Struct("<4s4xH8xI4xHH")  # a local file header: method, stored bytes, length of name and of the rest
_USDZ_FILES = 64
"""Files of a package that are looked through for a picture."""
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmp:CreatorTool={tool} Iptc4xmpExt:DigitalSourceType={kind}/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True, kw_only=True)
class FileOrigin:
    """What a file's fields say of its origin."""

    record: Record | None
    """Ours, if there is one."""

    software: str | None
    """The program that the file names."""

    digital_source_type: str | None
    """IPTC's, whoever wrote it."""


def record(*, model: str, weights_sha256: str, prompt: str, seed: int, watermark: bool) -> Record:
    """Return the record of what a model made.

    Args:
        model: its name; of a path only the last part is kept.
        weights_sha256: its first 32 bits are the watermark's payload.
        prompt: only its SHA-256 is kept.
        seed: of the run.
        watermark: whether the pictures carry the mark.
    """
    return {
        "software": software(),
        "digital_source_type": TRAINED_ALGORITHMIC_MEDIA,
        "model": Path(model).name[: limits.RECORD_TEXT],
        "weights_sha256": weights_sha256,
        "prompt_sha256": hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest(),
        "seed": seed,
        **({"watermark": weights_sha256[:8]} if watermark else {}),
    }


def cleaned(found: object) -> Record | None:
    """Return what of a stranger's record is one: known fields, of the right kind, of a bounded length."""
    if not isinstance(found, dict):
        return None
    kept = {name: found[name] for name, kind in FIELDS.items() if type(found.get(name)) is kind}
    kept = {name: value[: limits.RECORD_TEXT] if isinstance(value, str) else value for name, value in kept.items()}
    return kept or None


def payload(record: object) -> int | None:
    """Return the number that the watermark of a record carries, None without one."""
    mark = (cleaned(record) or {}).get("watermark", "")
    return int(mark, 16) if re.fullmatch(r"[0-9a-f]{8}", mark) else None


def given_places(record: object) -> list[Any]:
    """Return which pictures of a folder no model drew: they were given, and their files claim nothing."""
    given = record.get("given") if isinstance(record, dict) else None
    return given if isinstance(given, list) else []


def picture_fields(record: object, *, suffix: str) -> dict[str, Any]:
    """Return the options of Pillow's `save` that put a record into a .png, .webp or .gif; none without a record."""
    known = cleaned(record)
    if known is None:
        return {}
    tool = str(known.get("software", "viewfold"))
    kind = str(known.get("digital_source_type", ""))
    packet = _XMP.format(tool=quoteattr(tool), kind=quoteattr(kind))
    match suffix:
        case ".png":
            from PIL.PngImagePlugin import PngInfo

            info = PngInfo()
            info.add_text("Software", tool)
            info.add_text("Comment", json.dumps(known))
            info.add_itxt(_XMP_KEY, packet)
            return {"pnginfo": info}
        case ".webp":
            from PIL import Image

            exif = Image.Exif()
            exif[_SOFTWARE_TAG], exif[_DESCRIPTION_TAG] = tool, json.dumps(known)
            return {"exif": exif.tobytes(), "xmp": packet.encode()}
        case ".gif":
            return {"comment": json.dumps(known).encode()}
    return {}


def glb_extras(record: object) -> dict[str, Any]:
    """Return what belongs into a glTF's `asset` beside the program that wrote it: nothing without a record."""
    known = cleaned(record)
    return {"extras": {"provenance": known}} if known else {}


def comment(record: object) -> str:
    """Return a record as one line for formats that have comments; "" without one."""
    known = cleaned(record)
    return _MARKER + json.dumps(known) if known else ""


def read_provenance(path: str | Path) -> FileOrigin:
    """Read what a picture (.png, .jpg, .webp, .gif) or a mesh (.glb, .obj, .ply, .stl, .usdz) says of its origin.

    Of a USDZ its textures alone are read.

    Only headers and text fields are read, never more than 16 MiB.

    Raises:
        InputError: another suffix.
        AssetError: the file is missing, damaged or not what its suffix says.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*PICTURES, *MESHES):
        raise InputError(f"`path` must end in one of {', '.join((*PICTURES, *MESHES))}; got '{path.name}'.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on fields that it cannot parse
            if suffix in PICTURES:
                return _read_picture(path, PICTURES[suffix])
            return _MESH_READERS.get(suffix, _read_header)(path)
    except Exception as error:  # a stranger's fields make the libraries fail in every way
        reason = getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
        raise AssetError(f"`{path}` cannot be read as {suffix[1:].upper()}: {reason}.") from error


def _read_picture(path: Path, kind: str) -> FileOrigin:
    with open_regular(path) as file:
        return _picture_origin(file, kind)


def _picture_origin(file: io.BufferedReader | io.BytesIO, kind: str) -> FileOrigin:
    from PIL import Image

    with Image.open(file, formats=[kind]) as picture:
        fields, exif = picture.info, picture.getexif()
        said = fields.get("Comment") or fields.get("comment") or exif.get(_DESCRIPTION_TAG)
        packet = fields.get(_XMP_KEY) or fields.get("xmp") or b""
        tool = fields.get("Software") or exif.get(_SOFTWARE_TAG)
    packet = (packet.encode() if isinstance(packet, str) else bytes(packet))[: limits.RECORD_XMP_BYTES]
    match = re.search(rb'DigitalSourceType\s*(?:=\s*["\']|>)\s*([^"\'<]{1,256})', packet)
    return _provenance(_parsed(said), tool, match[1].decode("utf-8", "replace").strip() if match else None)


def _read_glb(path: Path) -> FileOrigin:
    with open_regular(path) as file:
        head = file.read(20)
        if len(head) < 20 or head[:4] != b"glTF" or head[16:20] != b"JSON":
            raise ValueError("it does not start like a GLB file")
        (length,) = struct.unpack("<I", head[12:16])
        if length > limits.RECORD_TREE_BYTES:
            raise ValueError(f"its description has {length} bytes; at most {limits.RECORD_TREE_BYTES} are read")
        text = file.read(length)
    if len(text) < length:
        raise ValueError("it is cut off")
    tree = json.loads(text)
    asset = tree.get("asset") if isinstance(tree, dict) else None
    if not isinstance(asset, dict):
        raise ValueError("it has no `asset`")
    extras = asset.get("extras")
    return _provenance(extras.get("provenance") if isinstance(extras, dict) else None, asset.get("generator"), None)


def _read_header(path: Path) -> FileOrigin:
    with open_regular(path) as file:
        head = file.read(limits.RECORD_HEAD_BYTES)
    if path.suffix.lower() == ".ply" and not head.startswith(b"ply"):
        raise ValueError("it does not start like a PLY file")
    match = re.search(rb"^(?:#|comment) " + _MARKER.encode() + rb"(\{.*\})\s*$", head, re.MULTILINE)
    return _provenance(_parsed(match[1]) if match else None, None, None)


def _read_stl(path: Path) -> FileOrigin:
    with open_regular(path) as file:
        head = file.read(_STL_HEADER_BYTES)
    tool = head.split(b",")[0].decode("latin-1") if head.startswith(b"viewfold ") else None
    word = TRAINED_ALGORITHMIC_MEDIA.rpartition("/")[2].encode()
    return _provenance(None, tool, TRAINED_ALGORITHMIC_MEDIA if word in head else None)


def _read_usdz(path: Path) -> FileOrigin:
    """Read the first texture of a package, whose files are stored as they are, one behind the other."""
    with open_regular(path) as file:
        for _ in range(_USDZ_FILES):
            head = file.read(_ZIP_HEAD.size)
            if len(head) < _ZIP_HEAD.size or head[:4] != b"PK\x03\x04":
                break
            _, method, size, name_length, extra_length = _ZIP_HEAD.unpack(head)
            name = file.read(name_length)
            file.seek(extra_length, 1)
            if name.lower().endswith(b".png") and not method:
                return _picture_origin(io.BytesIO(file.read(min(size, limits.RECORD_HEAD_BYTES))), "PNG")
            file.seek(size, 1)
        else:
            raise ValueError(f"none of its first {_USDZ_FILES} files is a picture")
        if file.tell() <= _ZIP_HEAD.size:
            raise ValueError("it does not start like a USDZ file")
    return _provenance(None, None, None)


_MESH_READERS: dict[str, Callable[[Path], FileOrigin]] = {".glb": _read_glb, ".stl": _read_stl, ".usdz": _read_usdz}


def _parsed(text: object) -> object:
    """Return the JSON of a text field; None if it is something else, which others' comments are."""
    try:
        return json.loads(text) if isinstance(text, str | bytes) and len(text) <= limits.RECORD_HEAD_BYTES else None
    except (ValueError, RecursionError):
        return None


def _provenance(found: object, tool: object, kind: str | None) -> FileOrigin:
    known = cleaned(found)
    named = known.get("software") if known else None
    return FileOrigin(
        record=known,
        software=str(tool).strip("\0 ")[: limits.RECORD_TEXT] if tool else named,
        digital_source_type=kind or (known.get("digital_source_type") if known else None),
    )
