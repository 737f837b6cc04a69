"""Evidence for people: verify it, summarise a run, try a model on rows that it has not seen."""
