"""Measurements: ratios in one run, CPU time per command.  Nothing here is a test."""
