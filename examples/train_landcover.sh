#!/bin/sh
# Makes the starter weights `landcover` (land, building, road, vegetation, water) from their data.
#
#   examples/pretrain.sh TEACHER TEACHER_MODEL DATA...       a backbone that has seen something
#   INIT=pretrain_work/backbone.safetensors examples/train_landcover.sh DATA
#
# DATA holds the folders named below, each {train,val}/{images,masks} with a classes.json. Sets that know
# some of the classes teach, too: their loss sums the scores of those that they cannot tell apart. An
# interrupted run goes on when the script is started again.
set -eu
data=$(cd "${1:?usage: INIT=BACKBONE examples/train_landcover.sh DATA}" && pwd)
work=${WORK:-landcover_work}
here=$(dirname "$0")
mkdir -p "$work"

# A minor part is simulated: four towns at each of four pixel sizes.
if [ ! -d "$work/simulated" ]; then
    seed=100
    for gsd in 0.15 0.22 0.35 0.55; do
        lemevit simulate "$work/towns_$gsd" --task seg --size 1024 --scenes 4 \
            --gsd "$gsd" --seed "$seed" --overwrite
        seed=$((seed + 20))
    done
    mkdir -p "$work/merging"
    for gsd in 0.15 0.22 0.35 0.55; do
        cp -R "$work/towns_$gsd/." "$work/merging/"
    done
    mv "$work/merging" "$work/simulated"
fi

# Weights: czech and dubai alone teach vegetation and land on real ground. What the map of New York
# leaves white may be a yard, which is road to the Czech: it teaches buildings and water against the
# rest, and once more what its roads look like.
listing="$work/landcover.toml"
: >"$listing"
teach() {
    printf '[[source]]\nfolder = "%s"\nweight = %s\n%s\n' "$1" "$2" "${3:-}" >>"$listing"
}
teach "$data/czech_orthophoto" 0.28
teach "$data/dubai_landcover" 0.18
teach "$data/jonkoping_buildings" 0.12
teach "$data/buildings_many_places" 0.14
teach "$data/massachusetts_buildings" 0.08
teach "$data/oam_ramp_buildings" 0.05
teach "$data/nyc_maps" 0.12 'drop = ["road"]'
teach "$data/nyc_maps" 0.07 'classes = ["road"]'
teach "$data/roads_400" 0.08
teach simulated 0.06

# In legs, each of which brings the rate to its end; one that is done is not done again.
trained=${INIT:?name the backbone to start from}
leg=0
for steps in ${STEPS:-2000 2400 2200}; do
    begun_from=$trained trained="$work/trained_$leg.safetensors"
    [ -f "$trained" ] || lemevit train --task seg "$listing" --init "$begun_from" --seed "$leg" \
        --backbone lemevit_tiny --decoder upernet --crop 256 --batch-size "${BATCH:-8}" --balance 0.6 \
        --optimizer muon --lr 3e-3 --gsd 0.07 1.0 --steps "$steps" --precision bf16 \
        --validate-every 700 --checkpoint-every 10m --half --resume --overwrite -o "$trained"
    leg=$((leg + 1))
done

# Balanced windows show little of what covers most of the ground: what a number gives back.
set --
for name in czech_orthophoto dubai_landcover jonkoping_buildings buildings_many_places \
    massachusetts_buildings oam_ramp_buildings nyc_maps roads_400; do
    set -- "$@" --data "$data/$name"
done
python "$here/adjust_classes.py" "$trained" -o "$work/landcover.safetensors" --add vegetation=1 "$@"
