#!/bin/sh
# Trains with what examples/gpu/pack.py has packed, on a machine with a GPU but no network.
#
#   sh KIT/run.sh RECIPE [DATA [RESULTS]]
#
# RECIPE is a script of examples/ without its ending, such as train_landcover; STEPS, BATCH and INIT are its own.
# DATA is KIT/data, a folder in it such as KIT/data/seg, or what was packed by itself. RESULTS (KIT/results) gets
# the log, and the weights in pieces below 16 MB: cat RESULTS/NAME.part-* >NAME.safetensors
set -eu
kit=$(cd "$(dirname "$0")" && pwd)
recipe=${1:?usage: sh KIT/run.sh RECIPE [DATA [RESULTS]]}
data=$(cd "${2:-$kit/data}" && pwd)
work=$kit/work/$recipe
mkdir -p "${3:-$kit/results}" "$kit/bin" "$work"
results=$(cd "${3:-$kit/results}" && pwd)

python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$kit/site" "$kit"/wheels/*.whl
export PYTHONPATH="$kit/program:$kit/site${PYTHONPATH:+:$PYTHONPATH}"
printf '#!/bin/sh\nexec python3 -m lemevit_cli "$@"\n' >"$kit/bin/lemevit"
printf '#!/bin/sh\nexec python3 "$@"\n' >"$kit/bin/python"
chmod +x "$kit/bin/lemevit" "$kit/bin/python"
export PATH="$kit/bin:$PATH" WORK="$work"

# What there is goes out however the recipe ends: finished weights, else the best of a training.
hand_out() {
    for weights in "$work"/*.safetensors; do
        split_weights "$weights" "$(basename "$weights" .safetensors)"
    done
    for training in "$work"/*_training; do
        name=$(basename "$training" _training)
        [ -f "$work/$name.safetensors" ] || split_weights "$training/best.safetensors" "$name"
    done
    tail -n 5 "$results/log.txt" >&2
}
split_weights() {
    [ -f "$1" ] || return 0
    rm -f "$results/$2".part-*
    split -b 15000000 "$1" "$results/$2.part-"
}
trap hand_out EXIT
setsid sh "$kit/program/examples/$recipe.sh" "$data" >"$results/log.txt" 2>&1 &
running=$!
trap 'kill -- "-$running"; exit 143' INT TERM
wait "$running"
