"""``python -m jobs.cli``: what ``fed`` runs."""

from jobs.cli.main import main

main()
