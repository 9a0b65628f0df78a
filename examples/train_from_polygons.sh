#!/bin/sh
# From a scene and a layer of polygons to a map, its score and a picture: here of a simulated town.
#
#   examples/train_from_polygons.sh [FOLDER [STEPS]]
#
# With real data, put your scene and layer in the place of town/before.tif and objects_before.gpkg.
set -eu
folder=${1:-example_polygons}
steps=${2:-200}
mkdir -p "$folder"

lemevit simulate "$folder/town" --size 1536 --overwrite --quiet
set -- --scene "$folder/town/before.tif" --labels "$folder/town/objects_before.gpkg" \
    --where "class = 'building'" --class building

# What the model is about to see; then train, with a part of the town held back by blocks.
lemevit train "$@" --show-samples "$folder/samples.png" --overwrite
lemevit train "$@" --init landcover --steps "$steps" --overwrite -o "$folder/buildings.safetensors"

# A town elsewhere: the map, its score against the polygons there, a picture.
lemevit simulate "$folder/elsewhere" --size 1024 --seed 99 --overwrite --quiet
lemevit predict "$folder/elsewhere/before.tif" -w "$folder/buildings.safetensors" \
    -o "$folder/buildings.tif" --overwrite
lemevit score "$folder/buildings.tif" "$folder/elsewhere/objects_before.gpkg" \
    --where "class = 'building'" --class building
lemevit quicklook "$folder/buildings.tif" --over "$folder/elsewhere/before.tif" \
    -o "$folder/quicklook.png" --overwrite
