"""Pure arithmetic on windows, georeferences, boxes and polygons: no files, no torch."""
