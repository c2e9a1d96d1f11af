"""The store at a million turns: `python -m benchmarks.scale`.

A store is filled with made-up conversations, in a temporary folder. `--keep FOLDER` keeps the
folder and uses it again the next time, without what was erased meanwhile. Every call that people
wait for is timed against the time it may take. A call that deletes much is timed while a thread
asks for SQLite's write lock again and again, and another writes a tiny row: the first tells how
long the lock is held at a time, the second how long others wait, with the disk's share.
"""
