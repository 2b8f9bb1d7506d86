"""The process that llama.cpp may take down with it: `python -m ruvllm.models.pool.child --model FILE`.

Reads jobs from standard input, writes answers to standard output (`wire.py`), one at a time, until
its input ends. Whatever native code prints goes to standard error: the protocol's descriptor is
taken away first. On Linux the kernel kills this process with its parent; elsewhere it ends when its
input does.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import BinaryIO, Final

from ruvllm.errors import RuvllmError
from ruvllm.models.pool.job import Choice
from ruvllm.models.pool.wire import completion_line, error_line, failed_line, log_odds_line, read_job, ready_line

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
EXIT_NOT_LOADED: Final = 3


def main() -> int:
    """Serve one model; exit status 0 when the input ends."""
    options = _options()
    _die_with_parent(options.parent)
    answers = _take_stdout()
    from ruvllm.models.pool.llama_engine import LlamaEngine  # noqa: PLC0415  its import prints

    try:
        engine = LlamaEngine(
            options.model,
            model=options.name,
            sha256=options.sha256,
            threads=options.threads,
            monotonic=time.monotonic,
            log_to_stderr=options.debug,
        )
    except RuvllmError as error:
        _send(answers, failed_line(error))
        return EXIT_NOT_LOADED
    _send(answers, ready_line(engine.facts))
    while line := sys.stdin.buffer.readline():
        number, job = read_job(line)
        try:
            if isinstance(job, Choice):
                answer = log_odds_line(number, engine.log_odds(job))
            else:
                answer = completion_line(number, engine.generate(job))
        except RuvllmError as error:
            answer = error_line(number, error)
        _send(answers, answer)
    engine.close()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ruvllm.models.pool.child", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file")
    parser.add_argument("--name", required=True, help="its id, for completions")
    parser.add_argument("--sha256", default="", help="its hash, for completions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parent", type=int, required=True, help="process id to die with")
    parser.add_argument("--debug", action="store_true", help="llama.cpp's log to standard error")
    return parser.parse_args()


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the parent's starting thread ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes our input


def _take_stdout() -> BinaryIO:
    """The protocol's own descriptor; descriptor 1 becomes standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _send(answers: BinaryIO, line: bytes) -> None:
    answers.write(line)
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
