"""Who belongs to the federation: keys, epochs of the charter, withdrawal and what follows from it."""
