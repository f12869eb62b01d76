"""Makes what lies beside this file: small tokenizers in the shape of Gemma's, and the ids transformers gives for them.

    python make_text_goldens.py TOKENIZERS

TOKENIZERS holds `gemma` and `gemma3`, each with the tokenizer.json (or tokenizer.json.xz) and tokenizer_config.json of
a published checkpoint. Written are, for each of the two,

    NAME_small/tokenizer.json.xz    a few thousand of its entries, with its own merges, normalizer and added tokens
    NAME_small.json                 ids of the corpus and of conversations by the small tokenizer
    NAME.json                       the same by the real one, for tests that are given it (GEMMA_TOKENIZERS=TOKENIZERS)

and gemma3_small/tokenizer.model.xz, the small vocabulary of Gemma 3 as a SentencePiece model.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from transformers import AutoTokenizer, PreTrainedTokenizerBase

HERE = Path(__file__).parent
MOST_COMMON = 2200
CONTROL_OF_GEMMA = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>"]  # ordinary entries in Gemma 1's file


def read_tokenizer(folder: Path) -> dict[str, Any]:
    packed = folder / "tokenizer.json.xz"
    data = lzma.decompress(packed.read_bytes()) if packed.exists() else (folder / "tokenizer.json").read_bytes()
    return json.loads(data)


def texts() -> list[str]:
    """The corpus; an entry {"text", "times"} stands for a repeated text."""
    corpus = json.loads((HERE / "corpus.json").read_text(encoding="utf-8"))
    return [entry if isinstance(entry, str) else entry["text"] * entry["times"] for entry in corpus["texts"]]


def conversations() -> list[list[dict[str, str]]]:
    return json.loads((HERE / "corpus.json").read_text(encoding="utf-8"))["conversations"]


def load(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """transformers' tokenizer, told the control tokens that Gemma 1's file does not mark."""
    return AutoTokenizer.from_pretrained(folder, extra_special_tokens=CONTROL_OF_GEMMA if name == "gemma" else None)


def shrink(real: dict[str, Any], reference: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The entries the corpus needs, the most common ones, and those they are merged from, in their old order."""
    vocab: dict[str, int] = real["model"]["vocab"]
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in real["model"]["merges"]]
    first_merge: dict[str, tuple[str, str]] = {}
    for left, right in merges:
        first_merge.setdefault(left + right, (left, right))
    added = [token["content"] for token in real["added_tokens"]]
    keep = {token for token in added if not token.startswith("<unused")} | {"<unused0>", "<unused1>", "<unused99>"}
    keep |= {token for token in vocab if token.startswith("<0x") and len(token) == 6}
    keep |= {
        token for token in (*CONTROL_OF_GEMMA, "<mask>", "<table>", "<h1>", "</h1>", "<unused0>") if token in vocab
    }
    ordinary = [left + right for left, right in merges if not (left + right).isspace() and (left + right).strip("▁")]
    keep |= set(sorted(set(ordinary), key=vocab.__getitem__)[:MOST_COMMON])
    keep |= {token for text in texts() for token in reference.convert_ids_to_tokens(reference.encode(text))}

    def close(token: str) -> Iterator[str]:
        yield token
        if token in first_merge:
            for part in first_merge[token]:
                yield from close(part)

    keep = {part for token in keep for part in close(token)} & (vocab.keys() | set(added))
    old_ids = {token["content"]: token["id"] for token in real["added_tokens"]} | vocab
    ids = {token: id for id, token in enumerate(sorted(keep, key=old_ids.__getitem__))}
    strings = isinstance(real["model"]["merges"][0], str)
    kept = [(left, right) for left, right in merges if {left, right, left + right} <= vocab.keys() & keep]
    return real | {
        "added_tokens": [
            token | {"id": ids[token["content"]]} for token in real["added_tokens"] if token["content"] in keep
        ],
        "model": real["model"]
        | {
            "vocab": {token: id for token, id in ids.items() if token in vocab},
            "merges": [f"{left} {right}" if strings else [left, right] for left, right in kept],
        },
    }


