"""Datasets (through TFDS) and the input pipeline."""
