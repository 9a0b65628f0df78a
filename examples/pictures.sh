#!/bin/sh
# The pictures of README and docs, made again: land cover, change, vehicles, a harbour and twenty polygons.
#
#   examples/pictures.sh [FOLDER [IMAGES [BUDGET]]]
#
# Scenes come with the package, or are drawn; IMAGES is docs/images unless said otherwise.
set -eu
folder=${1:-example_pictures}
images=${2:-docs/images}
budget=${3:-7m}

lemevit demo "$folder" --overwrite
lemevit quicklook "$folder/landcover.tif" --over "$folder/kampala.tif" \
    --beside "$folder/kampala.tif" -o "$images/landcover.jpg" --size 640 --overwrite
lemevit quicklook "$folder/town/before.tif" "$folder/town/after.tif" \
    --change "$folder/town/changes.gpkg" -o "$images/change.jpg" --size 420 --overwrite

lemevit quicklook "$folder/vehicles.gpkg" --over "$folder/kampala.tif" \
    -o "$images/vehicles.jpg" --size 640 --overwrite

# A harbour, of a seed that no weights learned from.
lemevit simulate "$folder/harbour" --task det --size 1024 --scenes 6 --gsd 0.5 --seed 900 --overwrite
harbour=$folder/harbour/train/images/town_00900.tif
lemevit detect "$harbour" -o "$folder/harbour.gpkg" --overwrite
lemevit quicklook "$folder/harbour.gpkg" --over "$harbour" -o "$images/harbour.jpg" --size 640 --overwrite

lemevit train --scene "$folder/kampala.tif" --labels "$folder/kampala_polygons.geojson" \
    --label-field class --background ignore --init landcover --time-budget "$budget" \
    -o "$folder/mine.safetensors" --overwrite
lemevit predict "$folder/kampala.tif" -w "$folder/mine.safetensors" -o "$folder/mine.tif" --overwrite
lemevit quicklook "$folder/mine.tif" --over "$folder/kampala.tif" \
    --beside "$folder/kampala_polygons.geojson" --beside "$folder/landcover.tif" \
    -o "$images/twenty_polygons.jpg" --size 420 --overwrite
