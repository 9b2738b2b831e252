"""Builders of networks, each with a pooling slot."""
