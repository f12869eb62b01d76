"""Codes chosen by what a model reads: text goes through it, one layer at a time, and is packed to suit it."""
