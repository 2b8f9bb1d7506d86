"""What proves the service: its demo, benches, evaluations and faults, as commands that anyone can run.

Each writes one JSON report (`report.py`) that names machine, sizes and seed. Nothing here is imported
by the service itself.
"""
