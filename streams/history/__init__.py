"""The log as history: read between two places, fold it beside what is live, ask it why, take something back.

Invariant: nothing here joins a consumer group or changes a record. What is taken back is taken back by events.
"""
