#!/bin/sh
# Makes the starter weights `objects` (ten classes of NWPU VHR-10) from their data.
#
#   examples/train_objects.sh DATA
#
# DATA holds det/ and seg/ with the folders named below: of det each {train,val}/{images,labelTxt} in DOTA's
# layout, of seg {train,val}/images. Vehicles of DOTA and of the simulated towns are called as NWPU calls them;
# what a set does not label is neither class nor background to it. An interrupted run goes on when the script
# is started again.
set -eu
[ $# -le 1 ] || { echo "one argument only: STEPS=$2 says how many steps" >&2; exit 2; }
data=$(cd "${1:?usage: examples/train_objects.sh DATA}" && pwd)
work=${WORK:-objects_work}
mkdir -p "$work"

# A minor part is simulated: eight towns at each of two pixel sizes.
for gsd in 0.3 0.5; do
    if [ ! -d "$work/towns_$gsd" ]; then
        lemevit simulate "$work/towns_$gsd.part" --task det --size 1024 --scenes 8 \
            --gsd "$gsd" --seed 500 --overwrite
        rm -r "$work/towns_$gsd.part/val"
        mv "$work/towns_$gsd.part" "$work/towns_$gsd"
    fi
done

# Pictures of land cover that were looked through, and have none of some classes: what ground looks like.
for set in jonkoping_buildings czech_orthophoto roads_400 buildings_many_places; do
    for split in train val; do
        [ "$split" = train ] || [ "$set" = jonkoping_buildings ] || continue
        mkdir -p "$work/$set/$split/images" "$work/$set/$split/labelTxt"
        for image in "$data/seg/$set/$split/images"/*; do
            name=$(basename "$image")
            ln -sf "$image" "$work/$set/$split/images/$name"
            : >"$work/$set/$split/labelTxt/${name%.*}.txt"
        done
    done
done

classes='"plane", "ship", "storage-tank", "baseball-diamond", "tennis-court", "basketball-court",
    "ground-track-field", "harbor"'
vehicles='{ small-vehicle = "vehicle", large-vehicle = "vehicle" }'
cat >"$work/objects.toml" <<LIST
[[source]]
folder = "$data/det/nwpu-vhr10-obb"
weight = 0.44
[[source]]
folder = "$data/det/ships_harbour"
weight = 0.13
[[source]]
folder = "$data/det/hrsc2016"
weight = 0.12
[[source]]
folder = "$data/det/dota_val_windows"
weight = 0.08
rename = $vehicles
classes = [$classes, "bridge", "vehicle"]
[[source]]
folder = "$data/det/dota_samples"
weight = 0.06
rename = $vehicles
classes = [$classes, "bridge", "vehicle"]
[[source]]
folder = "$data/det/dota_devkit_more"
weight = 0.03
rename = $vehicles
classes = [$classes, "bridge", "vehicle"]
[[source]]
folder = "towns_0.3"
weight = 0.03
rename = { small-vehicle = "vehicle" }
[[source]]
folder = "towns_0.5"
weight = 0.03
rename = { small-vehicle = "vehicle" }
[[source]]
folder = "jonkoping_buildings"
weight = 0.03
classes = [$classes, "bridge"]
[[source]]
folder = "czech_orthophoto"
weight = 0.025
classes = ["plane", "ship", "baseball-diamond", "ground-track-field", "harbor"]
[[source]]
folder = "roads_400"
weight = 0.025
classes = ["plane", "ship", "storage-tank", "harbor"]
[[source]]
folder = "buildings_many_places"
weight = 0.02
classes = [$classes]
LIST

# Begun from the weights that are there; anew, INIT=landcover and some 4,000 steps do it.
init=${INIT:-objects}

# Windows of 512 pixels: large ships and harbours are seen whole.
lemevit train --task det "$work/objects.toml" --init "$init" \
    --backbone lemevit_tiny --crop 512 --batch-size "${BATCH:-3}" --balance 0.7 --head-first 0.3 --lr 2e-3 \
    --gsd 0.08 2 --steps "${STEPS:-700}" --precision bf16 --validate-every 700 --checkpoint-every 10m \
    --half --resume --overwrite -o "$work/objects.safetensors"

for set in nwpu-vhr10-obb hrsc2016 ships_harbour dota_val_windows dota_samples; do
    lemevit eval "$work/objects.safetensors" "$data/det/$set" --split val
done
