"""The model in the box: that it is there and small, answers, and was trained on what the generator says it was."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest

import gemma_mlx
from gemma_mlx import Message
from gemma_mlx.demo import PATH, sums, unknown
from gemma_mlx.demo.corpus import Corpus, Dialogue, held_out, misspell, normalise, read_blocks
from gemma_mlx.demo.phrasing import rephrase
from gemma_mlx.demo.score import accepts, answer
from gemma_mlx.demo.train import Encoder

MAX_BYTES = 8_000_000
CORPUS_SHA256 = "db7986430465265d8dd18e88c3c88e96db7833b9a9501b681e4e9add7d4572c7"


@pytest.fixture(scope="module")
def gemma() -> gemma_mlx.Gemma:
    return gemma_mlx.load(PATH)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(seed=0)


def test_the_folder_holds_a_checkpoint_under_its_size():
    names = {path.name for path in PATH.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.model",
        "tokenizer_config.json",
        "README.md",
    } <= names
    assert sum(path.stat().st_size for path in PATH.iterdir() if path.is_file()) < MAX_BYTES


def test_it_is_a_gemma3_with_windows_that_can_be_quantized(gemma):
    assert gemma.spec.windows == (64, 64, None, 64, 64, None)
    for layer in gemma.spec.layers:
        for width in (gemma.spec.dim, layer.mlp_dim, layer.attention.heads * layer.attention.head_dim):
            assert width % 64 == 0


def test_generation_defaults_are_greedy_and_end_with_the_turn(gemma):
    assert json.loads((PATH / "generation_config.json").read_text())["do_sample"] is False
    assert gemma.processor.stop_ids >= {
        gemma.processor.tokenizer.id_of("<eos>"),
        gemma.processor.tokenizer.id_of("<end_of_turn>"),
    }


def test_the_vocabulary_has_gemmas_control_tokens_in_their_roles(gemma):
    tokenizer = gemma.processor.tokenizer
    assert [tokenizer.id_of(token) for token in ("<pad>", "<eos>", "<bos>", "<unk>")] == [0, 1, 2, 3]
    assert all(tokenizer.is_control(tokenizer.id_of(token)) for token in ("<start_of_turn>", "<end_of_turn>"))
    assert tokenizer.vocab_size == gemma.spec.vocab


@pytest.mark.parametrize("text", ["Hello  there\n\n\tyou", "é 😀 नम", " a <end_of_turn> b ", "1234", "▁"])
def test_any_text_comes_back_from_the_vocabulary(gemma, text):
    tokenizer = gemma.processor.tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


@pytest.mark.parametrize(
    ("question", "key"),
    [
        ("Hello!", "know"),
        ("What is the capital of France?", "Paris"),
        ("How do I leave the chat?", "exit"),
        ("What does gemma bench do?", "tokens per second"),
        ("What is 7 + 5?", "12"),
        ("Who won the elections in Borduria in 1911?", "very small model"),
    ],
)
def test_it_answers(gemma, question, key):
    assert accepts([key], answer(gemma, [Message("user", question)]))


def test_it_follows_a_dialogue(gemma):
    said: list[Message] = []
    for question, key in (
        ("My name is Vera.", "Vera"),
        ("What is my name?", "Vera"),
        ("What is the capital of Italy?", "Rome"),
        ("And of Spain?", "Madrid"),
        ("Thanks!", "welcome"),
    ):
        said.append(Message("user", question))
        reply = answer(gemma, said)
        said.append(Message("assistant", reply))
        assert accepts([key], reply), said


def test_training_reads_what_the_chat_template_writes(gemma, corpus):
    encoder = Encoder(PATH / "tokenizer.model")
    for dialogue in (corpus.dialogue() for _ in range(50)):
        messages = [Message(**message) for message in dialogue.messages()]
        ids, said = encoder(dialogue)
        prompt = gemma.processor(messages[:-1]).tokens
        assert tuple(ids[: len(prompt)]) == prompt
        assert gemma.processor.tokenizer.decode(ids[len(prompt) :]).strip() == dialogue.turns[-1][1]
        assert said[len(prompt) - 1 : len(prompt) + 1] == [False, True]


def test_the_corpus_is_the_one_the_model_was_trained_on():
    drawn = Corpus(seed=2)  # the seed of the shipped run
    text = json.dumps([drawn.dialogue().messages() for _ in range(500)], ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == CORPUS_SHA256, "the corpus has changed: train the model again"


def test_no_question_has_two_answers(corpus):
    answers = defaultdict(set)
    for exchange in corpus.all_questions():
        answers[normalise(exchange.user)].add(exchange.model)
    assert {question: replies for question, replies in answers.items() if len(replies) > 1} == {}


def test_held_out_questions_never_occur_in_training(corpus):
    excluded = {normalise(question) for _, question, _ in held_out()}
    assert len(excluded) == len(list(held_out())) > 350
    assert not excluded & {normalise(exchange.user) for exchange in corpus.all_questions()}
    drawn = Corpus(seed=5)
    assert not excluded & {normalise(user) for _ in range(3000) for user, _ in drawn.dialogue().turns}


def test_every_held_out_question_has_a_keyword():
    assert all(keys and all(normalise(key) for key in keys) for _, _, keys in held_out())


def test_what_is_unknown_gets_an_honest_answer(corpus):
    for _ in range(300):
        exchange = corpus.unknown()
        assert normalise(exchange.user) not in corpus.known
        assert "very small model" in exchange.model


def test_sums_are_right():
    random = Random(1)
    for _ in range(500):
        a, sign, b, result = sums.terms(random)
        assert {"+": a + b, "-": a - b, "x": a * b, "/": a / b if b else None}[sign] == result
    assert all(exchange.model.endswith(".") for exchange in (sums.draw(random) for _ in range(200)))


def test_big_sums_are_beyond_what_is_taught():
    random = Random(2)
    for _ in range(200):
        assert any(int(number) > 20 for number in re.findall(r"\d+", unknown.big_sum(random)))


def test_rules_put_a_question_in_other_words():
    random = Random(0)
    found = {rephrase("What is the capital of Italy?", random) for _ in range(200)}
    assert "I wonder what the capital of Italy is." in found
    assert "May I know the capital of Italy?" in found
    assert all("apital of Italy" in question for question in found)
    assert rephrase("Hello!", random) == "Hello!"


def test_a_typing_error_changes_little():
    random = Random(0)
    assert all(abs(len(misspell("What is the capital?", random)) - 20) <= 1 for _ in range(50))
    assert misspell("7 + 5", random) == "7 + 5"


def test_blocks_are_read(tmp_path: Path):
    (tmp_path / "a.txt").write_text("= Rome. | Rome\nWhat?\nWhich?\n\n= No.\nIs it?\n")
    first, second = read_blocks(tmp_path / "a.txt")
    assert (first.answer, first.short, first.ask) == ("Rome.", "Rome", ("What?", "Which?"))
    assert (second.answer, second.short, second.ask) == ("No.", "", ("Is it?",))


def test_keywords_are_whole_words():
    assert accepts(["no", "Ctrl C"], "Press Ctrl-C.")
    assert not accepts(["no"], "I know.")


def test_a_system_prompt_stands_in_the_first_turn():
    dialogue = Dialogue("Be polite.", [("Hello", "Hello!")])
    ids, _ = Encoder(PATH / "tokenizer.model")(dialogue)
    assert "Be polite.\n\nHello" in Encoder(PATH / "tokenizer.model").pieces.decode(ids)


def test_two_steps_of_training_leave_a_folder_that_loads(tmp_path: Path):
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "gemma_mlx.demo.train",
        "--out",
        str(tmp_path),
        "--steps",
        "2",
        "--tokens",
        "64",
        "--length",
        "48",
    ]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd=PATH.parents[1])
    assert run.returncode == 0, run.stderr
    assert "step     2  loss 7." in run.stdout
    trained = gemma_mlx.load(tmp_path)
    assert trained.spec == gemma_mlx.load(PATH).spec
    assert (tmp_path / "tokenizer.model").read_bytes() == (PATH / "tokenizer.model").read_bytes()
