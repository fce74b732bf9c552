"""Measurements, not tests: each prints its figures side by side, from one run on one machine."""
