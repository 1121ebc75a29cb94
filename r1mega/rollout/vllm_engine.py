"""A Generator: vLLM in this process, tokens in and tokens out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from r1mega import device
from r1mega.models.config_json import read_config
from r1mega.parallel import Launch
from r1mega.progress import beat
from r1mega.rollout import environment
from r1mega.rollout.options import EngineOptions, Share
from r1mega.rollout.requests import Decoder, check_sampling, completion, sampling_params
from r1mega.rollout.start import close, start
from r1mega.types import Completion, Prompt, Sampling, Seen, UserError


class VLLMGenerator:
    """An engine, or this rank's part of one.

    model:   a Hugging Face folder with weights; or a config (`ModelSpec.hf`), and then the weights come with
             the first sync (r1mega.sync.push), before which nothing can be generated.
    version: of a folder's weights.

    Several ranks make it together, for vLLM forms process groups. With `tensor_parallel` 1 that is all they
    do together; otherwise the ranks of one engine must ask it the same, at the same time. `share` says which
    prompts are this rank's.

    Use it in a `with`, or close it: vLLM's own clean-up is off, as it would end the trainer's process group.

    Raises UserError when the engine cannot start.
    """

    def __init__(
        self, model: Path | Mapping[str, Any], tokenizer: Decoder, options: EngineOptions, *, version: int = 0
    ) -> None:
        here = Launch.from_env()
        self.share = Share.of(here.rank, here.world, options.tensor_parallel)
        self.options, self.tokenizer = options, tokenizer
        hf = read_config(model).values if isinstance(model, Path) else model
        self._vocabulary = int(hf["vocab_size"])
        self.engine: Any = start(model, hf, options)
        """vLLM's LLMEngine, for r1mega.sync."""
        self.version: int | None = version if isinstance(model, Path) else None
        """Updates that the weights have seen; None while there are none to generate with."""

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, seen: Seen | None = None
    ) -> list[list[Completion]]:
        """`n` answers to each prompt, in the order of the prompts; see `answer`."""
        assert n >= 1
        wanted = [(prompt, number) for prompt in prompts for number in range(n)]

        def tell(i: int, completion: Completion) -> None:
            if seen is not None:
                seen(i // n, i % n, completion)

        answers = self.answer(wanted, sampling, seen=tell)
        return [answers[i : i + n] for i in range(0, len(answers), n)]

    def answer(
        self,
        wanted: Sequence[tuple[Prompt, int]],
        sampling: Sampling,
        *,
        seen: Callable[[int, Completion], object] | None = None,
    ) -> list[Completion]:
        """An answer for each (prompt, number of the answer), in this order.

        An answer depends on the weights, its prompt, its number and the sampling, whichever are asked for
        along with it; but the last bits of its logprobs change with the batch. The same call gives the same
        bits.

        seen: told of each answer when it is ready, as the i-th wanted; the engine waits meanwhile.

        Raises UserError for sampling that vLLM cannot do, for a prompt that does not leave room for an answer
        of max_tokens (see `fits`), and for one with tokens that the model does not have.
        """
        assert self.version is not None, "the engine has no weights: push some first (r1mega.sync)"
        check_sampling(sampling)
        for prompt, _ in wanted:
            self._check(prompt, sampling.max_tokens)
        # Also without new weights: what is cached would change the last bits, and a resumed run has nothing.
        self.engine.reset_prefix_cache()
        with environment.undisturbed():
            return self._run(wanted, sampling, seen or (lambda i, completion: None))

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether the prompt leaves room for an answer of `max_tokens`. Those that do not are the caller's to
        leave out and count."""
        return 0 < len(prompt.token_ids) <= self.options.max_model_len - max_tokens

    def updated(self, version: int) -> None:
        """The weights have been replaced: forget what was computed with the old ones."""
        done = self.engine.reset_prefix_cache()
        assert done, "vLLM keeps its prefix cache while requests are running"
        self.version = version

    def sleep(self) -> None:
        """Give the accelerator's memory to the trainer. Afterwards: wake, then push.

        On CPU nothing is given; but there, too, the weights count as gone, so that a forgotten push shows.
        """
        self.version = None
        if device.on_cuda():
            self.engine.sleep(level=2)  # 2: the weights are not kept, since new ones follow

    def wake(self) -> None:
        """Take the memory back. The weights must be pushed again."""
        if device.on_cuda():
            self.engine.wake_up()

    def close(self) -> None:
        """End the engine and free its memory. A process may then start another one."""
        close(self.engine)
        del self.engine
        self.version = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, prompt: Prompt, max_tokens: int) -> None:
        if strange := [token for token in prompt.token_ids if not 0 <= token < self._vocabulary]:
            raise UserError(
                f"prompt {prompt.id} has the token {strange[0]}; the model knows 0 to "
                f"{self._vocabulary - 1}: the tokenizer belongs to another model"
            )
        if not self.fits(prompt, max_tokens):
            most = self.options.max_model_len
            raise UserError(
                f"prompt {prompt.id} has {len(prompt.token_ids)} tokens; allowed is 1 to "
                f"{most - max_tokens}: max_model_len is {most}, and answers take up to {max_tokens}. Raise "
                "max_model_len, lower max_tokens, or leave the prompt out"
            )

    def _run(
        self,
        wanted: Sequence[tuple[Prompt, int]],
        sampling: Sampling,
        seen: Callable[[int, Completion], object],
    ) -> list[Completion]:
        """Whatever interrupts this, no request stays in the engine."""
        from vllm.inputs.engine import tokens_input

        assert self.version is not None
        finished: dict[int, Completion] = {}
        try:
            for i, (prompt, number) in enumerate(wanted):
                params = sampling_params(sampling, prompt, number, self.tokenizer.eos_id)
                self.engine.add_request(str(i), tokens_input(list(prompt.token_ids)), params)
            while self.engine.has_unfinished_requests():
                beat()
                for request in self.engine.step():
                    i = int(request.request_id)
                    finished[i] = completion(request.outputs[0], self.tokenizer, self.version)
                    seen(i, finished[i])
        except BaseException:  # Ctrl-C, too: the requests would come back as answers to the next call
            self.engine.abort_request([str(i) for i in range(len(wanted)) if i not in finished])
            raise
        return [finished[i] for i in range(len(wanted))]
