"""R1's tokens on other tokenizers, as transformers reads the result; the template, as DeepSeek's renders."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)  # fmt: skip

from r1mega.data import toy
from r1mega.data.chat import training_chat
from r1mega.data.graft import graft, needs
from r1mega.data.graft_files import ORDINARY
from r1mega.data.graft_plan import ANSWER_TAGS, R1_TOKENS, Place, plan
from r1mega.data.tokenizers import load_tokenizer, train_sentencepiece
from r1mega.types import UserError

BOS, EOS, USER, ASSISTANT, THINK, END = (token.text for token in R1_TOKENS)
NAMES = [token.text for token in R1_TOKENS]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": f"{THINK}\nhm\n{END}\n\n4"},
    {"role": "user", "content": "3+3?"},
]

# How Qwen2 splits texts into words: transformers puts it on every folder whose config says qwen2.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write(folder: Path, tokenizer: Tokenizer, settings: dict[str, Any], config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def split_by(pattern: str) -> Any:
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(special: list[str], words: int = 400) -> Tokenizer:
    """A small tokenizer of the kind that Llama-3 and Qwen2.5 have, special tokens behind the vocabulary."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = split_by(WORDS)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=words, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(ORDINARY * 5, trainer)
    made.add_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return made


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """Qwen2.5's ways: no bos, a stop token that also pads, no reserved tokens; small files beside it."""
    settings = {
        "bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
        "chat_template": "{{ messages[0].content }}", "additional_special_tokens": ["<|im_start|>"],
        "split_special_tokens": False,
    }  # fmt: skip
    config = {"model_type": "qwen2", "eos_token_id": 400, "vocab_size": 410}
    made = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    folder = write(tmp_path / "qwen", made, settings, config)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [400, 402], "top_p": 0.9}))
    (folder / "LICENSE").write_text("a licence")
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """Llama-3's ways: bos before every text, reserved tokens, no padding."""
    names = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(5))]
    made = byte_level([*names[:4], "<|start_header_id|>", *names[4:]])
    bos = processors.TemplateProcessing(single=f"{names[0]} $A", special_tokens=[(names[0], 400)])
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos])
    settings = {
        "bos_token": {"__type": "AddedToken", "content": names[0]},
        "eos_token": names[1],
        "clean_up_tokenization_spaces": True,
    }
    return write(tmp_path / "llama", made, settings, {"model_type": "llama", "vocab_size": 408})


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """The toy's SentencePiece model in its Hugging Face form, with think tags of its own."""
    made = train_sentencepiece(
        toy.corpus(500, 0, (2, 3)), tmp_path / "toy.model", vocab_size=400, symbols=toy.THINK_TAGS
    )
    folder = tmp_path / "sums"
    made.save(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    return folder


def auto(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=True)


def read_alike(before: Path, after: Path, ids: dict[str, int]) -> None:
    """transformers and we read new tokens as one id and ordinary text as before."""
    old, new, ours = auto(before), auto(after), load_tokenizer(after)
    for text, number in ids.items():
        assert new.encode(text, add_special_tokens=False) == [number] == ours.encode(text)
        assert new.convert_ids_to_tokens(number) == text
    unchanged = load_tokenizer(before)
    for text in ORDINARY:
        same = unchanged.encode(text)
        assert new.encode(text, add_special_tokens=False) == same == ours.encode(text)
        assert old.encode(text, add_special_tokens=False) == same
        assert new.decode(same) == old.decode(same, clean_up_tokenization_spaces=False) == ours.decode(same)
    assert (new.bos_token_id, new.eos_token_id) == (ids[BOS], ids[EOS]) == (ours.bos_id, ours.eos_id)
    assert new("x")["input_ids"] == [ids[BOS], *ours.encode("x")]
    assert ours.decode([ids[BOS], ids[USER], *ours.encode(f"{THINK}1{END}"), ids[EOS]]) == f"{THINK}1{END}"


def test_on_free_rows(qwen: Path, tmp_path: Path) -> None:
    assert needs(qwen) == NAMES
    ids = graft(qwen, tmp_path / "new", rows=408)
    assert ids == {BOS: 403, EOS: 400, USER: 404, ASSISTANT: 405, THINK: 406, END: 407}
    assert needs(tmp_path / "new") == []
    read_alike(qwen, tmp_path / "new", ids)
    new = auto(tmp_path / "new")
    assert new.pad_token == EOS and len(new) == 408
    assert new.convert_tokens_to_ids("<|im_start|>") == 401, "what is there stays"


def test_on_reserved_tokens(llama: Path, tmp_path: Path) -> None:
    """Beginning and end keep the tokens that the model has learned them by."""
    ids = graft(llama, tmp_path / "new", rows=408)
    assert ids == {BOS: 400, EOS: 401, USER: 402, ASSISTANT: 403, THINK: 405, END: 406}
    read_alike(llama, tmp_path / "new", ids)
    new = auto(tmp_path / "new")
    assert len(new) == 408 and new.pad_token == EOS
    assert new.convert_tokens_to_ids("<|reserved_special_token_4|>") == 407


def test_on_sentencepiece(sums: Path, tmp_path: Path) -> None:
    size = load_tokenizer(sums).vocab_size
    assert needs(sums) == NAMES[:4]
    ids = graft(sums, tmp_path / "new", rows=size + 2, tokens=(*R1_TOKENS, *ANSWER_TAGS))
    own = {text: load_tokenizer(sums).encode(text)[0] for text in toy.THINK_TAGS}
    assert ids == {BOS: 1, EOS: 2, USER: size, ASSISTANT: size + 1, **own}
    read_alike(sums, tmp_path / "new", ids)
    assert not (tmp_path / "new" / "tokenizer.model").exists(), "it knows nothing of the new tokens"
    assert auto(tmp_path / "new").pad_token == "<pad>"


def test_a_graft_of_a_graft_changes_nothing(qwen: Path, tmp_path: Path) -> None:
    ids = graft(qwen, tmp_path / "one", rows=410)
    assert graft(tmp_path / "one", tmp_path / "two", rows=410) == ids
    for file in (tmp_path / "one").iterdir():
        assert (
            json.loads(file.read_text()) == json.loads((tmp_path / "two" / file.name).read_text())
            if (file.suffix == ".json")
            else file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
        )


def test_small_files_come_along_and_name_the_new_stop_token(qwen: Path, tmp_path: Path) -> None:
    ids = graft(qwen, tmp_path / "new", rows=410)
    expected = {"bos_token_id": ids[BOS], "eos_token_id": ids[EOS], "pad_token_id": ids[EOS]}
    config, generation = (
        json.loads((tmp_path / "new" / name).read_text())
        for name in ("config.json", "generation_config.json")
    )
    assert config == {"model_type": "qwen2", "vocab_size": 410, **expected}
    assert generation == {"top_p": 0.9, **expected}
    assert (tmp_path / "new" / "LICENSE").read_text() == "a licence"


@pytest.mark.parametrize("kind", ["qwen", "llama", "sums"])
def test_the_template_renders_as_deepseeks(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, shared: Path
) -> None:
    """The reference: a description of DeepSeek's rendered format, made by others."""
    rendered = json.loads((shared / "tokenizers/chat_templates/rendered_formats.json").read_text())
    [form] = [value for name, value in rendered.items() if name.startswith("deepseek_r1_distill")]
    graft(request.getfixturevalue(kind), tmp_path / "new", rows=1000)
    new = auto(tmp_path / "new")
    first = (
        form["order"]
        .replace("{bos}", BOS)
        .replace("{system}", "Be brief.")
        .replace("{user}", "2+2?")
        .replace("{answer after </think>}", "\n\n4")
    )
    expected = f"{first}{USER}3+3?{form['generation_prompt']}"
    assert new.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True) == expected
    ids = new.apply_chat_template(TURNS, add_generation_prompt=True)["input_ids"]
    assert ids == load_tokenizer(tmp_path / "new").encode(expected)
    assert ids.count(new.bos_token_id) == 1 and ids[0] == new.bos_token_id


