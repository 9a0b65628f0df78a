#!/bin/sh
# Train weights of one's own and use them: here on simulated towns, so that it runs anywhere.
#
#   examples/train.sh [FOLDER [STEPS]]
#
# Real data go the same way: a folder {train,val}/{images,masks} with a classes.json.
set -eu
folder=${1:-example_train}
steps=${2:-300}
mkdir -p "$folder"

lemevit simulate "$folder/towns" --task seg --size 768 --scenes 8 --gsd 0.3 --overwrite
lemevit train --task seg "$folder/towns" --steps "$steps" --overwrite -o "$folder/weights.safetensors"
lemevit eval "$folder/weights.safetensors" "$folder/towns" --split val
lemevit simulate "$folder/elsewhere" --size 1024 --seed 99 --overwrite
lemevit predict "$folder/elsewhere/before.tif" -w "$folder/weights.safetensors" \
    -o "$folder/landcover.tif" --overwrite -v
