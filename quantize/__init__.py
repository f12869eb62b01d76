"""Decide, calibrate, convert, judge; and whether a model fits a Mac. For now this package is empty."""
