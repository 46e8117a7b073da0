"""Tokenizers of Hugging Face folders, against the library that defines tokenizer.json and against transformers."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support.vocabularies import CORPUS, byte_level_folder, sentence_piece_folder, write_json
from tokenizers import normalizers, pre_tokenizers

from pavane.models.errors import ModelError
from pavane.models.tokenizer_folder import tokenizer_from_folder
from pavane.server.text.byte_level import _SPLITS
from pavane.server.text.detokenizer import Detokenizer
from pavane.server.text.stops import StopMatcher
from pavane.server.text.tokenizer import Tokenizer

MARKS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
ANY = st.text(
    alphabet=st.one_of(st.sampled_from(" \n\tae\u0301'st12.,<|>é字👋\u2581"), st.characters(exclude_categories=["Cs"])),
    max_size=60,
)


def pre() -> Any:
    split = pre_tokenizers.Split(tokenizers.Regex(_SPLITS["qwen2"]), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def chatml(folder: Path) -> tokenizers.Tokenizer:
    made = byte_level_folder(folder, pre(), [MARKS[2], *MARKS[:2]], ["<think>", "</think>", "<marker>"])
    write_json(
        folder / "tokenizer_config.json",
        bos_token=None,
        eos_token={"__type": "AddedToken", "content": "<|im_end|>", "special": True},
        tokenizer_class="PreTrainedTokenizerFast",
        chat_template="{{ '<marker><think>' }}",
    )
    write_json(folder / "generation_config.json", eos_token_id=[made.token_to_id(mark) for mark in MARKS[1:]])
    return made


def llama_3(folder: Path) -> tokenizers.Tokenizer:
    made = byte_level_folder(folder, pre(), ["<|begin_of_text|>", "<|eot_id|>"], bos="<|begin_of_text|>")
    write_json(
        folder / "tokenizer_config.json",
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        tokenizer_class="PreTrainedTokenizerFast",
        add_bos_token=False,  # not heeded by transformers 5 either
    )
    return made


def pieces(scheme: str, *, bos: str | None = "<s>") -> Callable[[Path], tokenizers.Tokenizer]:
    def make(folder: Path) -> tokenizers.Tokenizer:
        made = sentence_piece_folder(folder, ["[INST]", "[/INST]"], scheme=scheme, bos=bos)
        write_json(
            folder / "tokenizer_config.json",
            bos_token="<s>",
            eos_token="</s>",
            add_bos_token=True,
            tokenizer_class="PreTrainedTokenizerFast",
        )
        return made

    return make


def qwen(folder: Path) -> tokenizers.Tokenizer:
    chatml(folder)
    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.normalizer = normalizers.NFC()
    made.save(str(folder / "tokenizer.json"))
    return made


FOLDERS: dict[str, Callable[[Path], tokenizers.Tokenizer]] = {
    "chatml": chatml,
    "llama3": llama_3,
    "legacy": pieces("legacy"),
    "first": pieces("first"),
    "always": pieces("always"),
    "never": pieces("never", bos=None),
}


@pytest.fixture(scope="module", params=FOLDERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Tokenizer]:
    folder = tmp_path_factory.mktemp(request.param)
    oracle = FOLDERS[request.param](folder)
    return folder, oracle, Tokenizer(tokenizer_from_folder(folder))


def spells_control(tokenizer: Tokenizer, text: str) -> bool:
    return any(tokenizer.spelling(id) in text for id in tokenizer.control_ids)


@given(text=ANY)
@example(text="a</s>b[INST]")
def test_whole_texts_are_the_librarys(made: tuple[Path, Any, Tokenizer], text: str) -> None:
    _, oracle, tokenizer = made
    assert tokenizer.encode(text, special=True) == oracle.encode(text, add_special_tokens=False).ids
    assume(not spells_control(tokenizer, text))
    assert tokenizer.encode(text, special=False) == tokenizer.encode(text, special=True)


@given(text=ANY)
@example(text=" a  b ")
@example(text="")
def test_text_is_the_detokenised_tokens(made: tuple[Path, Any, Tokenizer], text: str) -> None:
    """Streamed or not, the text comes back; only a whole text may have got a space put before it."""
    _, oracle, tokenizer = made
    text = text.replace("\u2581", " ") if tokenizer.control_id("<unk>") is not None else text
    inner = tokenizer.encode_inner(text, after_control=False)
    assert tokenizer.decode(inner) == text
    whole = tokenizer.encode(text, special=False)
    decoded = tokenizer.decode(whole)
    assert decoded in (text, " " + text)
    assert oracle.decode(whole) in (decoded, decoded.removeprefix(" "))
    detokenizer = Detokenizer(tokenizer)
    assert "".join(detokenizer.push([id]) for id in inner) + detokenizer.flush() == text


@given(text=ANY)
def test_a_text_between_control_tokens_is_encoded_as_there(made: tuple[Path, Any, Tokenizer], text: str) -> None:
    _, oracle, tokenizer = made
    mark = next(token for token in ("[INST]", "<|eot_id|>", "<|im_end|>") if tokenizer.control_id(token) is not None)
    assume(not spells_control(tokenizer, text))
    ids = oracle.encode(mark + text + mark, add_special_tokens=False).ids
    assert ids[1:-1] == tokenizer.encode_inner(text, after_control=True)


@given(before=ANY, stop=st.sampled_from(["\n", "é", "👋", "e\u0301 ", "fox"]), after=ANY)
def test_stops_keep_the_text_before_them(made: tuple[Path, Any, Tokenizer], before: str, stop: str, after: str) -> None:
    tokenizer = made[2]
    matcher = StopMatcher(tokenizer, [stop], "")
    ids = tokenizer.encode_inner(before + stop + after, after_control=False)
    kept = next(found for found in map(matcher.push, ids) if found is not None)
    text = tokenizer.decode(ids)
    assert tokenizer.decode(kept) == text[: text.index(stop)]


@pytest.mark.parametrize("text", CORPUS)
def test_transformers_begins_and_encodes_alike(made: tuple[Path, Any, Tokenizer], text: str) -> None:
    folder, _, tokenizer = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    assert bos + tokenizer.encode(text, special=True) == theirs(text)["input_ids"]


@pytest.mark.parametrize(
    ("name", "family", "model_type"),
    [
        ("LlamaTokenizer", "first", "llama"),
        ("LlamaTokenizer", "first", "mistral"),
        ("LlamaTokenizerFast", "legacy", "llama"),
        ("GemmaTokenizer", "never", "gemma"),
        ("Qwen2Tokenizer", "qwen", "qwen3"),
    ],
)
@pytest.mark.parametrize("add_bos_token", [True, False])
def test_transformers_own_classes_agree(
    tmp_path: Path, name: str, family: str, model_type: str, add_bos_token: bool
) -> None:
    (qwen if family == "qwen" else FOLDERS[family])(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write_json(tmp_path / "tokenizer_config.json", **config | {"tokenizer_class": name, "add_bos_token": add_bos_token})
    write_json(tmp_path / "config.json", model_type=model_type)
    tokenizer = Tokenizer(tokenizer_from_folder(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    for text in CORPUS:
        assert bos + tokenizer.encode(text, special=True) == theirs(text)["input_ids"]


def test_control_tokens_are_never_made_from_text(made: tuple[Path, Any, Tokenizer]) -> None:
    _, oracle, tokenizer = made
    for id in sorted(tokenizer.control_ids):
        text = f"a{tokenizer.spelling(id)}b {tokenizer.spelling(id)}"
        plain = tokenizer.encode(text, special=False)
        assert not tokenizer.control_ids & set(plain)
        assert tokenizer.decode(plain).removeprefix(" ") == text
        assert tokenizer.encode(text, special=True) == oracle.encode(text, add_special_tokens=False).ids


def test_ends_bos_and_tags_of_a_chatml_folder(tmp_path: Path) -> None:
    made = chatml(tmp_path)
    spec = tokenizer_from_folder(tmp_path)
    tokenizer = Tokenizer(spec)
    assert tokenizer.bos_id is None
    assert tokenizer.spelling(spec.eos_id) == "<|im_end|>"
    assert tokenizer.eos_ids == {made.token_to_id("<|im_end|>"), made.token_to_id("<|endoftext|>")}
    think = made.token_to_id("<think>")
    assert tokenizer.encode("<think>", special=False) == [think]
    assert tokenizer.decode([think]) == "<think>"
    assert tokenizer.control_id("<marker>") is not None


def test_merges_that_make_a_control_token_are_left_out_for_text(tmp_path: Path) -> None:
    sentence_piece_folder(tmp_path, ["aa"], scheme="never")
    definition = json.loads((tmp_path / "tokenizer.json").read_text())
    definition["model"]["merges"].insert(0, ["a", "a"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = Tokenizer(tokenizer_from_folder(tmp_path))
    control = tokenizer.control_id("aa")
    assert control is not None
    assert control in tokenizer.encode("aa", special=True)
    assert control not in tokenizer.encode("baab", special=False)
    assert tokenizer.decode(tokenizer.encode("baab", special=False)) == "baab"


def test_words_that_spell_a_control_token_are_left_out_for_text(tmp_path: Path) -> None:
    """With ignore_merges a word that is in the vocabulary becomes that token, whatever the merges."""
    made = byte_level_folder(tmp_path, pre(), ["<s>", "fox"])
    definition = json.loads((tmp_path / "tokenizer.json").read_text())
    definition["model"]["ignore_merges"] = True
    definition["model"]["vocab"]["fox"] = made.token_to_id("fox")
    definition["model"]["vocab"]["<s>"] = made.token_to_id("<s>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = Tokenizer(tokenizer_from_folder(tmp_path))
    assert tokenizer.control_id("fox") in tokenizer.encode("fox", special=True)
    plain = tokenizer.encode("fox <s>", special=False)
    assert not tokenizer.control_ids & set(plain)
    assert tokenizer.decode(plain) == "fox <s>"


def test_added_pieces_have_spaces_like_others(tmp_path: Path) -> None:
    made = sentence_piece_folder(tmp_path, [], ["\u2581\u2581", "<table>"], scheme="never")
    tokenizer = Tokenizer(tokenizer_from_folder(tmp_path))
    ids = tokenizer.encode("a  b<table>", special=False)
    assert made.token_to_id("\u2581\u2581") in ids
    assert made.token_to_id("<table>") in ids
    assert tokenizer.decode(ids) == made.decode(ids) == "a  b<table>"


def test_a_real_vocabulary(tmp_path: Path, hugging_face: Any, tokenizer: Tokenizer) -> None:
    hugging_face.save_pretrained(tmp_path)
    saved = Tokenizer(tokenizer_from_folder(tmp_path))
    assert saved.vocab_size == tokenizer.vocab_size
    assert saved.token_bytes() == tokenizer.token_bytes()
    assert (saved.bos_id, saved.eos_ids, saved.control_ids) == (None, tokenizer.eos_ids, tokenizer.control_ids)
    for text in CORPUS:
        assert saved.encode(text, special=True) == hugging_face(text)["input_ids"]


def test_tokens_that_only_the_config_adds(tmp_path: Path) -> None:
    made = llama_3(tmp_path)
    size = made.get_vocab_size()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {str(size): {"content": "<|extra|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer(tokenizer_from_folder(tmp_path)).control_id("<|extra|>") == size
    config["added_tokens_decoder"] = {str(size + 7): {"content": "<|extra|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"'<\|extra\|>' the id {size + 7}, but after tokenizer.json it gets {size}"):
        Tokenizer(tokenizer_from_folder(tmp_path))


def test_the_chat_template_of_a_file_of_its_own_wins(tmp_path: Path) -> None:
    chatml(tmp_path)
    assert tokenizer_from_folder(tmp_path).chat_template == "{{ '<marker><think>' }}"
    write_json(tmp_path / "chat_template.json", chat_template="json")
    assert tokenizer_from_folder(tmp_path).chat_template == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert tokenizer_from_folder(tmp_path).chat_template == "jinja"


def test_one_of_several_named_templates(tmp_path: Path) -> None:
    llama_3(tmp_path)
    templates = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    write_json(tmp_path / "tokenizer_config.json", chat_template=templates)
    assert tokenizer_from_folder(tmp_path).chat_template == "d"


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Callable[[], Tokenizer]:
    definition = json.loads((folder / "tokenizer.json").read_text())
    change(definition)
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    return lambda: Tokenizer(tokenizer_from_folder(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["model"].update(type="Unigram"), r"model.type = 'Unigram' is not supported, only 'BPE'"),
        (lambda d: d["model"].update(dropout=0.5), r"model.dropout = 0.5"),
        (lambda d: d["model"].update(end_of_word_suffix="</w>"), r"model.end_of_word_suffix = '</w>'"),
        (lambda d: d["model"].update(byte_fallback=False), r"neither byte-level nor"),
        (lambda d: d["model"].update(vocab=[]), r"model.vocab is missing or not an object"),
        (lambda d: d["model"]["vocab"].pop("<0x41>"), r"cannot be read|no byte token <0x41>"),
        (lambda d: d.update(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}), "decoder .*WordPiece"),
        (lambda d: d["post_processor"]["single"].append(d["post_processor"]["single"][0]), "post_processor makes"),
    ],
)
def test_what_is_not_reproduced_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    pieces("legacy")(tmp_path)
    load = changed(tmp_path, change)
    with pytest.raises(ModelError, match=message):
        load()


def test_clear_errors_of_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer.json: download it .*\.save_pretrained"):
        tokenizer_from_folder(tmp_path)
    llama_3(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", eos_token="</nothing>")
    with pytest.raises(ModelError, match=r"tokenizer_config.json: eos_token = '</nothing>' is no token"):
        tokenizer_from_folder(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", chat_template=7)
    with pytest.raises(ModelError, match=r"chat_template is not a string"):
        tokenizer_from_folder(tmp_path)
    write_json(tmp_path / "tokenizer_config.json")
    write_json(tmp_path / "config.json", eos_token_id=10**6)
    with pytest.raises(ModelError, match=r"config.json: eos_token_id = 1000000 is no token id"):
        tokenizer_from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json is no valid JSON"):
        tokenizer_from_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config.json is no JSON object"):
        tokenizer_from_folder(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("tokenizer_config.json", '{"eos_token": ["</s>"]}', r"eos_token = \['</s>'\] is no token"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}', "added_tokens_decoder must map"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "added_tokens_decoder must map"),
        ("tokenizer_config.json", '{"a":' * 3000, "no valid JSON"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 3000000000}}}', "'a' is 3000000000, not one below"),
        (
            "tokenizer.json",
            '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": "1", "content": "b"}]}',
            "'b' is '1'",
        ),
    ],
)
def test_malformed_fields_are_told(tmp_path: Path, file: str, text: str, words: str) -> None:
    sentence_piece_folder(tmp_path, [])
    (tmp_path / file).write_text(text)
    with pytest.raises(ModelError, match=words):
        tokenizer_from_folder(tmp_path)


def test_fields_that_are_null_or_not_for_us_are_absent(tmp_path: Path) -> None:
    sentence_piece_folder(tmp_path, [])
    write_json(tmp_path / "tokenizer_config.json", added_tokens_decoder=None, chat_template=["x", {"name": "other"}])
    spec = tokenizer_from_folder(tmp_path)
    assert (spec.added, spec.chat_template) == ((), None)
