"""Fetch the captioned pictures of the 2D half: Microsoft's Fluent emoji (MIT), npm package @lobehub/fluent-emoji-3d.

    python recipes/pictures.py --out runs/toybox/pictures [--folder A_FOLDER_WITH_EMOJI_WEBP]

Needs npm, unless --folder names pictures that are here already.  Words that the captions of the toys never hold
(data/toybox RESERVED) are left out here too, so that they stay unseen.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"


def fetch(folder: Path) -> Path:
    """Unpack the npm package under `folder` and return where its pictures lie."""
    if shutil.which("npm") is None:
        sys.exit("npm is needed to fetch the pictures: install Node.js, or pass --folder with emoji pictures.")
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True)
    archive = next(folder.glob("*.tgz"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package" / "assets"


def main() -> None:
    """Fetch, shrink and write the pictures; a second run adds what is missing."""
    from viewfold.data.pictures import import_emoji
    from viewfold.data.toybox import RESERVED

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        source = options.folder or fetch(Path(temporary))
        report = import_emoji(source, options.out, size=options.size, without=frozenset(RESERVED))
    print(f"{options.out}: {report.done} pictures, {report.skipped} skipped, {len(report.failed)} failed")
    for name, reason in report.failed:
        print(f"  {name}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
