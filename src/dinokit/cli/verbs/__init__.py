"""One file a verb, or a group of them: `VERB` says what it is, a function of its name what it does.

These files are all imported to print the list of verbs, so they import nothing heavy outside their functions.
"""
