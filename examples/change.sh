#!/bin/sh
# What has changed between two scenes, in the forms that people ask for.
#
#   examples/change.sh [BEFORE AFTER [FOLDER [WEIGHTS]]]
#
# Without scenes, a simulated town is drawn at two dates first; without weights the starter finds
# buildings that came or went.
set -eu
folder=${3:-example_change}
weights=${4:-buildings-change}
mkdir -p "$folder"
before=${1:-}
after=${2:-}
if [ -z "$before" ]; then
    lemevit simulate "$folder/town" --size 1024 --overwrite --quiet
    before=$folder/town/before.tif
    after=$folder/town/after.tif
fi

# Polygons and a mask of one pass; the scenes may differ in CRS, pixel size and extent.
lemevit change "$before" "$after" -w "$weights" --style \
    -o "$folder/changes.shp" -o "$folder/mask.tif" --overwrite

# Only what is larger than 50 square metres and surer than 0.7, the scenes moved onto one another
# first, outlines within a metre.
lemevit change "$before" "$after" -w "$weights" --threshold 0.7 --min-area 50 --coregister \
    --simplify 1 -o "$folder/large.gpkg" --overwrite

# Both dates and the change side by side.
lemevit quicklook "$before" "$after" --change "$folder/changes.shp" \
    -o "$folder/changes.png" --overwrite

# In a pipe: GeoJSON in longitude and latitude, and a report of the shift, the area, the time.
lemevit change "$before" "$after" -w "$weights" -o - --quiet >"$folder/changes.geojson"
lemevit change "$before" "$after" -w "$weights" -o "$folder/scores.tif" --output-type scores \
    --overwrite --json >"$folder/report.json"
