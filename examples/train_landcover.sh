#!/bin/sh
# Makes the starter weights `landcover` (land, building, road, vegetation, water) from their data.
#
#   examples/train_landcover.sh DATA [TIME]
#
# DATA holds the folders named below, each {train,val}/{images,masks} with a classes.json. The four
# building sets know only "background" and "building": their loss sums the scores of the classes
# that they cannot tell apart. An interrupted run goes on when the script is started again.
set -eu
data=${1:?usage: examples/train_landcover.sh DATA [TIME, such as 75m]}
time=${2:-75m}
work=${WORK:-landcover_work}
mkdir -p "$work"

# A minor part is simulated: six towns at each of four pixel sizes.
if [ ! -d "$work/simulated" ]; then
    seed=100
    for gsd in 0.15 0.22 0.35 0.55; do
        lemevit simulate "$work/towns_$gsd" --task seg --size 1024 --scenes 6 \
            --gsd "$gsd" --seed "$seed" --overwrite
        seed=$((seed + 20))
    done
    mkdir "$work/merging"
    for gsd in 0.15 0.22 0.35 0.55; do
        cp -R "$work/towns_$gsd/." "$work/merging/"
    done
    mv "$work/merging" "$work/simulated"
fi

# Weights to start from, such as those of an earlier run: INIT=landcover examples/train_landcover.sh DATA
init=${INIT:+--init $INIT}
resume=
[ -f "$work/landcover_training/checkpoint.pt" ] && resume=--resume

# Weights of the sources: czech and dubai alone teach roads, vegetation and water on real ground.
lemevit train --task seg \
    "$data/czech_orthophoto" "$data/dubai_landcover" "$data/jonkoping_buildings" \
    "$data/buildings_many_places" "$data/massachusetts_buildings" "$data/oam_ramp_buildings" \
    "$work/simulated" \
    --source-weight 0.35 --source-weight 0.22 --source-weight 0.15 \
    --source-weight 0.12 --source-weight 0.08 --source-weight 0.06 \
    --source-weight 0.08 \
    --backbone lemevit_tiny --decoder upernet --crop 256 --batch-size 8 --balance 0.75 \
    --optimizer muon --lr 4e-3 \
    --gsd 0.07 1.0 --time-budget "$time" --precision bf16 --validate-every 500 \
    --checkpoint-every 100 --half --overwrite $resume $init -o "$work/landcover.safetensors"

for set in czech_orthophoto dubai_landcover jonkoping_buildings buildings_many_places \
    massachusetts_buildings oam_ramp_buildings; do
    lemevit eval "$work/landcover.safetensors" "$data/$set" --split val
done
