"""A run and its rounds as generators: what to ask the silos, what to store, what to do with the sums."""
