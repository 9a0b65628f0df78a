#!/bin/sh
# Makes the starter weights `scenes` (thirty kinds of places) from their data.
#
#   examples/train_scenes.sh DATA
#
# DATA holds aid/, rsscn7/ and eurosat/, each {train,val}/CLASS/pictures: AID with all of its classes, of the
# others those that mean the same, in folders called as AID calls them. An interrupted run goes on when the
# script is started again. Pixel sizes are those of AID at a quarter of its size, and of EuroSAT.
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

# The distilled backbone has been kept inside of landcover alone.
lemevit train --task cls "$work/scenes.toml" --init "${INIT:-landcover}" --crop 128 --batch-size 32 \
    --gsd 2 10 --steps 700 --precision bf16 --half --validate-every 350 --checkpoint-every 10m \
    --resume --overwrite -o "$work/scenes.safetensors"
