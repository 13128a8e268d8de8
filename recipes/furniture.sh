#!/usr/bin/env bash
# Real furniture for training: Debian's sweethome3d-furniture as captioned assets, renders and shards, with who made what.
#   recipes/furniture.sh [DEB]            all 820 models, about half an hour on two cores; stop it and start it as you like
#   recipes/furniture.sh --quick [DEB]    a dozen, in about a minute after the download
# DEB is the package's file; without one it is fetched with apt-get (120 MB). OUT (default runs/furniture), WORKERS and SIZE
# in the environment change where, on how many processes and how fine.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1
quick=() ; [ "${1:-}" = --quick ] && { quick=(--quick); shift; }
out=${OUT:-runs/furniture} workers=${WORKERS:-2} size=${SIZE:-64}
mkdir -p "$out"
out=$(realpath "$out")
deb=${1:-}
if [ -z "$deb" ]; then
  deb=$(find "$out" -maxdepth 1 -name 'sweethome3d-furniture_*.deb' | head -1)
  if [ -z "$deb" ]; then
    command -v apt-get >/dev/null || { echo "recipes/furniture.sh: name the file of Debian's package sweethome3d-furniture." >&2; exit 2; }
    (cd "$out" && apt-get -o APT::Sandbox::User=root download sweethome3d-furniture) || {
      echo "recipes/furniture.sh: apt-get has no sweethome3d-furniture; run apt-get update, or name the package's file." >&2
      exit 2
    }
    deb=$(find "$out" -maxdepth 1 -name 'sweethome3d-furniture_*.deb' | head -1)
  fi
fi

python recipes/furniture.py unpack "$deb" --out "$out" ${quick[@]+"${quick[@]}"}
python recipes/furniture.py upright "$out" || exit
code=0
for split in train held-out; do
  [ -d "$out/models/$split" ] || continue
  viewfold render "$out/models/$split" --out "$out/renders/$split" --size "$size" --workers "$workers" || code=$?
done
python recipes/furniture.py caption "$out" --renders "$out"/renders/*
for split in train held-out; do
  [ -d "$out/models/$split" ] || continue
  viewfold render "$out/models/$split" --out "$out/renders/$split" --size "$size" --workers "$workers" || code=$?
  viewfold pack "$out/renders/$split" --out "$out/shards/$split" --latents toybox
done
echo "$out: shards in $out/shards, their makers in ATTRIBUTION.md"
exit "$code"
