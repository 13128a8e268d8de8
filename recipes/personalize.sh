#!/usr/bin/env bash
# From a few pictures of one thing to a 3D asset of it: pictures -> cameras -> LoRA -> views -> GLB.
#   recipes/personalize.sh PHOTOS "a zorb mug" mug     your pictures, what to call the thing, what kind of thing it is
#   recipes/personalize.sh                             four pictures of a toy that the shipped model never saw
#   recipes/personalize.sh --quick                     the same road in a minute or two, with next to nothing learned
# OUT (default runs/personalize) in the environment changes where; stop it at any time, run it again and it goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup
export PATH=$PWD/.venv/bin:$PATH
python -c "import peft" 2>/dev/null || pip install -q --no-deps -c constraints.txt peft     # what --lora needs
out=${OUT:-runs/personalize} learn=() fast=()
[ "${1:-}" = --quick ] && { learn=(--steps 2) fast=(--quality draft); shift; }
case $# in
  0) photos=$out/photos subject="a zorb mug" class=mug ;;
  3) photos=$1 subject=$2 class=$3 ;;
  *) echo 'usage: recipes/personalize.sh [--quick] [PHOTOS "a zorb mug" mug]' >&2; exit 2 ;;
esac

[ $# -eq 0 ] && python recipes/subject.py "$photos"
viewfold personalize "$photos" --subject "$subject" --class "$class" --out "$out/subject" ${learn[@]+"${learn[@]}"}
viewfold generate "$subject" --lora "$out/subject" --out "$out/views"
viewfold lift "$subject" --lora "$out/subject" --out "$out/subject.glb" ${fast[@]+"${fast[@]}"}
echo "$out: cameras in subject/posed, the LoRA in subject, pictures in views, the asset in subject.glb"
