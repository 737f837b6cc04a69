"""Evidence read by people: verify it, sum a run up, try a model on rows that are new to it."""
