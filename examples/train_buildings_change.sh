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
