"""SmolLM2's real weights in float32 through scheduler, cache and torch backend, against transformers and the oracle."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from support.gpu_text import Formats, measured, reordered, texts
from support.harness import INVARIANT, Harness, decode, edge, prefill, tiny_runner
from support.oracle import GraphOracle
from support.scoring import check_score
from transformers import LlamaConfig, LlamaForCausalLM

from pavane.kernels.gpu.scaled import FLOAT8
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models.cpu import cpu_forward
from pavane.models.default import default_model_path
from pavane.models.gpu_float8 import Float8Decoder
from pavane.models.loader import LoadedModel, load_model
from pavane.models.reference import ReferenceModel
from pavane.models.runner import ModelRunner
from pavane.scheduler.spec import CallSpec, Outcome, ParentSpec, State
from pavane.server.text.chat_choice import choose_chat_format
from pavane.server.text.chat_format import ChatFormat, Turn
from pavane.server.text.tokenizer import Tokenizer

SLOTS = 4096
SYSTEM = "You are helpful."

PAIRS = [
    ("Hi", "Hello! How can I help you today?"),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("2+2=", "4"),
    ("Name three colours.", "Red, green and blue."),
    ("Écris une phrase en français.", "Le chat dort sur le tapis pendant que la pluie tombe."),
    ("Write a haiku about rain.", "Soft rain on the roof,\nthe garden drinks in silence,\nspring wakes leaf by leaf."),
    ("def add(a, b):\n    return", " a + b"),
    ("List the first ten primes.", "2, 3, 5, 7, 11, 13, 17, 19, 23, 29"),
    ("Who wrote 'Pride and Prejudice'?", "Jane Austen wrote it; it was published in 1813."),
    ("Translate to German: good morning", "Guten Morgen"),
    ("Is 91 prime?", "No, 91 = 7 * 13."),
    ("   leading spaces, and\ttabs\n\n\nand newlines", "Noted."),
    ("😀🎉 what do these mean?", "A grinning face and a party popper: someone is happy."),
    ("日本の首都はどこですか。", "東京です。"),
    ('Give JSON with keys "a" and "b".', '{"a": 1, "b": [2, 3]}'),
    ("Explain photosynthesis in one sentence.", "Plants turn light, water and carbon dioxide into sugar and oxygen."),
    ("Count: " + " ".join(map(str, range(25))), "It was 24."),
    ("Repeat after me: " + "na " * 30 + "Batman", "na na na Batman"),
    ("Once upon a time there was a fox who lived in a deep wood. " * 4 + "What lived in the wood?", "A fox."),
    ("x" * 60, "That is the letter x, sixty times."),
]  # fmt: skip

GREEDY = [
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain why the sky is blue.",
]


_NATIVE = pytest.mark.skipif("decoder" not in INVARIANT, reason="no C++ compiler")


class Setting:
    """The model, its text, and transformers' model of the same weights."""

    def __init__(self) -> None:
        self.loaded: LoadedModel = load_model(default_model_path(), torch.float32)
        self.tokenizer = Tokenizer(self.loaded.tokenizer)
        self.chat: ChatFormat = choose_chat_format(self.loaded.tokenizer, self.tokenizer)
        self.theirs = _transformers(self.loaded)

    def harness(
        self, *, bos: int | None = None, budget: int = 512, batch_invariant: bool = False, packed: bool = False
    ) -> Harness:
        return Harness(
            self.packed() if packed else self.runner(batch_invariant=batch_invariant),
            SLOTS,
            max_model_len=2048,
            vocab=self.loaded.config.vocab_size,
            bos_id=bos,
            token_budget=budget,
            batch_invariant=batch_invariant,
        )

    def runner(self, *, batch_invariant: bool) -> ModelRunner:
        return tiny_runner(self.loaded.config, self.loaded.weights, SLOTS, batch_invariant=batch_invariant)

    def packed(self) -> ModelRunner:
        """As the server runs it by default."""
        loaded = load_model(default_model_path(), torch.bfloat16, keep_blocks=True)
        frequencies, scale = rope_frequencies(loaded.config.rope, loaded.config.head_dim)
        rope = RopeTable(frequencies, 2049, scale)
        return ModelRunner(cpu_forward(loaded, rope, SLOTS, dtype=torch.bfloat16, batch_invariant=True))

    def turn(self, role: str, text: str) -> list[int]:
        return self.chat.turns([Turn(role, "", text)])

    def header(self) -> list[int]:
        return self.chat.header("assistant", "", "")

    def text(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, special=False))

    def answer(self, id: str, text: str, *parents: str | ParentSpec, one_pass: bool = False) -> CallSpec:
        return decode(
            id,
            self.header(),
            *parents,
            forced=self.text(text),
            trailer=self.chat.trailer,
            logprobs=True,
            one_pass=one_pass,
        )

    @torch.inference_mode()
    def their_logits(self, outcome: Outcome, before: list[int]) -> torch.Tensor:
        """Before each token of the content."""
        begin, end = outcome.content
        line = torch.tensor([[*before, *outcome.tokens[:end]]])
        logits: torch.Tensor = self.theirs(line, logits_to_keep=end - begin + 1).logits[0, :-1]
        return logits.double()

    def their_logprobs(self, outcome: Outcome, before: list[int]) -> torch.Tensor:
        content = torch.tensor(outcome.tokens[slice(*outcome.content)])
        return self.their_logits(outcome, before).log_softmax(dim=-1).gather(1, content[:, None])[:, 0]


