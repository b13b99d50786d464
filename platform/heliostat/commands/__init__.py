"""Commands in groups, such as `heliostat table list`: one file a group."""
