"""The demonstration: the fingerprints of all files below a folder, by one single task and one fan-out.

It needs no extra; the command line (`taskloom demo`) shows its progress and its table.
"""
