"""Networks in plain torch and timm; files are known to ``weights.py`` alone."""
