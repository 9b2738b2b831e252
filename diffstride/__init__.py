"""Learned strides and learned temporal resolution for Keras."""

__version__ = "0.1.0"
