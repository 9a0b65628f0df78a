#!/bin/sh
# Makes the starter weights `objects` (ten classes of NWPU VHR-10) from their data.
#
#   examples/train_objects.sh DATA [TIME]
#
# DATA holds the folders named below, each {train,val}/{images,labelTxt} in DOTA's layout. Vehicles of
# DOTA and of the simulated towns are called as NWPU calls them; what a set does not label is neither
# class nor background to it. An interrupted run goes on when the script is started again.
set -eu
data=$(cd "${1:?usage: examples/train_objects.sh DATA [TIME, such as 75m]}" && pwd)
time=${2:-75m}
work=${WORK:-objects_work}
mkdir -p "$work"

# A minor part is simulated: eight towns at each of two pixel sizes.
for gsd in 0.3 0.5; do
    if [ ! -d "$work/towns_$gsd" ]; then
        lemevit simulate "$work/towns_$gsd.part" --task det --size 1024 --scenes 8 \
            --gsd "$gsd" --seed 500 --overwrite
        mv "$work/towns_$gsd.part" "$work/towns_$gsd"
    fi
done

classes='["plane", "ship", "storage-tank", "baseball-diamond", "tennis-court",
    "basketball-court", "ground-track-field", "harbor", "bridge", "vehicle"]'
vehicles='{ small-vehicle = "vehicle", large-vehicle = "vehicle" }'
cat >"$work/objects.toml" <<LIST
[[source]]
folder = "$data/nwpu-vhr10-obb"
weight = 0.60
[[source]]
folder = "$data/hrsc2016"
weight = 0.10
[[source]]
folder = "$data/dota_val_windows"
weight = 0.10
rename = $vehicles
classes = $classes
[[source]]
folder = "$data/dota_samples"
weight = 0.08
rename = $vehicles
classes = $classes
[[source]]
folder = "$data/dota_devkit_more"
weight = 0.03
rename = $vehicles
classes = $classes
[[source]]
folder = "towns_0.3"
weight = 0.05
rename = { small-vehicle = "vehicle" }
[[source]]
folder = "towns_0.5"
weight = 0.04
rename = { small-vehicle = "vehicle" }
LIST

# Weights to start from: those of land cover, or of an earlier run: INIT=objects examples/...
init=${INIT:-landcover}
resume=
[ -f "$work/objects_training/checkpoint.pt" ] && resume=--resume

lemevit train --task det "$work/objects.toml" --init "$init" \
    --backbone lemevit_tiny --crop 384 --batch-size 4 --balance 0.7 --head-first 0.4 \
    --gsd 0.08 2 --time-budget "$time" --precision bf16 --validate-every 800 --checkpoint-every 50 \
    --half --overwrite $resume -o "$work/objects.safetensors"

for set in nwpu-vhr10-obb hrsc2016 dota_val_windows dota_samples; do
    lemevit eval "$work/objects.safetensors" "$data/$set" --split val
done
