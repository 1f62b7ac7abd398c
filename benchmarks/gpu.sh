#!/usr/bin/env bash
# The figures that need a GPU, in under 8 minutes, on a bare machine with one NVIDIA card, PyTorch for it, and no network.
#
#   benchmarks/gpu.sh wheels     # before, from the project's root, with a network: what that machine lacks, into .cache/whl
#   benchmarks/gpu.sh            # there, from the project's root: JSON and a log in $OUT (by default runs/gpu)
#
# A rehearsal on a CPU: DEVICE=cpu SIZE=10m benchmarks/gpu.sh --tokens 32 --images 2 --sides 112 168
# The wheels are for Linux x86-64 and Python 3.12 (PYTHON_VERSION=3.11 for another); PyTorch is not among them.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = wheels ]; then
    platforms=()
    for glibc in 2_34 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
    platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
    rm -rf .cache/whl
    mkdir -p .cache/whl
    # Those that a machine with PyTorch, NumPy, SciPy, pandas and Pillow commonly lacks, in the tested versions.
    python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
        --python-version "${PYTHON_VERSION:-3.12}" "${platforms[@]}" -d .cache/whl -r benchmarks/gpu_wheels.txt
    du -sh .cache/whl
    exit
fi

OUT=${OUT:-runs/gpu}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True HF_HUB_OFFLINE=1
path=$PWD/src
if ls .cache/whl/*.whl >/dev/null 2>&1; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$OUT/site" .cache/whl/*.whl
    path=$OUT/site:$path
fi
export PYTHONPATH=$path
if [ "$DEVICE" = cuda ]; then
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$OUT/card.txt"
fi
# The script begins no figure after 360 s; the limit is for one that hangs.
timeout 440 "$PYTHON" benchmarks/gpu.py --device "$DEVICE" --size "${SIZE:-7b}" \
    --json "$OUT/gpu_$DEVICE.json" "$@" 2>&1 | tee "$OUT/log.txt"
