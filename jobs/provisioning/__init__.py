"""NVFlare's startup kits for the sites of a federation."""
