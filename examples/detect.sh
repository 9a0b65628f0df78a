#!/bin/sh
# Objects of a scene as oriented boxes, in the forms that people ask for.
#
#   examples/detect.sh [SCENE [FOLDER [WEIGHTS]]]
#
# Without a scene, a simulated town is drawn first; without weights the starter finds what it knows.
set -eu
folder=${2:-example_detect}
weights=${3:-objects}
mkdir -p "$folder"
scene=${1:-}
if [ -z "$scene" ]; then
    lemevit simulate "$folder/town" --size 1024 --overwrite --quiet
    scene=$folder/town/before.tif
fi

# A shapefile with a style that QGIS takes up by itself; the path is all that stdout gets.
boxes=$(lemevit detect "$scene" -w "$weights" -o "$folder/boxes.shp" --style --overwrite -v)
echo "boxes: $boxes"
lemevit quicklook "$boxes" --over "$scene" -o "$folder/boxes.png" --overwrite

# Surer than the weights ask of any class, in another format; and in pixels, as the labels of DOTA.
lemevit detect "$scene" -w "$weights" --score 0.99 -o "$folder/sure.gpkg" --overwrite
lemevit detect "$scene" -w "$weights" -o "$folder/boxes.txt" --overwrite

# Every window looked at from eight sides: finds more, in eight times the time.
lemevit detect "$scene" -w "$weights" --tta -o "$folder/symmetric.gpkg" --overwrite

# In a pipe: a raster in, GeoJSON out, and how many there are of each class.
lemevit detect - -w "$weights" -o - --quiet <"$scene" >"$folder/boxes.geojson"
lemevit detect "$scene" -w "$weights" -o "$folder/again.shp" --overwrite --json >"$folder/report.json"
