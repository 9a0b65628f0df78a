#!/bin/sh
# Makes the starter weights `buildings-change` (buildings that came or went between two dates).
#
#   examples/train_buildings_change.sh DATA [TIME]
#
# DATA holds the folders named below, each {train,val}/{A,B,label} with masks of 0 and 1. An
# interrupted run goes on when the script is started again.
set -eu
data=$(cd "${1:?usage: examples/train_buildings_change.sh DATA [TIME, such as 60m]}" && pwd)
time=${2:-60m}
work=${WORK:-buildings_change_work}
mkdir -p "$work"

# A minor part is simulated: four towns at two dates, at two pixel sizes.
for gsd in 0.3 0.5; do
    if [ ! -d "$work/towns_$gsd" ]; then
        lemevit simulate "$work/towns_$gsd.part" --task change --size 1024 --scenes 5 \
            --gsd "$gsd" --seed 700 --overwrite
        mv "$work/towns_$gsd.part" "$work/towns_$gsd"
    fi
done

cat >"$work/change.toml" <<LIST
[[source]]
folder = "$data/levir_cd_test50"
weight = 0.72
[[source]]
folder = "$data/levir_sample_windows"
weight = 0.06
[[source]]
folder = "$data/egy_bcd_new_cairo"
weight = 0.08
[[source]]
folder = "towns_0.5"
weight = 0.08
[[source]]
folder = "towns_0.3"
weight = 0.06
LIST

# Each date is decoded as the land cover weights do it, then both are compared.
init=${INIT:-landcover}
resume=
[ -f "$work/buildings-change_training/checkpoint.pt" ] && resume=--resume

lemevit train --task change "$work/change.toml" --init "$init" --head difference_decoded \
    --backbone lemevit_tiny --crop 256 --batch-size 4 --balance 0.5 --loss ce+dice --lr 3e-3 \
    --gsd 0.2 1.0 --time-budget "$time" --precision bf16 --validate-every 400 --checkpoint-every 50 \
    --half --overwrite $resume -o "$work/buildings-change.safetensors"

for set in levir_cd_test50 levir_sample_windows egy_bcd_new_cairo; do
    lemevit eval "$work/buildings-change.safetensors" "$data/$set" --split val
done
