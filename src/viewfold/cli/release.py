"""`viewfold weights fetch` and `list`: released models onto this machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from viewfold.cli.option import unset
from viewfold.cli.progress import progress_bars


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Download a released model, check it and convert it; a download that broke off goes on."""

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """mvdream-sd21 or mvdream-sd15."""
    mirror: Annotated[tuple[str, ...], arg(metavar="URL ...", help_behavior_hint="")] = ()
    """Hubs to ask first (https://hf-mirror.com), or the file's own address. HF_ENDPOINT replaces huggingface.co."""
    sha256: Annotated[str | None, unset("HASH")] = None
    """What the file must hash to. Without it the hub is believed, and the first download's hash holds ever after."""
    offline: bool = False
    """Use what is on this machine; never touch the network. So does VIEWFOLD_OFFLINE=1."""
    keep: bool = False
    """Keep the downloaded file beside the converted folder."""

    def run(self) -> None:
        """Fetch and say where the model is, and the hash of what it came from."""
        from viewfold.weights.release import fetch, record

        try:
            with progress_bars(of_bytes=True) as report:
                folder = fetch(
                    self.name,
                    mirrors=self.mirror,
                    sha256=self.sha256,
                    offline=self.offline,
                    keep=self.keep,
                    report=report,
                )
        except KeyboardInterrupt:
            print("viewfold: stopped; what was downloaded is kept, and the same command goes on.", file=sys.stderr)
            raise SystemExit(130) from None
        known = record(self.name)
        print(f"{folder}" + (f"\nsha256 {known['sha256']} {known['url'] or known['file']}" if known else ""))


@dataclass(frozen=True, kw_only=True)
class List:
    """List the released models: which are installed, where, how large, and the hash of the file that they came from."""

    def run(self) -> None:
        """Print one line per model."""
        from viewfold.weights.release import RELEASES, installed, record

        for name in RELEASES:
            folder, known = installed(name), record(name)
            if not folder.is_dir():
                print(f"{name}: not installed; viewfold weights fetch {name}")
                continue
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            print(f"{name}: {folder}, {size / 2**30:.2f} GiB, sha256 {known['sha256'] if known else 'unknown'}")
