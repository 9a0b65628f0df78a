"""Pictures for people, drawn by matplotlib."""

import matplotlib

# A class or a file may be called a$_$b: names are no mathematics.
matplotlib.rcParams["text.parse_math"] = False