def _transformers(loaded: LoadedModel) -> LlamaForCausalLM:
    c = loaded.config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=c.vocab_size,
                    hidden_size=c.hidden_size,
                    intermediate_size=c.intermediate_size,
                    num_hidden_layers=c.num_layers,
                    num_attention_heads=c.num_heads,
                    num_key_value_heads=c.num_kv_heads,
                    head_dim=c.head_dim,
                    rms_norm_eps=c.rms_norm_eps,
                    max_position_embeddings=c.max_position,
                    tie_word_embeddings=c.tie_word_embeddings,
                    rope_parameters={"rope_type": "default", "rope_theta": c.rope.theta},
                )
            )
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    model.load_state_dict({f"model.{n}": w for n, w in loaded.weights.items()}, strict=False, assign=True)
    model.tie_weights()
    assert all(not p.is_meta for p in model.parameters())
    return model.eval()


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield Setting()
    torch.set_num_threads(threads)


def floats(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def used(harness: Harness) -> int:
    return harness.cache.pool.size - harness.cache.pool.free


def test_log_probabilities_of_twenty_prompts_are_those_of_transformers(setting: Setting) -> None:
    assert len(PAIRS) == 20
    harness = setting.harness()
    system = setting.turn("system", SYSTEM)
    users = [setting.turn("user", user) for user, _ in PAIRS]
    harness.submit(prefill("system", system))
    for i, (_, answer) in enumerate(PAIRS):
        harness.submit(prefill(f"u{i}", users[i], "system"))
        harness.submit(setting.answer(f"a{i}", answer, "system", f"u{i}", one_pass=i % 2 == 0))
    harness.run()
    lengths = set()
    for i in range(20):
        outcome = harness.outcome(f"a{i}")
        assert outcome.state is State.DONE
        expected = setting.their_logprobs(outcome, system + users[i])
        assert len(expected) == len(setting.text(PAIRS[i][1]))
        torch.testing.assert_close(floats(outcome.logprobs), expected, atol=1e-3, rtol=0)
        lengths.add(len(users[i]))
    assert max(lengths) > 5 * min(lengths)


def test_greedy_texts_are_those_of_transformers(setting: Setting) -> None:
    """Each token is transformers' likeliest after the same tokens: so the texts are identical, up to ties."""
    harness = setting.harness()
    system = setting.turn("system", SYSTEM)
    users = [setting.turn("user", user) for user in GREEDY]
    harness.submit(prefill("system", system))
    for i, user in enumerate(users):
        harness.submit(
            prefill(f"u{i}", user, "system"),
            decode(f"a{i}", setting.header(), "system", f"u{i}", temperature=0.0, max_tokens=64, logprobs=True),
        )
    harness.run()
    for i, user in enumerate(users):
        outcome = harness.outcome(f"a{i}")
        begin, end = outcome.content
        assert end - begin == 64
        logits = setting.their_logits(outcome, system + user)
        (values, tokens) = logits.topk(2, dim=-1)
        for n, token in enumerate(outcome.tokens[begin:end]):
            assert token == tokens[n, 0] or values[n, 0] - values[n, 1] < 1e-3, (GREEDY[i], n)


CONVERSATION = [
    ("system", "You answer in one short sentence."),
    ("user", "Name a river in Africa."),
    ("assistant", "The Nile."),
    ("user", "And one in South America?"),
    ("assistant", "The Amazon, the largest of all."),
]


def conversation(setting: Setting, prefix: str, exact: bool) -> list[CallSpec]:
    calls: list[CallSpec] = []
    for i, (role, text) in enumerate(CONVERSATION):
        parents = [ParentSpec(call.id, exact=exact) for call in calls]
        if role == "assistant":
            calls.append(setting.answer(f"{prefix}{i}", text, *parents))
        else:
            calls.append(prefill(f"{prefix}{i}", setting.turn(role, text), *parents, exact=exact))
    return calls


@pytest.mark.parametrize("with_bos", [False, True])
def test_reuse_over_a_packed_chain_is_exact_and_shares_its_slots(setting: Setting, with_bos: bool) -> None:
    harness = setting.harness(bos=setting.loaded.tokenizer.bos_id if with_bos else None)
    reuse, exact = conversation(setting, "r", False), conversation(setting, "e", True)
    for call in reuse:
        harness.submit(call)
        harness.run()
    whole = sum(len(harness.outcome(call.id).tokens) for call in reuse)
    peak = used(harness)
    assert peak == whole + with_bos
    for call in exact:
        harness.submit(call)
        harness.run()
        # What an EXACT call reads is found where it lies, its header too; the rest is its own.
        own = len(harness.outcome(call.id).tokens) if call.decode is not None else 0
        assert used(harness) <= peak + own
        peak = used(harness)
    for mine, theirs in zip(reuse, exact, strict=True):
        one, two = harness.outcome(mine.id), harness.outcome(theirs.id)
        assert one.tokens == two.tokens
        assert one.start == two.start
        if mine.decode is not None:
            torch.testing.assert_close(floats(one.logprobs), floats(two.logprobs), atol=1e-4, rtol=0)
            assert two.receipt.in_place == sum(p.tokens for p in two.receipt.parents) + len(mine.tokens) - 1
            assert two.receipt.encoded == 1
            assert two.receipt.repositioned == 0
    # By itself, from nothing, the EXACT chain says the same.
    fresh = setting.harness(bos=setting.loaded.tokenizer.bos_id if with_bos else None)
    fresh.submit(*conversation(setting, "f", True))
    fresh.run()
    assert used(fresh) == whole + with_bos
    for mine in reuse:
        if mine.decode is not None:
            one, two = harness.outcome(mine.id), fresh.outcome("f" + mine.id[1:])
            torch.testing.assert_close(floats(one.logprobs), floats(two.logprobs), atol=1e-4, rtol=0)


def test_moved_parents_equal_the_reference_in_float64(setting: Setting) -> None:
    """Debaters read each other in another order than they were written; the largest error seen is 1.5e-5."""
    harness = setting.harness(budget=48)
    calls = [
        prefill("system", setting.turn("system", "You debate.")),
        prefill("doc", setting.turn("user", "Cats sleep for most of the day.")),
        prefill("question", setting.turn("user", "Cats or dogs?"), "system"),
        setting.answer("cats", "Cats, since they are quiet.", "doc", "question", "system"),
        setting.answer("dogs", "Dogs, since they are loyal.", "system", "question", one_pass=True),
        setting.answer(
            "verdict",
            "Both sides have a point.",
            ParentSpec("dogs"),
            ParentSpec("question", offset=90),
            edge("cats"),
            ParentSpec("doc", exact=True),
            ParentSpec("system", as_encoded=True),
        ),
    ]
    harness.submit(*calls)
    harness.run()
    oracle = GraphOracle(ReferenceModel(setting.loaded.config, setting.loaded.weights))
    worst = 0.0
    for call in calls:
        oracle.add(call)
        if call.decode is not None:
            outcome = harness.outcome(call.id)
            assert outcome.receipt.repositioned or call.id == "dogs"
            error = (floats(outcome.logprobs) - oracle.logprobs(call.id)).abs().max().item()
            worst = max(worst, error)
    assert worst < 1e-3, worst


def test_scores_equal_the_reference_in_float64(setting: Setting) -> None:
    """The largest errors seen: 1.2e-5 of a log-probability, 4e-6 of a KL of up to 3.9."""
    harness = setting.harness(budget=48)
    calls = [
        prefill("system", setting.turn("system", "You debate.")),
        prefill("question", setting.turn("user", "Cats or dogs?"), "system"),
        setting.answer("cats", "Cats, since they are quiet.", "system", "question"),
        prefill("doc", setting.turn("user", "Cats sleep for most of the day."), "question"),
    ]
    verdict = setting.answer("verdict", "Both sides have a point.", edge("doc"), edge("cats"), edge("question"))
    harness.submit(*calls)
    scores = harness.score(verdict, per_parent=True)
    harness.run()
    oracle = GraphOracle(ReferenceModel(setting.loaded.config, setting.loaded.weights))
    for call in calls:
        oracle.add(call)
    (score,) = scores
    assert score.failure is None
    errors = check_score(score, oracle, verdict, True, 1e-3)
    assert max(errors) < 2e-4, errors


@pytest.mark.parametrize("with_bos", [False, True])
def test_a_message_that_did_not_see_what_lies_before_it_shares_nothing_with_one_that_did(
    setting: Setting, with_bos: bool
) -> None:
    harness = setting.harness(bos=setting.loaded.tokenizer.bos_id if with_bos else None)
    system, user = setting.turn("system", SYSTEM), setting.turn("user", "What is your name?")
    harness.submit(prefill("system", system))
    harness.run()
    calls = {
        "seen": prefill("seen", user, "system"),
        "unseen": CallSpec("unseen", b"unseen", tuple(user), start=len(system)),
        "at 0": prefill("at 0", user),
    }
    spans = {}
    for name, call in calls.items():
        before = used(harness)
        harness.submit(call)
        harness.run()
        outcome = harness.outcome(name)
        # At 0 without BOS: what sees nothing is the same wherever it stands. Else what sees nothing shares one token
        # with the system turn, which saw nothing: the one that all turns begin with.
        shared = {"seen": 0, "unseen": int(not with_bos), "at 0": 1 if with_bos else len(user)}[name]
        encoded = len(user) - shared
        assert outcome.receipt.encoded == encoded
        assert used(harness) == before + encoded
        spans[name] = harness.scheduler.graph.call(harness.scheduler.graph.workflow("", "w"), name).span
    assert spans["seen"].node is not spans["unseen"].node
    assert spans["seen"].node.key != spans["unseen"].node.key
    assert (spans["unseen"].node is spans["at 0"].node) is not with_bos
    answers = [setting.answer(name + "!", "My name is SmolLM.", "system", name) for name in ("seen", "unseen")]
    harness.submit(*answers)
    harness.run()
    seen, unseen = (floats(harness.outcome(call.id).logprobs) for call in answers)
    assert (seen - unseen).abs().max() > 0.01


@_NATIVE
def test_the_packed_model_is_close_to_the_one_in_float32(setting: Setting) -> None:
    """Its log-probabilities of given answers; what is lost are roundings to bfloat16."""
    differences = []
    for packed in (False, True):
        harness = setting.harness(packed=packed)
        for i, (user, answer) in enumerate(PAIRS):
            harness.submit(prefill(f"u{i}", setting.turn("user", user)))
            harness.submit(setting.answer(f"a{i}", answer, f"u{i}", one_pass=True))
        harness.run()
        differences.append(torch.cat([floats(harness.outcome(f"a{i}").logprobs) for i in range(len(PAIRS))]))
    error = (differences[0] - differences[1]).abs()
    assert len(error) > 40
    assert error.mean() < 0.02
    assert error.max() < 0.3


@pytest.mark.parametrize("packed", [False, pytest.param(True, marks=_NATIVE)])
def test_batch_invariant_serving_gives_the_same_bits_in_any_company(setting: Setting, packed: bool) -> None:
    system, user = setting.turn("system", SYSTEM), setting.turn("user", "What is your name?")
    other = setting.turn("user", "Tell me about rivers.")

    def calls() -> list[CallSpec]:
        return [
            prefill("system", system),
            prefill("other", other),
            prefill("user", user, "system"),
            setting.answer("moved", "I am SmolLM, made by Hugging Face.", "user", "other", "system", one_pass=True),
        ]

    alone = setting.harness(batch_invariant=True, packed=packed)
    for call in calls():
        alone.submit(call)
        alone.run()
    crowd = setting.harness(batch_invariant=True, budget=17, packed=packed)
    crowd.submit(*(prefill(f"x{i}", other[i:]) for i in range(3)))
    crowd.submit(*calls(), setting.answer("z", "Rivers flow.", "system", "other"))
    crowd.run()
    crowd.cache.evict(40)
    crowd.submit(setting.answer("again", "I am SmolLM, made by Hugging Face.", "user", "other", "system"))
    crowd.run()
    expected = alone.outcome("moved").logprobs
    assert len(expected) > 5
    assert crowd.outcome("moved").logprobs == expected
    assert crowd.outcome("again").logprobs == expected


def test_fp8_stays_near_float32(setting: Setting) -> None:
    """Over parents that are moved: a part of what `support.gpu_text` measures; about twice its figures are the
    bounds."""
    parents, child = texts(setting.loaded)
    batches = reordered([ids[:16] for ids in parents], child[:48])
    kv, both = measured(setting.loaded, batches, [Formats(kv=FLOAT8), Formats(FLOAT8, Float8Decoder)])
    assert 0.02 < kv.error < 0.08
    assert kv.kl < 0.014
    assert kv.likeliest > 0.85
    assert kv.error < both.error < 0.16
    assert both.kl < 0.05
    assert both.likeliest > 0.75
