"""Every error a user can meet: a stable code, a message that names the value, and what to do next.

The tree has one root. Codes are part of the interface: a client may switch on them, so a code is
never renamed and never reused. This module imports nothing of the project; every room may raise.
"""

from __future__ import annotations

from typing import ClassVar


class RuvllmError(Exception):
    """Root of the tree. `code` is stable, `hint` says what to do next."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False  # by the asker: the same request may succeed later
    dead_letter: ClassVar[bool] = True  # whether the record that caused it is kept aside
    default_hint: ClassVar[str] = "Report it with the request id; the dead-letter topic holds the bytes."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.reply_to: str | None = None  # a topic that was found to be allowed: it gets a copy of the refusal

    def __str__(self) -> str:
        return f"{self.message} [{self.code}] {self.hint}"


# --- what a request can get wrong -----------------------------------------------------------------


class InvalidRequest(RuvllmError):
    code = "invalid_request"
    default_hint = "Compare the event with `ruvllm topology --format jsonschema`."


class Undecodable(InvalidRequest):
    code = "undecodable"
    default_hint = "Send UTF-8 JSON; the original bytes are kept in the dead-letter topic."


class UnsupportedVersion(InvalidRequest):
    code = "unsupported_version"
    default_hint = "Upgrade this service, or send a version that it reads."


class EmptyPrompt(InvalidRequest):
    code = "empty_prompt"
    default_hint = "Give `prompt`, or `messages` whose last one has role `user` and some text."


class PromptTooLong(InvalidRequest):
    code = "prompt_too_long"
    default_hint = "Shorten the prompt, or raise `limits.prompt_chars`."


class UnknownTier(InvalidRequest):
    code = "unknown_tier"
    default_hint = "Use a tier of the running profile: `ruvllm config` lists them."


class DeadlinePassed(InvalidRequest):
    code = "deadline_passed"
    default_hint = "Send a deadline that lies in the future, as RFC 3339 with an offset."


class ReplyToNotAllowed(InvalidRequest):
    code = "reply_to_not_allowed"
    default_hint = "Ask the operator to add the topic to `limits.reply_to`."


class TenantNotAllowed(InvalidRequest):
    code = "tenant_not_allowed"
    default_hint = "Ask the operator to add the tenant to `limits.tenants`."


class InvalidDocument(InvalidRequest):
    code = "invalid_document"
    default_hint = "Documents are UTF-8 .md, .txt or .jsonl; see `ruvllm ingest --help`."


# --- what can go wrong on the way -----------------------------------------------------------------


class DeadlineExceeded(RuvllmError):
    code = "deadline_exceeded"
    dead_letter = False
    default_hint = "Allow more time, fewer tokens or a smaller tier; `ruvllm status` shows who serves what."


class SessionQueueFull(RuvllmError):
    code = "session_queue_full"
    dead_letter = False
    retryable = True
    default_hint = "A session answers one request at a time: wait for its answers, or use another session."


class ModelCrashed(RuvllmError):
    code = "model_crashed"
    retryable = True
    default_hint = "The model's process died twice on this request; `ruvllm doctor` checks the model file."


class ModelUnavailable(RuvllmError):
    code = "model_unavailable"
    default_hint = "`ruvllm models list` shows what is here; `ruvllm models pull` or `add` brings the rest."


class WrongHash(ModelUnavailable):
    code = "wrong_hash"
    default_hint = "The file is not the one in the catalogue: delete it and pull again. It is never loaded."


class BrokerUnavailable(RuvllmError):
    code = "broker_unavailable"
    retryable = True
    default_hint = "Start one with `ruvllm broker start`, or set KAFKA_BOOTSTRAP_SERVERS."


class MissingRequirement(RuvllmError):
    code = "missing_requirement"
    default_hint = "`ruvllm doctor` lists what is missing and how to get it."


class InvalidConfiguration(RuvllmError):
    code = "invalid_configuration"
    default_hint = "`ruvllm config` prints each setting, its value and where it came from."


class TopicMismatch(RuvllmError):
    code = "topic_mismatch"
    default_hint = "`ruvllm topics` shows what the topology wants beside what the broker has."


def error_codes() -> dict[str, type[RuvllmError]]:
    """Every stable code with its class, the root included."""
    found: dict[str, type[RuvllmError]] = {}
    waiting: list[type[RuvllmError]] = [RuvllmError]
    while waiting:
        cls = waiting.pop()
        found[cls.code] = cls
        waiting.extend(cls.__subclasses__())
    return found
