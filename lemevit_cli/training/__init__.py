"""Data sets, augmentation and the loop; what a task is stands above."""
