"""The commands about data: `heliostat table`, `heliostat contract` and `heliostat lineage`."""
