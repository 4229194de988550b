"""What helps on small sets of images: `python -m tools.small_sets` measures it."""
