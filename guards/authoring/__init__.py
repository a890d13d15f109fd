"""What helps people to write policies: the linter, cases, counterexamples, simulation, power, the schema.

Nothing here decides. Gates, actions and the replay of the log may not import it
(tests/test_import_rules.py), so a mistake here can mislead an author and cannot open a gate.
"""
