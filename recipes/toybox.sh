#!/usr/bin/env bash
# The shipped model from nothing: assets -> renders -> shards -> autoencoder -> latents -> network -> pictures.
#   recipes/toybox.sh              hours on two cores; stop it at any time, run it again and it goes on
#   recipes/toybox.sh --resume     train the shipped network further, on the same toys
#   recipes/toybox.sh --quick      the same road in under a minute, with next to nothing learned
# OUT (default runs/toybox), STEPS, WORKERS, MINUTES and SIZE (pixels, default 64; 128 makes a larger model of the same
# kind) in the environment change where, how long, how wide and how fine.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup
export PATH=$PWD/.venv/bin:$PATH
mode=${1:-full}
export OMP_NUM_THREADS=1
workers=${WORKERS:-2} size=${SIZE:-64}
case $mode in
  --quick) out=${OUT:-runs/quick} assets=8 vae_steps=12 steps=${STEPS:-4} batch=2 workers=1 emoji=(--folder recipes/quick) ;;
  --resume | full) out=${OUT:-runs/toybox} assets=9000 vae_steps=8000 steps=${STEPS:-6000} batch=16 emoji=() ;;
  *) echo "usage: recipes/toybox.sh [--quick | --resume]" >&2; exit 2 ;;
esac
run=(python); [ "$workers" -gt 1 ] && run=(torchrun --nproc-per-node "$workers")

viewfold assets $assets --out "$out/assets" --workers "$workers"
viewfold render "$out/assets" --out "$out/renders" --size "$size" --workers "$workers"
python recipes/pictures.py --out "$out/pictures" --size "$size" ${emoji[@]+"${emoji[@]}"}
viewfold pack "$out/renders" --out "$out/objects"
viewfold pack "$out/pictures" --out "$out/flat"

if [ "$mode" = --resume ]; then
  base=toybox fresh=()
else
  text=src/viewfold/models/toybox     # made by recipes/text_encoder.py
  "${run[@]}" recipes/autoencoder.py --shards "$out/objects" "$out/flat" --text $text --out "$out" --steps $vae_steps
  base=$out/base fresh=(--fresh)
fi
viewfold pack "$out/renders" --out "$out/objects" --latents "$base"
viewfold pack "$out/pictures" --out "$out/flat" --latents "$base"
"${run[@]}" -m viewfold.cli train "$out/objects" --pictures "$out/flat" --model "$base" ${fresh[@]+"${fresh[@]}"} \
  --steps "$steps" --cooldown $((steps / 4)) --lr 8e-4 --batch $batch --out "$out/run" ${MINUTES:+--minutes "$MINUTES"}
viewfold generate "a red mug with a blue handle" --model "$out/run/model" --steps 10 --out "$out/mug"
