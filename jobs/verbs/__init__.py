"""The verbs of ``fed``, a file for each kind of person. A verb is a few lines: parse, call, print.

Heavy imports happen inside the verbs, so that ``fed silo run`` starts fast and ``fed verify`` needs the base install.
"""
