"""Messages become prompt segments; text of users and documents can never become a control token.

Only what the template itself writes is a control segment. Content is tokenised with special tokens
off, so `<|im_end|>` in a question is nine harmless characters. Whether a prompt begins with BOS is
not decided here: the model file says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ruvllm.errors import ModelUnavailable
from ruvllm.models.pool.job import Segment

Role = Literal["system", "user", "assistant"]
ROLES: Final[frozenset[str]] = frozenset({"system", "user", "assistant"})


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn. The role is checked: a template writes it as control text."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role {self.role!r} is none of {sorted(ROLES)}")


ChatTemplate = Callable[[Sequence[ChatMessage]], tuple[Segment, ...]]


def chatml(messages: Sequence[ChatMessage]) -> tuple[Segment, ...]:
    """ChatML, as SmolLM2, Qwen2.5 and LFM2 were trained on it; ends with the assistant's turn open."""
    segments: list[Segment] = []
    for message in messages:
        segments.append(Segment(f"<|im_start|>{message.role}\n", control=True))
        if message.content:
            segments.append(Segment(message.content, control=False))
        segments.append(Segment("<|im_end|>\n", control=True))
    segments.append(Segment("<|im_start|>assistant\n", control=True))
    return tuple(segments)


TEMPLATES: Final[dict[str, ChatTemplate]] = {"chatml": chatml}

# Control text around one message, and the open turn at the end: at most this many tokens each.
MESSAGE_OVERHEAD_TOKENS: Final = 5
OPEN_TURN_OVERHEAD_TOKENS: Final = 4  # with BOS


def chat_template(name: str) -> ChatTemplate:
    """The template of that name. Raises ModelUnavailable for one that this version does not have."""
    template = TEMPLATES.get(name)
    if template is None:
        raise ModelUnavailable(
            f"chat template {name!r} is unknown", hint=f"The catalogue may name one of {sorted(TEMPLATES)}."
        )
    return template
