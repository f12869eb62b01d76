"""A loaded model: ids in, logits or ids out. Text and conversations come with its processor and sessions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Integer

from gemma_mlx import device
from gemma_mlx.admission import Admission, Subject, admitted
from gemma_mlx.cache.decoder import DecoderCache
from gemma_mlx.cache.memory import MemoryCache
from gemma_mlx.cache.prefix import PromptCache
from gemma_mlx.cache.source import SourceCache
from gemma_mlx.classifier import Classifier, Verdict
from gemma_mlx.embedder import Embedder
from gemma_mlx.errors import InputError, TokenizerError, UnsupportedModelError
from gemma_mlx.generate.asked import Asked
from gemma_mlx.generate.denoising import Denoising
from gemma_mlx.generate.diffusion import denoise
from gemma_mlx.generate.encode import generate_from_source
from gemma_mlx.generate.events import Canvas, Done, Prefill, Token
from gemma_mlx.generate.loop import generate
from gemma_mlx.generate.sampling import Options
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.nn.drafter import Drafter
from gemma_mlx.nn.encoder import Encoder
from gemma_mlx.nn.encoder_decoder import EncoderDecoder
from gemma_mlx.processor import Processor
from gemma_mlx.registry import Spec
from gemma_mlx.spec import DecoderSpec, StackSpec
from gemma_mlx.text.policies import Policy
from gemma_mlx.text.stop import start_id
from gemma_mlx.weights import hub
from gemma_mlx.weights.load import PER_LAYER, Checkpoint, Loaded, Placement, materialize, named_parameters
from gemma_mlx.weights.load import load as load_weights
from gemma_mlx.weights.slices import Slice
from gemma_mlx.weights.slices import parse as parse_slice

if TYPE_CHECKING:
    from gemma_mlx.session import Session

Tokens = Sequence[int] | Sequence[Sequence[int]] | mx.array


def load(
    name: str | Path,
    dtype: mx.Dtype | None = None,
    *,
    slice: str | Slice | None = None,
    per_layer: Placement = PER_LAYER,
    memory: Admission | None = None,
    grids: bool = True,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Gemma:
    """Opens any checkpoint of an architecture this version runs.

    Args:
        name: a folder, "demo" for the model in the box, a Hugging Face repository id, or a name that the catalogue
            knows: "gemma3:4b", "e4b".
        dtype: what to compute in; bfloat16 on a GPU and float32 on the CPU where None.
        slice: of a Gemma 3n, the part to load, such as "e2b" or "skip=20-24,ffn=8192"; the rest is not read.
        per_layer: where a table of per-layer embeddings is kept: on the "disk", of which a row is read for each token,
            or in "memory".
        grids: round activations as a checkpoint for phones was trained for; without, it is quicker, and not the same.
        memory: asked before weights are read, and before every prompt; `gemma_mlx.quantize.admission.Admission.here()`
            is what `gemma` asks. None lets everything in.
        on_progress: called with (what, bytes done, bytes in all) while the model is fetched and its weights are read at
            once. Without it they are read when they are first used, but for the parts of tensors that a slice takes.

    Raises:
        ModelNotFoundError, CheckpointError, UnsupportedModelError: as their names say, before memory is spent.
        InputError: `dtype`, `slice` or `per_layer` cannot be had.
        MemoryLimitError: `memory` says that the weights do not fit.
    """
    piece = parse_slice(slice) if isinstance(slice, str) else slice
    folder = hub.resolve(str(name), on_progress)

    def admit(checkpoint: Checkpoint, weights: int, itemsize: int) -> None:
        if memory is not None:
            match = checkpoint.match
            memory.load(Subject(str(name), match.model_type, match.spec, weights, itemsize))

    loaded = load_weights(
        folder, dtype=dtype, piece=piece, per_layer=per_layer, grids=grids, on_progress=on_progress, admit=admit
    )  # fmt: skip
    gemma = Gemma(str(name), folder, loaded, memory)
    device.wire()
    if on_progress is not None:
        materialize(gemma.model, on_progress)
    return gemma


class Gemma:
    """A model and where it came from.

    Attributes:
        name: what it was asked for as.
        folder: where its files are.
        model: the network; lazy until used.
        checkpoint: names, sizes and quantization of what is on the disk.
        per_layer: where its table of per-layer embeddings is; None where it has none.
        grids: whether it rounds activations to grids.
        memory: asked before every prompt; None lets everything in.
    """

    memory: Admission | None = None

    def __init__(self, name: str, folder: Path, loaded: Loaded, memory: Admission | None = None) -> None:
        self.name = name
        self.folder = folder
        self.model = loaded.model
        self.checkpoint = loaded.checkpoint
        self.per_layer = loaded.per_layer
        self.grids = loaded.grids
        self.memory = memory

    @property
    def spec(self) -> Spec:
        """Every number of the network."""
        return self.model.spec

    @property
    def decoder(self) -> Decoder:
        """The network, as one that writes.

        Raises:
            UnsupportedModelError: it is an encoder or a drafter.
        """
        if isinstance(self.model, Encoder):
            raise UnsupportedModelError(
                f"{self.name} is an embedding model: it makes vectors of texts, and writes none.",
                f"gemma embed -m {self.name} TEXT; to chat, take a Gemma that ends in -it.",
            )
        if isinstance(self.model, Drafter):
            target, published = self.name.removesuffix("-assistant"), not Path(self.name).exists()
            raise UnsupportedModelError(
                f"{self.name} is a drafter: it proposes tokens to a larger Gemma, which checks them, and writes none "
                "by itself.",
                f"gemma chat {target}"
                if published and target != self.name
                else f"Take the model it was made for, a Gemma 4 that is {self.model.spec.target_dim:,} wide.",
            )
        return self.model

    @property
    def drafter(self) -> Drafter:
        """The network, as one that proposes tokens to another.

        Raises:
            UnsupportedModelError: it is no drafter.
        """
        if not isinstance(self.model, Drafter):
            raise UnsupportedModelError(
                f"{self.name} is no drafter.", "A drafter's name ends in -assistant: google/gemma-4-E2B-it-assistant"
            )
        return self.model

    @property
    def settings(self) -> type[Options] | type[Denoising]:
        """What can be asked of it depends on how it writes: the class whose fields `generate` and `session` take."""
        return Options if self.decoder.spec.canvas is None else Denoising

    @cached_property
    def embedder(self) -> Embedder:
        """Texts -> vectors.

        Raises:
            UnsupportedModelError: the model is no encoder.
            CheckpointError: the tokenizer, or a file about prompts, is damaged or missing.
        """
        if not isinstance(self.model, Encoder):
            _ = self.decoder  # a drafter says what it is
            raise UnsupportedModelError(
                f"{self.name} writes text; it makes no vectors of texts.",
                "Take an embedding model: gemma embed -m google/embeddinggemma-300m TEXT",
            )
        return Embedder(self.model, self.processor.tokenizer, self.folder, self._rows)

    @cached_property
    def classifier(self) -> Classifier:
        """Texts and policies -> probabilities.

        Raises:
            UnsupportedModelError: the model has an encoder, or its vocabulary has no token "Yes" or "No".
        """
        if isinstance(self.decoder, EncoderDecoder):
            raise UnsupportedModelError(
                f"{self.name} is an encoder-decoder, and was not trained to judge texts.",
                "Take a model that was: gemma classify -m google/shieldgemma-2b TEXT",
            )
        return Classifier(self.name, self.decoder.spec, self.processor, self.make_cache, self.answer)

    @cached_property
    def fingerprint(self) -> str:
        """Tells whether a saved cache was computed by these weights, in this dtype: their specs and their last norm.

        Slices of one checkpoint share the norm, and may share the specs.
        """
        norm, piece = self.decoder.model.norm.weight, self.checkpoint.piece
        grids = " on grids" if self.grids else ""
        digest = blake2b(f"{self.spec} {norm.dtype} {piece or ''}{grids}".encode(), digest_size=16)
        digest.update(np.array(norm.astype(mx.float32)).tobytes())
        return digest.hexdigest()

    @cached_property
    def start(self) -> int:
        """The token with which an encoder-decoder's decoder begins an answer.

        Raises:
            ConfigError: the checkpoint names none that the model has.
        """
        return start_id(self.folder, self.checkpoint.config, self.spec.vocab)

    @property
    def _reader(self) -> StackSpec:
        """The layers that read what the user says: the encoder, where there is one."""
        return self.spec.reader if isinstance(self.spec, DecoderSpec) else self.spec

    @cached_property
    def processor(self) -> Processor:
        """Text and conversations -> ids.

        Raises:
            TokenizerError: the checkpoint has no tokenizer that can be read, or that of another model.
        """
        processor = Processor(self.folder)
        tokenizer, rows = processor.tokenizer, self._reader.vocab
        # Control tokens may lie beyond the table: the text-only Gemma 3 have an entry for pictures and no row for it.
        beyond = sum(id >= rows for id in tokenizer.control_tokens.values())
        if tokenizer.vocab_size - beyond > rows:
            raise TokenizerError(
                f"The tokenizer in {self.folder} has {tokenizer.vocab_size:,} entries; the model has {rows:,} rows.",
                "It belongs to another model; copy the tokenizer's files from the one this checkpoint was made from.",
            )
        return processor

    def logits(
        self,
        tokens: Tokens,
        *,
        padding: Sequence[int] | None = None,
        both_ways: int = 0,
        decoder_tokens: Tokens | None = None,
        decoder_padding: Sequence[int] | None = None,
    ) -> Float[mx.array, "B L vocab"]:
        """The logits of whole sequences, without a cache: for perplexity, KL and parity.

        Args:
            tokens: [B L] ids, or [L] for one sequence.
            padding: columns of padding on the left of each row, where rows have unequal lengths.
            both_ways: columns, from the first on, that see each other: the prompt of a PaliGemma. What follows is
                causal, as is the whole where it is 0.
            decoder_tokens: of an encoder-decoder, and of no other: what its decoder writes to `tokens`, the token it
                begins with included; the logits are theirs.
            decoder_padding: as `padding`, of these.

        Returns:
            float32; rows of padding are meaningless.

        Raises:
            InputError: no tokens, an id outside the vocabulary, or an option for what the model does not have.
        """
        model = self.decoder
        ids = self._checked(tokens, self._reader.vocab)
        left = None if padding is None else mx.array(list(padding))
        if both_ways and not model.spec.prompt_both_ways:
            raise InputError(f"{self.name} reads prompts from left to right; both_ways must be 0, and is {both_ways}.")
        if not 0 <= both_ways <= ids.shape[1]:
            raise InputError(f"both_ways must lie between 0 and the {ids.shape[1]} tokens, and is {both_ways}.")
        if not isinstance(model, EncoderDecoder):
            if decoder_tokens is not None or decoder_padding is not None:
                raise InputError(f"{self.name} has no encoder: all it reads are `tokens`.", "Leave decoder_tokens out.")
            cache = DecoderCache.none(model.spec, left)
            cache.both_ways = both_ways
            return model(model.embed(ids), cache).astype(mx.float32)
        if decoder_tokens is None:
            raise InputError(
                f"{self.name} is an encoder-decoder: `tokens` are what it reads, and what it writes is missing.",
                f"logits(tokens, decoder_tokens=[{self.start}, ...]), in as many rows.",
            )
        written = self._checked(decoder_tokens, model.spec.vocab)
        if len(written) != len(ids):
            raise InputError(f"There are {len(ids)} rows of tokens and {len(written)} of decoder_tokens.")
        memories = MemoryCache.none(model.spec, None if decoder_padding is None else mx.array(list(decoder_padding)))
        memories.memory = model.read(ids, None if left is None else mx.arange(ids.shape[1]) >= left[:, None])
        return model(model.embed(written), memories).astype(mx.float32)

    def embed(self, texts: str | Sequence[str], **options: Any) -> Float[mx.array, "N dim"]:
        """One float32 vector for each text, of an embedding model.

        Args:
            texts: any number of them.
            options: of `Embedder.embed`: task, title, size, normalize, truncate, batch, on_progress.

        Raises:
            UnsupportedModelError: the model writes text.
            InputError: a text is too long, or an option is out of its range.
        """
        return self.embedder.embed(texts, **options)

    def classify(
        self,
        texts: str | Sequence[str],
        policies: str | Policy | Sequence[str | Policy] | None = None,
        *,
        responses: str | Sequence[str | None] | None = None,
    ) -> list[Verdict]:
        """How probably each text violates each policy: what ShieldGemma is made for.

        Args:
            texts: what users wrote; a single one gives a list of one verdict.
            policies: names of published ones ("dangerous-content", "harassment", "hate-speech", "sexually-explicit"),
                or a `Policy` of your own; all four where None.
            responses: what a chatbot answered to each text; where there is one, the answer is judged.

        Raises:
            UnsupportedModelError: the model makes vectors, or its vocabulary has no token "Yes" or "No".
            InputError: a text does not fit the model's context, or there is no such policy.
        """
        return list(self.classifier.classify(texts, policies, responses=responses))

    @cached_property
    def subject(self) -> Subject:
        """What an estimate of memory needs to know."""
        weights = sum(array.nbytes for _, array in named_parameters(self.model))
        itemsize = self.model.model.norm.weight.dtype.size
        return Subject(self.name, self.checkpoint.match.model_type, self.spec, weights, itemsize)

    def make_cache(self, kv_bits: int | None = None) -> PromptCache:
        """An empty cache that `answer` fills, and finds again.

        Args:
            kv_bits: 8 or 4 packs keys and values of the layers without a window; None keeps them as computed.

        Raises:
            InputError: they cannot be packed so.
        """
        model = self.decoder
        if isinstance(model, EncoderDecoder):
            return SourceCache(model.make_cache(kv_bits=kv_bits))
        return PromptCache(model.make_cache(kv_bits=kv_bits))

    def answer(
        self,
        cache: PromptCache,
        prompt: Sequence[int],
        options: Asked,
        *,
        stop_ids: Collection[int] = (),
        boundaries: Collection[int] = (),
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[Prefill | Canvas | Token | Done]:
        """Answers a sequence of ids with the engine this kind of model needs; arguments as `generate.loop` has them.

        Args:
            options: of the class that `settings` is.

        Raises:
            MemoryLimitError: `memory` says that the prompt does not fit.
        """
        model, ask = self.decoder, cancelled or (lambda: False)
        if isinstance(model, EncoderDecoder) and isinstance(cache, SourceCache):
            options = self.admitted(cache, len(prompt), options)
            assert isinstance(options, Options)
            return generate_from_source(
                model, cache, prompt, options, start=self.start, stop_ids=stop_ids, cancelled=ask
            )  # fmt: skip
        if model.spec.prompt_both_ways:  # in one chunk, and all anew where it is another
            cache.read_both_ways(prompt)
            options, boundaries = replace(options, chunk=max(options.chunk, len(prompt))), ()
        cut = any(0 < boundary < len(prompt) for boundary in boundaries)
        options = self.admitted(cache, len(prompt), options, cut=cut)
        engine: Any = generate if model.spec.canvas is None else denoise
        events: Iterator[Prefill | Canvas | Token | Done] = engine(
            model, cache, prompt, options, stop_ids=stop_ids, boundaries=boundaries, cancelled=ask
        )
        return events

    def admitted(self, cache: PromptCache, tokens: int, options: Asked, *, cut: bool = True) -> Asked:
        """`options` as there is memory for them, and `cache` packed where it must be; for the whole of an answer.

        Args:
            cache: that will read the prompt.
            tokens: of the prompt; with `cut` they are read to positions that are marked, and not only chunk by chunk.
            options: how it was to be answered.

        Raises:
            MemoryLimitError: `memory` says that the prompt does not fit.
        """
        if self.memory is None or not tokens:
            return options
        return admitted(self.memory, self.subject, self.decoder.spec, cache, tokens, options, cut=cut)

    def _rows(self, rows: int, tokens: int) -> int:
        """How many of so many rows, each so many tokens long, there is memory for at once."""
        return rows if self.memory is None else self.memory.encode(self.subject, rows, tokens)

    def generate(self, tokens: Tokens, **options: Any) -> list[int]:
        """Continues a sequence of ids and returns the new ones; greedy unless asked otherwise.

        An encoder-decoder answers the sequence instead; the token its decoder begins with is not among the new ones.

        Args:
            tokens: [L] ids, `<bos>` included; no tokenizer takes part.
            options: fields of `settings`, by default temperature=0 and max_tokens=64; `stop_ids` ends the text. Models
                that fill canvases have no temperature to set: there `seed` makes the ids repeatable. `kv_bits` as
                `make_cache` has it.
        """
        stop_ids, kv_bits = frozenset(options.pop("stop_ids", ())), options.pop("kv_bits", None)
        prompt = self._checked(tokens, self._reader.vocab)
        if prompt.shape[0] != 1:
            raise InputError(f"generate continues one sequence, and was given {prompt.shape[0]}.")
        self.settings.check(options)
        greedy = {"temperature": 0.0} if self.decoder.spec.canvas is None else {}
        chosen = self.settings(**{"max_tokens": 64} | greedy | options)
        ids: list[int] = prompt[0].tolist()  # type: ignore[assignment]
        events = self.answer(self.make_cache(kv_bits), ids, chosen, stop_ids=stop_ids)
        return [event.id for event in events if isinstance(event, Token)]

    def session(self, *, system: str | None = None, **options: Any) -> Session:
        """A conversation with this model.

        Args:
            system: instructions that stand before the first message.
            options: `kv_bits`, `tools`, `think` and `languages`, and fields of `Options` in place of the defaults.
        """
        from gemma_mlx.session import Session

        return Session(self, system=system, **options)

    def _checked(self, tokens: Tokens, vocab: int) -> Integer[mx.array, "B L"]:
        try:
            ids = tokens if isinstance(tokens, mx.array) else mx.array(tokens)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise InputError(f"Token ids must be whole numbers, in rows of one length: {error}.") from error
        ids = ids[None] if ids.ndim == 1 else ids
        if ids.ndim != 2 or not ids.size or not mx.issubdtype(ids.dtype, mx.integer):
            raise InputError(f"Token ids must be integers [B L] or [L]; these are {ids.dtype} {list(ids.shape)}.")
        low, high = ids.min().item(), ids.max().item()
        if low < 0 or high >= vocab:  # type: ignore[operator]
            raise InputError(f"Token ids must lie between 0 and {vocab - 1}; these reach from {low} to {high}.")
        return ids
