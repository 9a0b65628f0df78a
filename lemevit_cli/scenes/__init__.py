"""Rasters as the program sees them: opened by rasterio, read window by window with a mask."""