def test_thoughts_need_not_be_opened(qwen: Path, tmp_path: Path) -> None:
    graft(qwen, tmp_path / "new", rows=410, open_thoughts=False)
    closed = auto(tmp_path / "new")
    ask: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
    assert closed.apply_chat_template(TURNS[1:2], **ask) == f"{BOS}{USER}2+2?{ASSISTANT}"
    opened = closed.apply_chat_template(TURNS[1:2], **ask, open_thoughts=True)
    assert opened == f"{BOS}{USER}2+2?{ASSISTANT}{THINK}\n"
    with pytest.raises(Exception, match="not of tool"):
        closed.apply_chat_template([{"role": "tool", "content": "x"}], **ask)


def test_answers_follow_what_the_prompt_has_opened(qwen: Path, tmp_path: Path) -> None:
    for opened in (True, False):
        graft(qwen, tmp_path / "new", rows=410, open_thoughts=opened)
        chat = training_chat(tmp_path / "new", load_tokenizer(tmp_path / "new"))
        assert (
            chat.begins_with_bos and chat.ending == EOS and chat.opening == (f"{THINK}\n" if opened else "")
        )
        rows = {
            f"{THINK}\nhm\n{END}\n\n4": f"hm\n{END}\n\n4",
            f"{THINK} hm {END} 4": f"hm {END} 4",
            f" {THINK}hm{END}4": f"hm{END}4",
            f"{THINK}\n\n{END}\n\n4": f"\n{END}\n\n4",
            "4, simply": f"\n{END}\n\n4, simply",
            f"hm{END}4": f"hm{END}4",
        }
        for response, behind in rows.items():
            assert chat.answer(response) == (behind if opened else response)


