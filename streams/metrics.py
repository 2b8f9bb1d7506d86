"""What the service measures of itself, for Prometheus. Each metric says what it counts and in which unit."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.handled = Counter(
            "ruvllm_handled_total", "Events a stage has handled", ["stage", "outcome"], registry=self.registry
        )
        self.seconds = Histogram(
            "ruvllm_handle_seconds",
            "Time a stage spends on one event, Kafka left out",
            ["stage"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.retries = Counter(
            "ruvllm_retries_total", "Attempts after the first of a stage's handler", ["stage"], registry=self.registry
        )
        self.dead_letters = Counter(
            "ruvllm_dead_letters_total",
            "Records sent to a dead-letter topic",
            ["stage", "code"],
            registry=self.registry,
        )
        self.owners = Gauge(
            "ruvllm_owned_partitions",
            "Partitions this process is the fenced owner of",
            ["stage"],
            registry=self.registry,
        )
        self.fenced = Counter(
            "ruvllm_owner_restarts_total",
            "Owners made anew after a failed transaction",
            ["stage"],
            registry=self.registry,
        )
        self.open = Gauge(
            "ruvllm_open_deliveries", "Records delivered and not yet done", ["stage"], registry=self.registry
        )
        self.lag = Gauge(
            "ruvllm_lag_records",
            "Offsets between the end of a stage's partitions and its position (markers count)",
            ["stage"],
            registry=self.registry,
        )
        self.memory_nodes = Gauge(
            "ruvllm_memory_nodes", "Nodes in this process's view of memory", registry=self.registry
        )
