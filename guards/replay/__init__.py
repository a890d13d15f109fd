"""Replaying a log: was each entry allowed by the entries before it? Pure: no database, no files.

:mod:`guards.ledger` finds out whether a log was edited after its head was seen. That cannot find
an entry that was made up and appended with correct hashes. So :func:`guards.replay.walk.replay`
walks the entries in order and asks of each what :mod:`guards.actions` asked before it wrote it,
as far as the log can tell. It shares no code with the actions: a bug there does not excuse itself.
"""
