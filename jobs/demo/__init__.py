"""The demonstration: a whole federation on one machine, its data sets, baselines and report."""
