"""The mathematics of the layers, which knows no layer."""
