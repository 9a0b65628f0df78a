#!/bin/sh
# Makes the starter weights `buildings-change` (buildings that came or went between two dates).
#
#   examples/train_buildings_change.sh DATA
#
# DATA holds change/ and seg/ with the folders named below: of change each {train,val}/{A,B,label} with masks
# of 0 and 1, of seg {train,val}/{images,masks}. An interrupted run goes on when the script is started again.
set -eu
[ $# -le 1 ] || { echo "one argument only: STEPS=$2 says how many steps" >&2; exit 2; }
data=$(cd "${1:?usage: examples/train_buildings_change.sh DATA}" && pwd)
work=${WORK:-buildings_change_work}
here=$(dirname "$0")
mkdir -p "$work"

# A minor part is simulated: nine towns to learn from at two dates, at each of two pixel sizes.
seed=700
for gsd in 0.3 0.5; do
    if [ ! -d "$work/towns_$gsd" ]; then
        lemevit simulate "$work/towns_$gsd.part" --task change --size 1024 --scenes 12 \
            --gsd "$gsd" --seed "$seed" --overwrite
        mv "$work/towns_$gsd.part" "$work/towns_$gsd"
    fi
    seed=$((seed + 100))
done

# So few pairs are labelled that pictures of one date with their buildings teach, too.
if [ ! -d "$work/one_date" ]; then
    rm -rf "$work/one_date.part"
    python "$here/pairs_of_one_date.py" "$work/one_date.part" "$data/seg/czech_orthophoto:2" \
        "$data/seg/jonkoping_buildings:2" "$data/seg/buildings_many_places" \
        "$data/seg/massachusetts_buildings" "$data/seg/nyc_maps"
    mv "$work/one_date.part" "$work/one_date"
fi

listing="$work/change.toml"
: >"$listing"
teach() {
    printf '[[source]]\nfolder = "%s"\nweight = %s\n' "$1" "$2" >>"$listing"
}
teach "$data/change/levir_cd_test50" 0.54
teach "$data/change/levir_sample_windows" 0.05
teach "$data/change/egy_bcd_new_cairo" 0.08
teach towns_0.5 0.09
teach towns_0.3 0.08
teach one_date 0.16

# Begun from the weights that are there; anew, INIT=landcover and some 7,000 steps do it, since each date is
# decoded as land cover is.
lemevit train --task change "$listing" --init "${INIT:-buildings-change}" --head difference_decoded \
    --backbone lemevit_tiny --crop 256 --batch-size "${BATCH:-4}" --balance 0.5 --loss ce+dice --lr 2e-3 \
    --gsd 0.2 1.0 --steps "${STEPS:-2500}" --precision bf16 --validate-every 1250 --checkpoint-every 10m \
    --half --resume --overwrite -o "$work/trained.safetensors"

# It says "unchanged" too easily: what one number gives back.
set --
for set in levir_cd_test50 levir_sample_windows egy_bcd_new_cairo; do
    set -- "$@" --data "$data/change/$set"
done
python "$here/adjust_classes.py" "$work/trained.safetensors" -o "$work/buildings-change.safetensors" \
    --add changed=0.4 "$@"
