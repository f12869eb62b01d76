"""The words before a text: the published ones, and a checkpoint's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx.errors import CheckpointError, InputError
from gemma_mlx.text.tasks import FILE, TASKS, Tasks, load_tasks


def stating(folder: Path, prompts: Any) -> Tasks:
    (folder / FILE).write_text(json.dumps({"prompts": prompts, "default_prompt_name": None}), encoding="utf-8")
    return load_tasks(folder)


# https://ai.google.dev/gemma/docs/embeddinggemma/model_card
@pytest.mark.parametrize(
    ("task", "prompt"),
    [
        ("query", "task: search result | query: "),
        ("document", "title: none | text: "),
        ("question-answering", "task: question answering | query: "),
        ("fact-checking", "task: fact checking | query: "),
        ("code", "task: code retrieval | query: "),
        ("classification", "task: classification | query: "),
        ("clustering", "task: clustering | query: "),
        ("similarity", "task: sentence similarity | query: "),
        ("none", ""),
        (" QUERY ", "task: search result | query: "),
    ],
)
def test_published_prompts(task: str, prompt: str, tmp_path: Path) -> None:
    assert load_tasks(tmp_path).prompt(task) == prompt


def test_the_checkpoint_decides(tmp_path: Path) -> None:
    tasks = stating(tmp_path, {"query": "Q: ", "STS": "S: ", "Legal": "L: ", "Retrieval-query": "not this: "})
    assert [tasks.prompt(task) for task in ("query", "similarity", "legal", "Legal", "Retrieval-query")] == [
        "Q: ", "S: ", "L: ", "L: ", "not this: ",
    ]  # fmt: skip
    assert tasks.prompt("document") == "title: none | text: "


@pytest.mark.parametrize("prompts", [None, {}])
def test_a_checkpoint_that_states_none(prompts: Any, tmp_path: Path) -> None:
    assert stating(tmp_path, prompts).prompts == {name: task.prompt for name, task in TASKS.items()}


def test_titles(tmp_path: Path) -> None:
    tasks = load_tasks(tmp_path)
    assert tasks.prompt("document", "On\n  Mars ") == "title: On Mars | text: "
    assert tasks.prompt("document", "  ") == "title: none | text: "
    with pytest.raises(InputError, match="texts of the task 'query' have none"):
        tasks.prompt("query", "On Mars")


def test_no_such_task(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no task 'retrival'") as caught:
        load_tasks(tmp_path).prompt("retrival")
    assert "query, document" in str(caught.value.hint)


@pytest.mark.parametrize("prompts", [["query"], {"query": 3}, "query"])
def test_damaged(prompts: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'prompts' must be an object of texts"):
        stating(tmp_path, prompts)
