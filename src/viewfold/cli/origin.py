"""`viewfold provenance`: what files say of their origin, and whether pictures carry the invisible mark."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from viewfold.cli.option import unset
from viewfold.errors import AssetError, FileError, InputError
from viewfold.formats import PICTURES


@dataclass(frozen=True, kw_only=True)
class OriginFlags:
    """What the results say of their origin, and what is refused."""

    no_watermark: bool = False
    """Leave out the invisible mark that photographic models put into their pictures."""
    safety: Literal["prompt", "pictures", "off"] = "prompt"
    """What is refused: prompts that sexualise minors, sexual pictures as well (needs an extra), or nothing."""

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `generate` and `lift` that these flags stand for."""
        from viewfold.origin.hook import Origin
        from viewfold.origin.safety import PROMPT_GUARD, PictureGuard

        safety = {"prompt": PROMPT_GUARD, "pictures": PictureGuard(), "off": None}[self.safety]
        return {"origin": Origin(watermark=False if self.no_watermark else None, safety=safety)}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Say where pictures and meshes come from: the record in their fields, and the invisible mark of pictures."""

    files: Positional[Annotated[tuple[Path, ...], unset("FILES")]]
    """.png, .jpg, .webp, .gif, .glb, .obj or .ply."""
    json: bool = False
    """Print one JSON object a line, with the same facts."""

    def run(self) -> None:
        """Print what each file says; a file that cannot be read is named, and the others are read all the same."""
        if not self.files:
            raise InputError("`files` must name at least one picture or mesh.")
        failed = []
        for path in self.files:
            try:
                facts = look(path)
            except (FileError, InputError) as error:
                failed.append(path)
                if len(self.files) == 1:
                    raise
                print(f"viewfold: {error}", file=sys.stderr)
                continue
            print(json.dumps(facts) if self.json else origin_in_words(facts))
        if failed:
            raise AssetError(f"{len(failed)} of {len(self.files)} files could not be read.")


def look(path: Path) -> dict[str, Any]:
    """Return what a file says of its origin and, for a picture, the payload of its mark as eight hex digits or None."""
    from viewfold.origin.record import read_provenance
    from viewfold.origin.watermark import read
    from viewfold.picture import read_image

    said = read_provenance(path)
    facts = {
        "file": str(path),
        "record": said.record,
        "software": said.software,
        "digital_source_type": said.digital_source_type,
    }
    if path.suffix.lower() in PICTURES:
        mark = read(read_image(path)[:3])
        facts["watermark"] = None if mark is None else f"{mark:08x}"
    return facts


def origin_in_words(facts: dict[str, Any]) -> str:
    """Return the facts as a few lines for a person; what a stranger wrote is shown escaped."""
    record = facts["record"] or {}
    lines = [f"{facts['file']}:"]
    if not record:
        lines.append("  no record of viewfold")
    for name, value in {**record, **{k: facts[k] for k in ("software", "digital_source_type")}}.items():
        if value is not None and name != "watermark":
            lines.append(f"  {name.replace('_', ' ')}: {json.dumps(value).strip(chr(34))}")
    if "watermark" in facts:
        found, named = facts["watermark"], record.get("weights_sha256", "")
        agrees = f", {'as' if named.startswith(found) else 'not as'} in the record" if found and named else ""
        lines.append(f"  watermark: {found}{agrees}" if found else "  watermark: none found")
    return "\n".join(lines)
