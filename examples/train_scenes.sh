#!/bin/sh
# Makes the starter weights `scenes` (thirty kinds of places) from their data.
#
#   examples/train_scenes.sh DATA
#
# DATA holds aid/, rsscn7/ and eurosat/, each {train,val}/CLASS/pictures: AID with all of its classes, of the
# others those that mean the same, in folders called as AID calls them. An interrupted run goes on when the
# script is started again.
set -eu
data=$(cd "${1:?usage: examples/train_scenes.sh DATA}" && pwd)
work=${WORK:-scenes_work}
mkdir -p "$work"

cat >"$work/scenes.toml" <<LIST
[[source]]
folder = "$data/aid"
weight = 0.85
[[source]]
folder = "$data/rsscn7"
weight = 0.10
[[source]]
folder = "$data/eurosat"
weight = 0.05
LIST

# Begun from the backbone of land cover, which was distilled from a large one.
lemevit train --task cls "$work/scenes.toml" --init "${INIT:-landcover}" --crop 128 --batch-size "${BATCH:-32}" \
    --steps "${STEPS:-700}" --precision bf16 --half --validate-every 350 --checkpoint-every 10m \
    --resume --overwrite -o "$work/scenes.safetensors"

# Pictures are seen whole, in windows of 128 pixels. AID's were of 600, of 0.5 to 8 m: so large are pixels then.
python - "$work/scenes.safetensors" <<CODE
import sys
from dataclasses import replace

from lemevit_cli.models.weights import load_weights, save_weights

state, card = load_weights(sys.argv[1])
sizes = (0.5 * 600 / 128, 8 * 600 / 128)
save_weights(sys.argv[1], state, replace(card, gsd_m=sizes), half=True)
CODE

for set in aid rsscn7 eurosat; do
    lemevit eval "$work/scenes.safetensors" "$data/$set" --split val
done