def as_model(small: dict[str, Any]) -> bytes:
    """The same vocabulary as a SentencePiece model, typed as Google's are: turn tokens are user-defined."""
    types = sentencepiece_model_pb2.ModelProto.SentencePiece.Type
    added = {token["content"] for token in small["added_tokens"]}
    model = sentencepiece_model_pb2.ModelProto()
    made = defaultdict(lambda: types.NORMAL, {"<unk>": types.UNKNOWN})
    made |= dict.fromkeys(("<pad>", "<eos>", "<bos>"), types.CONTROL)
    for token, id in small["model"]["vocab"].items():
        kind = types.BYTE if token.startswith("<0x") and len(token) == 6 else made[token]
        if kind == types.NORMAL and token in added:
            kind = types.USER_DEFINED
        model.pieces.add(piece=token, score=0.0 if kind != types.NORMAL else -float(id), type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback, trainer.vocab_size = trainer.BPE, True, len(model.pieces)
    trainer.pad_id, trainer.eos_id, trainer.bos_id, trainer.unk_id = 0, 1, 2, 3
    trainer.pad_piece, trainer.eos_piece, trainer.bos_piece, trainer.unk_piece = "<pad>", "<eos>", "<bos>", "<unk>"
    normalizer.name, normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = "identity", False, False
    return model.SerializeToString(deterministic=True)


def shorten(ids: Iterable[int]) -> list[int] | str:
    """Ids, or for a long text their number and hash."""
    ids = list(ids)
    return ids if len(ids) <= 400 else f"{len(ids)} {hashlib.sha256(json.dumps(ids).encode()).hexdigest()}"


def goldens(reference: PreTrainedTokenizerBase, takes_system: bool, model: bytes | None = None) -> dict[str, Any]:
    """Ids by transformers: texts with control tokens left as text, and parsed; conversations the same way."""
    result: dict[str, Any] = {"plain": [], "control": [], "conversations": []}
    for text in texts():
        plain = reference.encode(text, add_special_tokens=False, split_special_tokens=True)
        result["plain"].append(shorten(plain))
        result["control"].append(shorten(reference.encode(text, add_special_tokens=False)))
    for messages in conversations():
        if messages[0]["role"] == "system" and not takes_system:
            result["conversations"].append(None)
            continue
        typed = reference.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        result["conversations"].append({
            "text": typed,
            "typed": reference.apply_chat_template(messages, add_generation_prompt=True)["input_ids"],
            "safe": reference.apply_chat_template(
                messages, add_generation_prompt=True, sanitize_control_tokens=True
            )["input_ids"],
        })  # fmt: skip
    if model is not None:
        processor = SentencePieceProcessor()
        processor.LoadFromSerializedProto(model)
        result["sentencepiece"] = [shorten(processor.encode(text)) for text in texts()]
    return result


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def main() -> None:
    given = Path(sys.argv[1])
    for name in ("gemma", "gemma3"):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / name
            folder.mkdir()
            real = read_tokenizer(given / name)
            write_json(folder / "tokenizer.json", real)
            shutil.copy(given / name / "tokenizer_config.json", folder)
            template = (HERE / f"{name}_small" / "chat_template.jinja").read_text(encoding="utf-8")
            reference = load(folder, name)
            reference.chat_template = reference.chat_template or template
            write_json(HERE / f"{name}.json", goldens(reference, name != "gemma"))

            target = HERE / f"{name}_small"
            small = shrink(real, reference)
            folder = Path(temporary) / "small"
            shutil.copytree(target, folder)
            write_json(folder / "tokenizer.json", small)
            packed = lzma.compress((folder / "tokenizer.json").read_bytes(), preset=9 | lzma.PRESET_EXTREME)
            (target / "tokenizer.json.xz").write_bytes(packed)
            model = as_model(small) if name == "gemma3" else None
            if model is not None:
                (target / "tokenizer.model.xz").write_bytes(lzma.compress(model, preset=9 | lzma.PRESET_EXTREME))
            write_json(HERE / f"{name}_small.json", goldens(load(folder, name), name != "gemma", model))
            print(f"{name}_small: {len(small['model']['vocab'])} entries, {len(small['model']['merges'])} merges")


if __name__ == "__main__":
    main()
