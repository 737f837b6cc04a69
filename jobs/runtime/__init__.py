"""A run put together from the other rooms, in one process or under NVFlare, and where it stands."""
