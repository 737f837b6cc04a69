"""The command line: one file for each kind of person; a verb parses, calls and prints.

Heavy imports happen inside the verbs, so that ``fed silo run`` starts fast and ``fed verify`` needs the base install.
"""
