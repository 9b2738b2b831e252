"""Data sets: TFDS pipelines, in-memory arrays, synthetic examples."""
