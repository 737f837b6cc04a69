"""Lineage for people: where a model comes from and where data went, from the ledger and the run folders alone.

``trace`` draws it up as a value (``graph``), ``uses`` asks the other way round, ``tree`` prints both, ``page`` makes it
one HTML file. All but ``page`` need the base install only.
"""
