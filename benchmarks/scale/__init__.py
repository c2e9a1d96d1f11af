"""The store at a million turns: `python -m benchmarks.scale`.

A store is filled with drawn talk, in a folder that is thrown away (`--keep FOLDER` keeps it, and
takes it again the next time, less what was erased meanwhile). Every call that people wait for is
timed, beside the time it may take. A call that deletes much is timed while a thread writes a tiny
row again and again: its longest wait is how long everybody else would have waited.
"""
