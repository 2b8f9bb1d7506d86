"""The one place that speaks to llama.cpp: a loaded model, one sequence, one generation at a time.

What stands in the KV cache is known token by token (`_cached`); a new prompt evaluates only what
follows the longest common prefix. Native code can abort the process, so this module runs in a
child (`child.py`), never in a worker.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import DeadlineExceeded, ModelUnavailable, PromptTooLong
from ruvllm.models.pool.completion_text import CompletionText
from ruvllm.models.pool.job import Choice, Completion, FinishReason, Job, Segment

BATCH_TOKENS: Final = 512  # evaluated in one call; the time budget is looked at in between
CONTEXT_STEP_TOKENS: Final = 1024  # a context grows in these steps, so that near sizes share one
ABORTED: Final = 2  # llama_decode's status when its abort callback said so


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the loaded file is. `hybrid`: its memory cannot be cut back (LFM2's convolutions)."""

    architecture: str
    parameters: int
    file_bytes: int
    trained_context_tokens: int
    vocabulary: int
    adds_bos: bool
    hybrid: bool


class LlamaEngine:
    """One GGUF model in this process.

    `monotonic` is a clock in seconds, for time budgets only. Raises ModelUnavailable if the file
    cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        *,
        model: str,
        sha256: str,
        threads: int,
        monotonic: Callable[[], float],
        log_to_stderr: bool = False,
    ) -> None:
        self._name, self._sha256, self._threads, self._monotonic = model, sha256, threads, monotonic
        if not log_to_stderr:
            llama.llama_log_set(_DROP_LOG, None)
        llama.llama_backend_init()
        self._model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        if not self._model:
            raise ModelUnavailable(
                f"llama.cpp cannot load {path.name} as {model}",
                hint="`ruvllm doctor` checks the file; with debug on, the model's log says why.",
            )
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.facts = ModelFacts(
            architecture=_metadata(self._model, "general.architecture"),
            parameters=llama.llama_model_n_params(self._model),
            file_bytes=path.stat().st_size,
            trained_context_tokens=llama.llama_model_n_ctx_train(self._model),
            vocabulary=llama.llama_vocab_n_tokens(self._vocab),
            adds_bos=bool(llama.llama_vocab_get_add_bos(self._vocab)),
            hybrid=bool(llama.llama_model_is_hybrid(self._model) or llama.llama_model_is_recurrent(self._model)),
        )
        self._context: Any = None
        self._context_tokens = 0
        self._cached: list[int] = []
        self._prompt_deadline = math.inf
        # Looked at between the nodes of the compute graph: a prompt batch may take many seconds.
        self._abort = llama.ggml_abort_callback(lambda _: self._monotonic() >= self._prompt_deadline)

    def generate(self, job: Job) -> Completion:
        """Answer one job. Raises PromptTooLong if prompt and `max_tokens` exceed its context."""
        deadline = self._monotonic() + job.time_budget_s
        prompt = self.tokenize(job.prompt)
        window = min(job.context_tokens, self.facts.trained_context_tokens)
        if not prompt or len(prompt) + job.max_tokens > window:
            raise PromptTooLong(
                f"prompt of {len(prompt)} tokens and {job.max_tokens} to answer exceed the context of {window} tokens"
            )
        self._need_context(window)
        cached = self._keep_common_prefix(prompt)
        text = CompletionText(job.stop)
        log_probabilities: list[float] = []
        tokens = 0
        finish: FinishReason = "deadline"
        if self._evaluate(prompt[cached:], deadline):
            with self._sampler(job) as sampler:
                for token, log_probability in self._sample(sampler, deadline):
                    log_probabilities.append(log_probability)
                    if self._ends_turn(token):
                        finish = "stop"
                        break
                    tokens += 1
                    if text.add(self._piece(token)):
                        finish = "stop"
                        break
                    if tokens == job.max_tokens:
                        finish = "length"
                        break
        return Completion(
            text=text.value,
            confidence=math.exp(sum(log_probabilities) / len(log_probabilities)) if log_probabilities else 0.0,
            prompt_tokens=len(prompt),
            cached_tokens=cached,
            completion_tokens=tokens,
            finish_reason=finish,
            model=self._name,
            model_sha256=self._sha256,
        )

    def log_odds(self, choice: Choice) -> float:
        """ln P(yes) - ln P(no) at the next token, at temperature 1 (job.py).

        Raises PromptTooLong if the prompt exceeds its context, DeadlineExceeded if time ran out.
        """
        deadline = self._monotonic() + choice.time_budget_s
        prompt = self.tokenize(choice.prompt)
        window = min(choice.context_tokens, self.facts.trained_context_tokens)
        if not prompt or len(prompt) > window:
            raise PromptTooLong(f"prompt of {len(prompt)} tokens exceeds the context of {window} tokens")
        yes, no = self._first_tokens(choice.yes), self._first_tokens(choice.no)
        if not yes - no or not no - yes:
            raise ModelUnavailable(f"{self._name} begins {choice.yes} and {choice.no} with the same tokens")
        self._need_context(window)
        cached = self._keep_common_prefix(prompt)
        if not self._evaluate(prompt[cached:], deadline):
            raise DeadlineExceeded(f"{self._name} could not read {len(prompt)} tokens in {choice.time_budget_s:.1f} s")
        logits = self._logits().astype(np.float64)
        return float(np.logaddexp.reduce(logits[sorted(yes - no)]) - np.logaddexp.reduce(logits[sorted(no - yes)]))

    def tokenize(self, prompt: Sequence[Segment]) -> list[int]:
        """Tokens of a prompt; special ones only from control segments, BOS if the file wants it."""
        tokens = [llama.llama_vocab_bos(self._vocab)] if self.facts.adds_bos else []
        for segment in prompt:
            raw = segment.text.encode()
            room = len(raw) + 8  # a token covers at least one byte
            buffer = (llama.llama_token * room)()
            count = llama.llama_tokenize(self._vocab, raw, len(raw), buffer, room, False, segment.control)
            tokens.extend(buffer[:count])
        return tokens

    def close(self) -> None:
        """Free the native memory; the engine is of no use afterwards."""
        if self._context:
            llama.llama_free(self._context)
            self._context = None
        if self._model:
            llama.llama_model_free(self._model)
            self._model = None

    # --- the context and its cache ----------------------------------------------------------------

    def _need_context(self, tokens: int) -> None:
        """A context of at least `tokens`; one that is large enough is kept with its cache."""
        if self._context and tokens <= self._context_tokens:
            return
        if self._context:
            llama.llama_free(self._context)
        params = llama.llama_context_default_params()
        params.n_ctx = math.ceil(tokens / CONTEXT_STEP_TOKENS) * CONTEXT_STEP_TOKENS
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_threads = params.n_threads_batch = self._threads
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise ModelUnavailable(f"no memory for a context of {tokens} tokens of {self._name}")
        self._context_tokens = params.n_ctx
        self._memory = llama.llama_get_memory(self._context)
        self._cached = []
        llama.llama_set_abort_callback(self._context, self._abort, None)

    def _keep_common_prefix(self, prompt: list[int]) -> int:
        """Cut the cache back to what it shares with `prompt`; how many tokens that leaves.

        The last prompt token is always evaluated anew: its logits are what is sampled first.
        """
        shared = 0
        for old, new in zip(self._cached, prompt[:-1], strict=False):
            if old != new:
                break
            shared += 1
        if shared < len(self._cached) and not llama.llama_memory_seq_rm(self._memory, 0, shared, -1):
            shared = 0
            llama.llama_memory_clear(self._memory, False)
        del self._cached[shared:]
        return shared

    def _evaluate(self, tokens: list[int], deadline: float) -> bool:
        """Put prompt tokens into the cache; False if the deadline came first."""
        self._prompt_deadline = deadline
        try:
            for start in range(0, len(tokens), BATCH_TOKENS):
                if self._monotonic() >= deadline or not self._decode(tokens[start : start + BATCH_TOKENS]):
                    return False
        finally:
            self._prompt_deadline = math.inf
        return True

    def _decode(self, tokens: list[int]) -> bool:
        """Evaluate tokens after what is cached; False if aborted, and then nothing is cached."""
        array = (llama.llama_token * len(tokens))(*tokens)
        status = llama.llama_decode(self._context, llama.llama_batch_get_one(array, len(tokens)))
        if status == 0:
            self._cached.extend(tokens)
            return True
        llama.llama_memory_clear(self._memory, False)
        self._cached = []
        if status == ABORTED:
            return False
        raise ModelUnavailable(f"llama.cpp could not evaluate {len(tokens)} tokens (status {status})")

    # --- sampling ---------------------------------------------------------------------------------

    def _sample(self, sampler: Any, deadline: float) -> Iterator[tuple[int, float]]:
        """Sampled tokens with log p at temperature 1, until the deadline; each is then evaluated."""
        while self._monotonic() < deadline:
            token = llama.llama_sampler_sample(sampler, self._context, -1)
            yield token, self._log_probability(token)
            self._decode([token])

    def _logits(self) -> NDArray[np.float32]:
        """(vocabulary,) of the next token. A view into the context: valid until the next decode."""
        pointer = llama.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(pointer, shape=(self.facts.vocabulary,))

    def _first_tokens(self, spellings: Sequence[str]) -> set[int]:
        """What each spelling begins with: a small vocabulary may have no token for the whole of it."""
        bos = int(self.facts.adds_bos)
        return {self.tokenize((Segment(spelling, control=False),))[bos] for spelling in spellings if spelling}

    def _log_probability(self, token: int) -> float:
        logits = self._logits()
        top = float(logits.max())
        return float(logits[token]) - top - math.log(float(np.exp(logits - top).sum()))

    @contextmanager
    def _sampler(self, job: Job) -> Iterator[Any]:
        """llama.cpp's chain in its usual order: top_p on the model's distribution, temperature, draw."""
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        if job.temperature <= 0:
            llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_greedy())
        else:
            llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_top_p(job.top_p, 1))
            llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_temp(job.temperature))
            llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_dist(job.seed))
        try:
            yield chain
        finally:
            llama.llama_sampler_free(chain)

    def _ends_turn(self, token: int) -> bool:
        """End of generation; or a control token, which in an answer can only begin a made-up turn."""
        return bool(llama.llama_vocab_is_eog(self._vocab, token) or llama.llama_vocab_is_control(self._vocab, token))

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        size = llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[:size]


_DROP_LOG: Final = llama.llama_log_callback(lambda level, text, data: None)


def _metadata(model: Any, key: str) -> str:
    buffer = ctypes.create_string_buffer(256)
    size = llama.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", errors="replace") if size >= 0 else ""
