#!/usr/bin/env bash
# The paper's claims about the network and its training, at the size of toys: data, a 2D network, an arm for each claim.
#   recipes/claims.sh              some four CPU hours; stop it at any time, run it again and it goes on
#   recipes/claims.sh --quick      the same road in a few minutes, with nothing learned
# OUT (default runs/claims), ARMS (a list with commas), STEPS, BASE_STEPS and ASSETS in the environment change where, which and
# how long: where there is a GPU, BASE_STEPS=40000 STEPS=40000 ASSETS=20000 is a larger answer to the same questions.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1
case ${1:-} in
  --quick) out=${OUT:-runs/claims-quick} assets=60 steps=${STEPS:-3} base=${BASE_STEPS:-3} prompts=12 arms=${ARMS:-fold,pixel} ;;
  "") out=${OUT:-runs/claims} assets=${ASSETS:-7200} steps=${STEPS:-1000} base=${BASE_STEPS:-1500} prompts=72 arms=${ARMS:-} ;;
  *) echo "usage: recipes/claims.sh [--quick]" >&2; exit 2 ;;
esac

viewfold assets "$assets" --out "$out/assets"
python benchmarks/claims.py split "$out"
for half in objects flat; do
  viewfold render "$out/assets-$half" --out "$out/renders-$half" --size 64 --webp fast --orbits 2 --views 8
  viewfold pack "$out/renders-$half" --out "$out/$half" --latents toybox
done
python benchmarks/claims.py run --data "$out" --out "$out/arms" --steps "$steps" --base-steps "$base" --prompts "$prompts" \
  ${arms:+--arms "$arms"}
