"""Put a trained model into the package: half precision, files under 15 MB.

    python recipes/ship.py --model runs/toybox/run/model --out src/viewfold/models/toybox

The text encoder and the tokenizer that are there already stay as they are: training never changes them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

FROZEN = ("text_encoder", "tokenizer")


def ship(model_folder: Path, out: Path) -> list[Path]:
    """Write a trained model, halved, over the one in `out`; return its files."""
    from viewfold.pipeline import MultiViewPipeline
    from viewfold.store import atomic_write

    model = MultiViewPipeline.from_pretrained(model_folder, torch_dtype=torch.float16)
    model.vae.half()  # the pipeline computes with it in float32, and would write that
    with atomic_write(out) as folder:
        model.save_pretrained(folder, max_shard_size="14MB")
        for part in ("unet", "vae"):  # where it was trained is nobody's business
            path = folder / part / "config.json"
            config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
            path.write_text(json.dumps(config, indent=2) + "\n")
        for part in FROZEN:
            if (out / part).is_dir():
                shutil.rmtree(folder / part)
                shutil.copytree(out / part, folder / part)
    return [path for path in out.rglob("*") if path.is_file()]


def main() -> None:
    """Read the model, halve it, write it and say what it weighs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    files = ship(options.model, options.out)
    total = sum(path.stat().st_size for path in files) / 2**20
    largest = max(path.stat().st_size for path in files) / 1e6
    print(f"{options.out}: {total:.1f} MiB in {len(files)} files, the largest {largest:.1f} MB")


if __name__ == "__main__":
    main()
