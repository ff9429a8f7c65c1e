"""Faults planted in the library, one at a time, and the tests of the suite that notice them.

A suite that passes says little unless it would have failed. `python -m property_tests.faults` plants
each fault of the table in a process of its own and runs tests until one fails.
"""
