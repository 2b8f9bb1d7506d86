"""The Kafka broker that this machine uses: one that is named, a Docker container, or a Java process.

Start with `contract.py` (what each of them can do), then `choose.py` (which one). `local.py` runs Kafka
from its own jars, which `files.py` fetches; `docker.py` runs the image; `properties.py` holds the settings
that all share. Nothing here knows the topology. Imports `ruvllm.errors`, `streams/preflight.py` and
`streams/pid_file.py` only.
"""
