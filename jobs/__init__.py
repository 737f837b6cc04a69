"""The composition root: the command line, NVFlare, and the catalogue of jobs."""