def test_no_room(qwen: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=f"no room for {THINK}, {END}: .* uses 403 of the 406 rows .* least 2"
    ):
        graft(qwen, tmp_path / "new", rows=406)
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_grafted_on(tmp_path: Path, qwen: Path) -> None:
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        needs(tmp_path)
    backend = json.loads((qwen / "tokenizer.json").read_text())
    (qwen / "tokenizer.json").write_text(json.dumps(backend | {"model": {"type": "Unigram", "vocab": []}}))
    with pytest.raises(UserError, match="no BPE tokenizer"):
        graft(qwen, tmp_path / "new", rows=410)


def test_a_tokenizer_with_gaps_is_refused(qwen: Path, tmp_path: Path) -> None:
    """The tokenizers library numbers added tokens by itself: a gap would shift every id behind it."""
    backend = json.loads((qwen / "tokenizer.json").read_text())
    backend["added_tokens"][-1]["id"] = 405
    (qwen / "tokenizer.json").write_text(json.dumps(backend))
    with pytest.raises(UserError, match="gaps among its ids"):
        graft(qwen, tmp_path / "new", rows=420)
    assert not (tmp_path / "new").exists()


def test_where_tokens_go() -> None:
    """Existing ones, the model's own ends, reserved ones by number, free rows. One for both ends: eos."""
    placeholder = "<\uff5cplace▁holder▁no▁1\uff5c>"
    names = [THINK, "<|e|>", placeholder, "<|reserved_special_token_0|>"]
    added = [{"id": i, "content": text} for i, text in enumerate(names, 3)]
    tokenizer = {"model": {"vocab": {"a": 0, "b": 1, "c": 2}}, "added_tokens": added}
    both = {"bos_token": "<|e|>", "eos_token": "<|e|>"}
    assert plan(tokenizer, both, R1_TOKENS, 9, "x") == {
        BOS: Place(5, placeholder),
        EOS: Place(4, "<|e|>"),
        USER: Place(6, "<|reserved_special_token_0|>"),
        ASSISTANT: Place(7, None),
        THINK: Place(3, None),
        END: Place(8, None),
    }


REAL = {
    "qwen/qwen.tiktoken": ("qwen2", False, 151936),
    "llama3/tokenizer.model": ("llama", True, 128256),
}


def ranks(path: Path) -> dict[bytes, int]:
    rows = (line.split() for line in path.read_bytes().splitlines() if line.strip())
    return {base64.b64decode(token): int(rank) for token, rank in rows}


def merges(known: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The last join of each token, found by joining its bytes with lower ranks, as tiktoken does."""
    for token, rank in sorted(known.items(), key=lambda item: item[1]):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            joins = [(known.get(a + b, rank), i) for i, (a, b) in enumerate(pairwise(parts))]
            best, i = min(joins)
            if best == rank:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]


def real(folder: Path, file: str, whole_words: bool) -> Tokenizer:
    known = ranks(folder / file)
    pattern = json.loads((folder / file).with_name("pattern.json").read_text())["pat_str"]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    shown = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}

    def text(token: bytes) -> str:
        return "".join(shown[byte] for byte in token)

    made = Tokenizer(
        models.BPE(
            vocab={text(token): rank for token, rank in known.items()},
            merges=[(text(a), text(b)) for a, b in merges(known)],
            ignore_merges=whole_words,
        )
    )
    made.pre_tokenizer = split_by(pattern)
    made.decoder = decoders.ByteLevel()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("file", REAL)
def test_on_the_real_vocabularies(file: str, shared: Path, tmp_path: Path) -> None:
    """Texts read as tiktoken read them, before and after; the ids are where the released models have room."""
    model_type, whole_words, rows = REAL[file]
    folder = shared / "tokenizers"
    made = real(folder, file, whole_words)
    if model_type == "qwen2":
        names = json.loads((folder / "qwen/qwen2.5_added_tokens.json").read_text())["added_tokens"]
        settings: dict[str, Any] = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
        expected = [151665, 151643, 151666, 151667, 151668, 151669]
    else:
        names = json.loads((folder / "llama3/special_tokens.json").read_text())["special_tokens"]
        settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
        expected = [128000, 128001, 128002, 128003, 128012, 128013]
    made.add_tokens([AddedToken(text, special=True, normalized=False) for text in names.values()])
    before = write(
        tmp_path / "old", made, settings, {"model_type": model_type, "transformers_version": "5.0"}
    )
    ids = graft(before, tmp_path / "new", rows)
    assert ids == dict(zip(NAMES, expected, strict=True))
    read_alike(before, tmp_path / "new", ids)
    vectors = (folder / file).with_name("vectors_tiktoken.jsonl").read_text().splitlines()
    tokenizer = load_tokenizer(tmp_path / "new")
    rows_read = [row for row in map(json.loads, vectors) if "ids_ordinary" in row]
    texts = [row for row in rows_read if not any(name in row["text"] for name in (*names.values(), THINK))]
    assert len(texts) > 20
    for row in texts:
        assert tokenizer.encode(row["text"]) == row["ids_ordinary"]
