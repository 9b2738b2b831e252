"""Keras layers: everything that is a layer and no model."""
