"""MLflow follows the ledger: runs, models, cards, and a comparison of the two."""
