#!/usr/bin/env bash
# Does the view fold earn its keep? The same network, data, seed and minutes, with the fold and without; then the judge.
#   MINUTES=15 recipes/ablation.sh          uses the data that recipes/toybox.sh left in OUT (default runs/toybox)
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1
out=${OUT:-runs/toybox} workers=${WORKERS:-2} minutes=${MINUTES:-15}
run=(python); [ "$workers" -gt 1 ] && run=(torchrun --nproc-per-node "$workers")
for fold in fold no-fold; do
  flag=(); [ $fold = no-fold ] && flag=(--no-fold)
  "${run[@]}" -m viewfold.cli train "$out/objects" --pictures "$out/flat" --model "$out/base" --fresh \
    ${flag[@]+"${flag[@]}"} --minutes "$minutes" --batch 16 --out "$out/$fold"
done
python benchmarks/toybox_quality.py --model "$out/fold/model" --against "$out/no-fold/model" --against-alone \
  --prompts 60 --lift 0 --out "$out/ablation"
