"""What an embedding model is told about a text: a few words before it that name the task.

The words are part of what the model was trained on. A checkpoint in the layout of sentence-transformers states them;
for one that does not, these are those of EmbeddingGemma's model card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from gemma_mlx.errors import CheckpointError, InputError
from gemma_mlx.text.files import exists, read_json_object

FILE: Final = "config_sentence_transformers.json"
LIMIT_BYTES: Final = 1 << 20
NONE: Final = "none"


class Task(NamedTuple):
    """What a text is embedded for.

    Attributes:
        prompt: the words before it.
        keys: names that checkpoints have for it.
        about: when to take it.
    """

    prompt: str
    keys: tuple[str, ...]
    about: str


TASKS: Final[Mapping[str, Task]] = {
    "query": Task(
        "task: search result | query: ", ("query", "Retrieval-query", "SearchQuery"), "what someone searches for"
    ),
    "document": Task(
        "title: none | text: ", ("document", "Retrieval-document", "Document"), "what is searched through"
    ),
    "question-answering": Task(
        "task: question answering | query: ", ("QuestionAnswering",), "a question that a document answers"
    ),
    "fact-checking": Task("task: fact checking | query: ", ("FactChecking",), "a claim that documents speak about"),
    "code": Task(
        "task: code retrieval | query: ", ("CodeRetrieval", "InstructionRetrieval"), "words that describe code"
    ),
    "classification": Task("task: classification | query: ", ("Classification",), "texts to be told apart by label"),
    "clustering": Task("task: clustering | query: ", ("Clustering",), "texts to be grouped"),
    "similarity": Task(
        "task: sentence similarity | query: ", ("STS", "SentenceSimilarity"), "texts to be compared with each other"
    ),
}

_TITLE: Final = re.compile(r"\Atitle: none \|")


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """The prompts of one checkpoint.

    Attributes:
        prompts: name -> the words before a text. Ours come first, then those of the checkpoint that have other names.
    """

    prompts: Mapping[str, str]

    def prompt(self, task: str, title: str | None = None) -> str:
        """The words before a text.

        Args:
            task: a name, in any case; "none" for no words at all.
            title: of the document, where it has one.

        Raises:
            InputError: there is no such task, or its texts have no title.
        """
        lower = {name.lower(): name for name in reversed(list(self.prompts))}
        name = lower.get(task.strip().lower())
        if name is None and task.strip().lower() != NONE:
            raise InputError(f"There is no task {task!r}.", f"Take one of: {', '.join((*TASKS, NONE))}.")
        prompt = "" if name is None else self.prompts[name]
        if title is None:
            return prompt
        if not _TITLE.match(prompt):
            raise InputError(
                f"A title was given, and texts of the task {task!r} have none.",
                "Titles belong to documents: --task document.",
            )
        return f"title: {' '.join(title.split()) or 'none'} |" + prompt.removeprefix("title: none |")


def load_tasks(folder: Path) -> Tasks:
    """The prompts that `folder` states, and the published ones where it states none.

    Raises:
        CheckpointError: config_sentence_transformers.json is damaged.
    """
    stated: dict[str, str] = {}
    if exists(path := folder / FILE):
        found = read_json_object(path, LIMIT_BYTES, CheckpointError).get("prompts") or {}
        if not isinstance(found, dict) or not all(isinstance(prompt, str) for prompt in found.values()):
            raise CheckpointError(
                f"{path}: 'prompts' must be an object of texts.", "Fetch the file again, or undo the edit."
            )
        stated = found
    prompts = {
        name: next((stated[key] for key in task.keys if key in stated), task.prompt) for name, task in TASKS.items()
    }
    return Tasks(prompts=prompts | {name: prompt for name, prompt in stated.items() if name not in prompts})
