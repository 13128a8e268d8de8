#!/usr/bin/env bash
# What only a GPU can tell, in one command on a machine with Python 3.11 and PyTorch; see benchmarks/GPU.md.
#   benchmarks/gpu.sh --pack      here, with a network: fill benchmarks/wheels and benchmarks/data, to be carried along
#   benchmarks/gpu.sh             there, without one: tests, speeds, training; rows and weights in OUT (out/gpu)
#   benchmarks/gpu.sh --help      the rest
# WHEELS, OUT, MINUTES (of training) and PYTHON in the environment change where, how long and with which Python.
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=${WHEELS:-benchmarks/wheels}

find_python() {  # the first that has PyTorch
  local python
  for python in ${PYTHON:+"$PYTHON"} .venv/bin/python python3 python python3.13 python3.12 python3.11; do
    "$python" -c 'import sys, importlib.util as u; sys.exit(sys.version_info < (3, 11) or not u.find_spec("torch"))' \
      2>/dev/null && { echo "$python"; return; }
  done
  echo "benchmarks/gpu.sh: needs Python 3.11 or newer that has PyTorch; set PYTHON to one." >&2
  exit 2
}

python=$(find_python)
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
if [ "${1:-}" = --pack ]; then
  shift
  exec "$python" benchmarks/gpu_pack.py --wheels "$wheels" "$@"
fi

site=$(mktemp -d)
missing=$("$python" benchmarks/gpu_pack.py --missing --wheels "$wheels")
if [ -n "$missing" ]; then
  # Into a folder of its own: nothing that is there is replaced, PyTorch least of all.
  # shellcheck disable=SC2086
  "$python" -m pip install -q --no-index --find-links "$wheels" --no-deps --no-compile --no-cache-dir \
    --disable-pip-version-check --target "$site" $missing || {
    rm -rf "$site"
    echo "benchmarks/gpu.sh: $wheels must hold wheels of: $missing. Fill it with --pack on a machine with a network." >&2
    exit 2
  }
  export PYTHONPATH=$site:$PYTHONPATH
fi
"$python" benchmarks/gpu.py "$@" &
program=$!
trap 'kill -TERM "$program" 2>/dev/null' TERM INT HUP
code=0
wait "$program" || code=$?
while kill -0 "$program" 2>/dev/null; do wait "$program" || code=$?; done   # a signal ends the first wait
rm -rf "$site"
exit "$code"
