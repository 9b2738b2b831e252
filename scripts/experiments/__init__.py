"""What `sweep.py` and `report.py` are made of."""
