"""A broker that somebody else runs: it is used as it is, and never started or stopped from here."""

from __future__ import annotations

from ruvllm.errors import BrokerUnavailable
from ruvllm.streams.broker.contract import BrokerStatus
from ruvllm.streams.broker.readiness import Answers, answers

_NOT_OURS = (
    "Unset KAFKA_BOOTSTRAP_SERVERS to use a broker of this machine, or ask who runs this one. "
    "`ruvllm doctor` checks the connection."
)


class ExternalBroker:
    """The brokers that KAFKA_BOOTSTRAP_SERVERS names."""

    kind = "external"

    def __init__(self, bootstrap: str, *, answers: Answers = answers) -> None:
        self.bootstrap = bootstrap
        self._answers = answers

    def install(self) -> None:
        """Nothing to bring: it is there."""

    def start(self) -> BrokerStatus:
        raise self._refused("is not started from here")

    def stop(self) -> None:
        raise self._refused("is not stopped from here")

    def status(self) -> BrokerStatus:
        return BrokerStatus(self.kind, self.bootstrap, running=self._answers(self.bootstrap))

    def logs(self, lines: int) -> list[str]:
        raise self._refused("has its log elsewhere")

    def _refused(self, what: str) -> BrokerUnavailable:
        return BrokerUnavailable(f"the broker at {self.bootstrap} is run by somebody else and {what}", hint=_NOT_OURS)
