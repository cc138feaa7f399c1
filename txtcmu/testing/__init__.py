"""Fakes that txtcmu tests itself with, shipped for the tests of those who write backstores."""
