"""A malicious aggregator against honest silos, in one process and over real NVFlare. Never part of the package."""
