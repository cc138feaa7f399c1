"""The log-structured volume: a disk in an object store that survives whatever dies (docs/volume-format.md)."""
