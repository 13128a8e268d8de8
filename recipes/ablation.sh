#!/usr/bin/env bash
# Does the view fold earn its keep? The same network, data, seed and steps, with the fold and without; then the judge.
#   STEPS=3500 recipes/ablation.sh          uses the data that recipes/toybox.sh left in OUT (default runs/toybox)
# Both train side by side, a process of one thread each; 3500 steps are about 110 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1
out=${OUT:-runs/toybox} steps=${STEPS:-3500}
train() {
  python -m viewfold.cli train "$out/objects" --pictures "$out/flat" --model "$out/base" --fresh --optimizer adamw --lr 8e-4 \
    --steps "$steps" --cooldown $((steps / 5)) --batch 16 --out "$out/$1" "${@:2}"
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT   # a shell shields what it starts with & from Ctrl-C; started again, both go on
train fold & first=$!
train no-fold --no-fold & second=$!
wait $first && wait $second
python benchmarks/toybox_quality.py --model "$out/fold/model" --against "$out/no-fold/model" --against-alone \
  --prompts 60 --open 60 --words 0 --emoji 0 --out "$out/ablation"
