"""A malicious aggregator or silo against honest others, in one process and over real NVFlare. Not in the package."""
