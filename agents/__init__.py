"""What happens at each stage: thin functions from one event to the next, their models handed in.

This room imports `ruvllm.schemas` and `ruvllm.models`. It decides; it does not send, commit, wait or
look at a clock of its own, and it can be read without knowing Kafka. Read it in flow order: intake,
desk, retrieve, route, generate; then documents and memory_fold, which feed what retrieve reads.
"""
