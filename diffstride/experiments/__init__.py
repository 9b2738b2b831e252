"""Sweeps over configurations, and reports about them."""
