#!/bin/sh
# Trains with what examples/gpu/pack.py has packed, on a machine with a GPU but no network.
#
#   sh KIT/run.sh RECIPE [FOLDER [RESULTS]]
#
# RECIPE is a script of examples/ without its ending, such as train_landcover, whose data are those packed, or
# a FOLDER of them such as seg; STEPS, BATCH and INIT are its own. RESULTS holds the log and the weights in pieces below 16 MB: cat RESULTS/NAME.part-* >NAME.safetensors
set -eu
kit=$(cd "$(dirname "$0")" && pwd)
recipe=${1:?usage: sh KIT/run.sh RECIPE [FOLDER [RESULTS]]}
mkdir -p "${3:-$kit/results}" "$kit/bin" "$kit/work"
results=$(cd "${3:-$kit/results}" && pwd)

python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$kit/site" "$kit"/wheels/*.whl
export PYTHONPATH="$kit/program:$kit/site"
printf '#!/bin/sh\nexec python3 -m lemevit_cli "$@"\n' >"$kit/bin/lemevit"
printf '#!/bin/sh\nexec python3 "$@"\n' >"$kit/bin/python"
chmod +x "$kit/bin/lemevit" "$kit/bin/python"
export PATH="$kit/bin:$PATH" WORK="$kit/work"

# A recipe that breaks off has left weights, too: they go out in any case.
status=0
sh "$kit/program/examples/$recipe.sh" "$kit/data/${2:-.}" >"$results/log.txt" 2>&1 || status=$?
for weights in "$kit"/work/*.safetensors "$kit"/work/*_training/best.safetensors; do
    [ -f "$weights" ] || continue
    name=$(basename "$(dirname "$weights")")-$(basename "$weights" .safetensors)
    split -b 15000000 "$weights" "$results/$name.part-"
done
tail -n 5 "$results/log.txt" >&2
exit "$status"
