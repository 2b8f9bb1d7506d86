"""`python -m ruvllm.streams.cli` is `ruvllm`."""

from ruvllm.streams.cli import main

main()
