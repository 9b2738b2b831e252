"""Imported by gin files of 2022. `diffstride.configurables` registers all."""
