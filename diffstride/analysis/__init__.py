"""Costs of a model (Eq. 6, operations) and cut-off frequencies of strides."""
