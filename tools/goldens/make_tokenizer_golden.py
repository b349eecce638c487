"""Makes tests/golden/tokenizer.json: small vocabularies and the token ids the reference implementations give.

    pip install tokenizers==0.23.3 sentencepiece==0.2.3 && python3 tools/goldens/make_tokenizer_golden.py

`byteLevel`: a byte-level BPE vocabulary with the splitting step of each supported `tokenizer.ggml.pre`; ids from Hugging
Face's `tokenizers`. `sentencePiece`: a BPE model with byte fallback as LLaMA has; ids from `sentencepiece` itself.
`metaspace`: a Unigram vocabulary; ids from `tokenizers`. `gemma`: BPE after a normalizer that marks spaces.
"""

import json
import pathlib
import tempfile

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = """The capital of France is Paris, and the capital of Italy is Rome. It's 1987; they've 3456 items there.
She said that the other children were there, weren't they? We'll see them in the morning, then the evening.
  def add(a, b):
      return a + b  # 5
Der Zug f\u00e4hrt um 7 Uhr \u2014 na\u00efve caf\u00e9, \u6771\u4eac, \u0438 \u0435\u0449\u0451.
There is nothing that another thing cannot bring together. The thin thing is in the tin.
"""

TEXTS = [
    "",
    " ",
    "The capital of Italy is Paris.",
    "  leading,\ttabs and   runs of  spaces \n\n \n trailing ",
    "In 1987, 12 of the 3456 items; they'VE it's IT'S $7.50+1=x^2|y~z <a>",
    "na\u00efve caf\u00e9 e\u0301 \u6771\u4eac \ud83d\ude42 \ud83d\udc69\u200d\ud83d\udc67 \u0438 \u0435\u0449\u0451".encode("utf-16", "surrogatepass").decode("utf-16"),
    "\u0663\u0664 \u00b2\u00bd \u2167 other numbers 1\u06632",
    "a\u00a0b\u0085c\ufeffd\u2028e\u3000f\u0085\u0085 g\ufeff\ufeff",
    "\r\n\r\n  x\r\n\ty\n\n\n",
    "the<|end|>thing <|end|> in<|end|>",
    "x = add(2, 3)\n    return a + b",
    "'sting 'the can't'd weren'trs",
]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


PLAIN_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
PRE_TOKENIZERS = {
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": pre_tokenizers.Sequence([split(LLAMA3), PLAIN_BYTES]),
    "smaug-bpe": pre_tokenizers.Sequence([split(LLAMA3), PLAIN_BYTES]),
    "qwen2": pre_tokenizers.Sequence([split(LLAMA3.replace("{1,3}", "")), PLAIN_BYTES]),
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    # llama.cpp's list, each pattern applied to the pieces the one before left.
    "default": pre_tokenizers.Sequence(
        [split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]"), PLAIN_BYTES]
    ),
}

# Steps a tokenizer.json may have beside those; the vocabulary is the same.
OTHER_STEPS = {
    "prefix space": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "digits and prefix space": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    ),
    "punctuation": pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), PLAIN_BYTES]),
    "whitespace": pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), PLAIN_BYTES]),
    "whitespace split": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), PLAIN_BYTES]),
    "split removed": pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), PLAIN_BYTES]),
    "split inverted": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\w+"), "removed", True), PLAIN_BYTES]),
}


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE_TOKENIZERS["smollm"]
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([CORPUS], trainer)
    definition = json.loads(tokenizer.to_str())
    tokens = [token for token, _ in sorted(definition["model"]["vocab"].items(), key=lambda item: item[1])]
    pre, other = {}, []
    for name, step in PRE_TOKENIZERS.items():
        tokenizer.pre_tokenizer = step
        tokenizer.normalizer = normalizers.NFC() if name == "qwen2" else normalizers.Sequence([])
        # Models with this step take a whole word from the vocabulary without merging.
        tokenizer.model.ignore_merges = name == "llama-bpe"
        pre[name] = [tokenizer.encode(text).ids for text in TEXTS]
    tokenizer.model.ignore_merges = False
    tokenizer.normalizer = normalizers.Sequence([])
    for name, step in OTHER_STEPS.items():
        tokenizer.pre_tokenizer = step
        other.append(
            {
                "name": name,
                "preTokenizer": json.loads(tokenizer.to_str())["pre_tokenizer"],
                "ids": [tokenizer.encode(text).ids for text in TEXTS],
            }
        )
    merges = [" ".join(pair) for pair in definition["model"]["merges"]]
    return {"tokens": tokens, "merges": merges, "pre": pre, "otherSteps": other, "definition": definition}


def sentence_piece():
    with tempfile.TemporaryDirectory() as folder:
        corpus = pathlib.Path(folder) / "corpus.txt"
        corpus.write_text(CORPUS)
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=f"{folder}/m",
            model_type="bpe",
            vocab_size=400,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            minloglevel=2,
        )
        model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model")
    ids = range(model.get_piece_size())
    kinds = [(model.is_unknown, 2), (model.is_control, 3), (model.is_unused, 5), (model.is_byte, 6)]
    return {
        "tokens": [model.id_to_piece(i) for i in ids],
        "scores": [model.get_score(i) for i in ids],
        "types": [next((number for test, number in kinds if test(i)), 1) for i in ids],
        "ids": [model.encode(text) for text in TEXTS],
    }


def case(tokenizer):
    """A tokenizer's definition, with ids of the texts and what they are decoded to."""
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    return {"definition": json.loads(tokenizer.to_str()), "ids": ids, "texts": [tokenizer.decode(one) for one in ids]}


def metaspace():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS.split("\n"), trainer)
    cases = []
    for scheme, parts in [("always", True), ("first", False), ("never", False)]:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=parts)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=parts)
        cases.append(case(tokenizer))
    return cases


def gemma():
    """A BPE vocabulary with the steps that transformers' GemmaConverter writes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special)
    tokenizer.train_from_iterator(CORPUS.replace("\n", " ").split(". "), trainer)
    definition = json.loads(tokenizer.to_str())
    # Bytes are ordinary entries of Gemma's vocabulary.
    definition["added_tokens"] = definition["added_tokens"][:1]
    return case(Tokenizer.from_str(json.dumps(definition)))


def main():
    golden = {
        "madeWith": "tools/goldens/make_tokenizer_golden.py, tokenizers 0.23.3, sentencepiece 0.2.3",
        "texts": TEXTS,
        "byteLevel": byte_level(),
        "sentencePiece": sentence_piece(),
        "metaspace": metaspace(),
        "gemma": gemma(),
    }
    path = pathlib.Path(__file__).parents[2] / "tests" / "golden" / "tokenizer.json"
    path.write_text(json.dumps(golden) + "\n")


main()
