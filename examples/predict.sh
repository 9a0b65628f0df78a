#!/bin/sh
# Land cover of a scene, in the forms that people ask for.
#
#   examples/predict.sh [SCENE [FOLDER]]
#
# Without a scene, a simulated town is drawn first.
set -eu
folder=${2:-example_predict}
mkdir -p "$folder"
scene=${1:-}
if [ -z "$scene" ]; then
    lemevit simulate "$folder/town" --size 1024 --overwrite --quiet
    scene=$folder/town/before.tif
fi

# A raster of classes that QGIS shows with colours and names; the path is all that stdout gets.
raster=$(lemevit predict "$scene" --task seg -o "$folder/landcover.tif" --overwrite)
echo "classes: $raster"

# A Cloud Optimized GeoTIFF, and the scores of each class.
lemevit predict "$scene" --format COG -o "$folder/landcover_cog.tif" --overwrite
lemevit predict "$scene" --output-type scores -o "$folder/scores.tif" --overwrite

# Buildings of at least 20 square metres as polygons.
lemevit predict "$scene" --classes building --min-area 20 -o "$folder/buildings.gpkg" --overwrite

# In a pipe: a raster in, polygons out, and how much of each class there is.
lemevit predict - -o - --format GeoJSON --quiet <"$scene" >"$folder/landcover.geojson"
lemevit predict "$scene" -o "$folder/again.tif" --overwrite --json >"$folder/report.json"
