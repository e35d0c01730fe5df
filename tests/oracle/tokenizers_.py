#!/usr/bin/env python3
"""Small trained tokenizers in the styles met in practice, and what the tokenizers package makes of difficult strings.

Writes <out>/<name>.json (a tokenizer.json) and <out>/<name>.expected.json, an array of
    {"text", "ids" (with special tokens), "ids_plain" (without), "offsets" (of ids, in code points of text),
     "decoded" (ids without special tokens)}
An existing <name>.json is kept and only its expectations are made again, unless --train: three of the trainers (digits,
bert, unigram) visit words in hash order, so that two trainings differ slightly. Training text: the first verses of some
New Testaments in old, public-domain translations, $CAMBIUM_DATA/text-bible.
The name ends in an underscore so that it does not hide the package.
"""
import argparse
import json
import lzma
import os
from collections import Counter

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LANGUAGES = {"eng": 900, "ukr": 120, "zho": 150, "deu": 120}  # verses of each

GPT2_ALPHABET = pre_tokenizers.ByteLevel.alphabet()
LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def corpus(directory):
    lines = []
    for language, count in LANGUAGES.items():
        with lzma.open(os.path.join(directory, "text-bible", language + ".tsv.xz"), "rt", encoding="utf-8") as f:
            lines += [line.rstrip("\n").split("\t", 1)[1] for line, _ in zip(f, range(count))]
    return lines + ["In 1984 I'm sure they'll say it's 12,345.67 and we've 2023 of 100. " * 3]


def common_characters(lines, count):
    """Blank all but the most frequent characters. (A trainer's limit_alphabet breaks ties in hash order.)"""
    frequency = Counter("".join(lines))
    kept = set(sorted(frequency, key=lambda c: (-frequency[c], c))[:count]) | {" "}
    return ["".join(c if c in kept else " " for c in line) for line in lines]


def edit(tokenizer, change):
    """Apply `change` to the tokenizer's JSON: for what the package's own interface cannot express."""
    data = json.loads(tokenizer.to_str())
    change(data)
    return Tokenizer.from_str(json.dumps(data))


def train(tokenizer, lines, trainer):
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def byte_level(lines, size, specials=(), normalizer=None, pre_tokenizer=None, **model):
    t = Tokenizer(models.BPE(**model))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    return train(t, lines, trainers.BpeTrainer(vocab_size=size, initial_alphabet=GPT2_ALPHABET, show_progress=False,
                                               special_tokens=list(specials)))


def gpt2(lines):
    t = byte_level(lines, 700)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_special_tokens(["<|endoftext|>"])
    return t


def roberta(lines):
    t = byte_level(lines, 700, ["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>",
                   pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True))
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=True)])
    t.post_processor = processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")),
                                                    trim_offsets=True, add_prefix_space=True)
    return t


def split_then_bytes(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama3(lines):
    t = byte_level(lines, 900, pre_tokenizer=split_then_bytes(LLAMA3_SPLIT))

    def whole_words(data):  # words in the vocabulary that no merge reaches: only ignore_merges finds them
        data["model"]["ignore_merges"] = True
        for word in ("Ġwilderness", "Ġgenerations", "Babylon", "321", "!!!!"):
            data["model"]["vocab"].setdefault(word, len(data["model"]["vocab"]))

    t = edit(t, whole_words)
    t.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    begin = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
        special_tokens=[("<|begin_of_text|>", begin)])])
    return t


def qwen2(lines):
    t = byte_level(lines, 900, normalizer=normalizers.NFC(), pre_tokenizer=split_then_bytes(QWEN2_SPLIT))
    t.post_processor = processors.ByteLevel(trim_offsets=False, add_prefix_space=False, use_regex=False)
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    return t


SENTENCEPIECE_DECODER = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]


def sentencepiece(lines, size):
    """<unk> <s> </s>, the 256 byte tokens, then a BPE over characters with ▁ for the space."""
    first = ["<unk>", "<s>", "</s>"]
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    train(t, common_characters(lines, 240), trainers.BpeTrainer(
        vocab_size=size, show_progress=False, special_tokens=first + [f"<0x{b:02X}>" for b in range(256)]))

    def drop_byte_tokens(data):  # they are ordinary vocabulary, not added tokens
        data["added_tokens"] = data["added_tokens"][:len(first)]
        data["pre_tokenizer"] = None

    t = edit(t, drop_byte_tokens)
    t.decoder = decoders.Sequence(SENTENCEPIECE_DECODER)
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1",
                                                     special_tokens=[("<s>", t.token_to_id("<s>"))])
    return t


def llama2(lines):
    t = sentencepiece(lines, 1000)
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return t


def metaspace(lines):
    t = sentencepiece(lines, 1000)
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return t


def digits(lines):
    """Lossy normalisers, one token a digit, an unknown token, a suffix that ends words, old-style decoder."""
    t = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.NFD(),
                                         normalizers.StripAccents()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(),
                                               pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.Punctuation()])
    t.decoder = decoders.BPEDecoder()
    train(t, common_characters(lines, 120), trainers.BpeTrainer(
        vocab_size=700, end_of_word_suffix="</w>", show_progress=False, special_tokens=["[UNK]", "[CLS]", "[SEP]"]))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(s, t.token_to_id(s)) for s in ("[CLS]", "[SEP]")])
    return t


def added(lines):
    """Every flag an added token can have, over a lower-casing tokenizer so that `normalized` shows."""
    t = byte_level(lines, 700, normalizer=normalizers.Lowercase())
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    t.add_special_tokens([AddedToken("<s>", normalized=False), AddedToken("<L>", lstrip=True, normalized=False),
                          AddedToken("<R>", rstrip=True, normalized=False),
                          AddedToken("<LR>", lstrip=True, rstrip=True, normalized=False)])
    t.add_tokens([AddedToken("Amen", normalized=True), AddedToken("Selah", normalized=False),
                  AddedToken("and", single_word=True, normalized=True),
                  AddedToken("Or", single_word=True, normalized=False, lstrip=True),
                  AddedToken("<s><s>", normalized=False), AddedToken("ñé", normalized=True), AddedToken("神", normalized=False)])
    return t


def bert(lines):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    train(t, common_characters(lines, 200), trainers.WordPieceTrainer(vocab_size=800, show_progress=False,
                                                                      special_tokens=specials))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(s, t.token_to_id(s)) for s in ("[CLS]", "[SEP]")])
    return t


def unigram(lines):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    t.decoder = decoders.Metaspace(prepend_scheme="always")
    train(t, common_characters(lines, 150), trainers.UnigramTrainer(
        vocab_size=700, show_progress=False, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"]))
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B:1 </s>:1",
                                                     special_tokens=[("</s>", t.token_to_id("</s>"))])
    return t


MAKERS = [gpt2, roberta, llama3, qwen2, llama2, metaspace, digits, added, bert, unigram]
LEGACY_MERGES = ("gpt2", "llama2")  # written as "a b"; the others as ["a", "b"]

TEXTS = [
    "", " ", "  ", "   \n  ", "\n", "\n\n\n", "\r\n", "\t", "\t\tx", "a", "A", ".", "...", "!!!!", "?!?!",
    "The book of the genealogy of Jesus Christ.", " leading", "trailing ", "  two leading and trailing  ",
    "many      spaces   inside", "line one\nline two\n\n  indented\r\n\ttab", "word \n next", "x  \n\n  y",
    "a\u00a0b\u2003c\u3000d", "I'm sure they'll say it's what we've done, I'd say you're right, don't!",
    "I'M SURE THEY'LL SAY IT'S WE'VE, HE'D, YOU'RE, DON'T", "'s 's'S 'Ss ''s", "rock ’n’ roll isn’t", "0",
    "7 42 321 1984 12345 1234567890", "3.14159, 1,000,000; -5e10 x2y3", "½ ² Ⅻ ٣٤٥ १२३ ①",
    "Babylon in the wilderness, generations", "naïve café résumé Ångström",
    "nai\u0308ve cafe\u0301 A\u030a e\u0301\u0323", "ñé ÑÉ n\u0303e\u0301", "ﬁ ﬂ ™ ℌ Ａｂｃ１２３ ㎏",
    "İstanbul ıI ß ẞ ΣΑΣ ς", "Книга родоводу Ісуса Христа, сина Давидового", "亚伯拉罕的后裔，大卫的子孙，耶稣基督的家谱：",
    "漢字とひらがな、カタカナ。神", "한국어 \u1112\u1161\u11ab글", "مرحبا بالعالم، كيف حالك؟", "שָׁלוֹם עולם", "આ ઈસુ ખ્રિસ્તનો",
    "ไทยไม่มีช่องว่าง", "👋", "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷", "a👋b 👋 c", "\u200bzero\u200dwidth\ufeff",
    "\u202eright\u202c to left", "z̷̡̛a̶͓l̵g̴o", "control\u0001\u0007\u001b[0m\u007f\u0085end", "nul\u0000inside",
    "replacement \ufffd\ufffd char", "𝔘𝔫𝔦 𐍈 🜁 \U000e0001", "supercalifragilisticexpialidocious" * 4,
    "========================================> <= != -> :: // /* */", "def f(x):\n    return x**2  # comment\n",
    "https://example.org/a?b=c&d=%20#e", "user@example.com", "snake_case camelCase", "▁under ▁▁ low",
    "<unk> <0x41> Ġ Ċ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]
TEXTS_WITH_ADDED = ["{0}", "x{0}y", " {0} ", "a {0}  b", "{0}{1}", "{0} {1}", "  {1}\n{0}\t", "The{1} end", "{0}{0}{0}"]
OWN_TEXTS = {
    "llama3": ["<|start_header_id|>user<|end_header_id|>\n\nIn the beginning<|eot_id|>", "<|begin_of_text|"],
    "qwen2": ["<|im_start|>user\nHello<|im_end|>\n<tool_call>\n{}</tool_call>"],
    "roberta": ["The <mask> of God", "The   <mask>   of", "<mask><mask>"],
    "added": ["Amen amen AMEN", "Selah selah SELAH", "and sand andy and, (and) _and_ And", "Or for Or or xOr Or.",
              "<s><s> <s><s><s>", "a  <L>  b", "a  <R>  b", "a  <LR>  b", "<L> <R> <LR>", "a\n\t<LR>\n b",
              "say神word神", "ÑÉ ñé xñéx", "  Or  and  ", "Amenand"],
}


def texts(name, tokenizer):
    contents = [t.content for _, t in sorted(tokenizer.get_added_tokens_decoder().items())]
    first, second = (contents + contents)[0], contents[-1]
    return TEXTS + [t.format(first, second) for t in TEXTS_WITH_ADDED] + OWN_TEXTS.get(name, [])


def expect(tokenizer, text):
    full = tokenizer.encode(text)
    return dict(text=text, ids=full.ids, ids_plain=tokenizer.encode(text, add_special_tokens=False).ids,
                offsets=[list(o) for o in full.offsets], decoded=tokenizer.decode(full.ids, skip_special_tokens=True))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "tokenizers"))
    parser.add_argument("--train", action="store_true", help="train again what is there already")
    parser.add_argument("--data", default=os.environ.get("CAMBIUM_DATA"),
                        help="directory with text-bible (default: $CAMBIUM_DATA)")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    lines = None
    for maker in MAKERS:
        name = maker.__name__
        path = os.path.join(args.out, name)
        if args.train or not os.path.exists(path + ".json"):
            if not args.data:
                parser.error("training needs CAMBIUM_DATA or --data")
            lines = lines or corpus(args.data)
            data = json.loads(maker(lines).to_str())
            if name in LEGACY_MERGES:
                data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
            with open(path + ".json", "w", encoding="utf-8") as f:
                json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
        tokenizer = Tokenizer.from_file(path + ".json")
        cases = [expect(tokenizer, t) for t in texts(name, tokenizer)]
        with open(path + ".expected.json", "w") as f:
            f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
        print(name, "vocabulary", tokenizer.get_vocab_size(), "cases", len(cases), "bytes",
              os.path.getsize(path + ".json"), os.path.getsize(path + ".expected.json"))


if __name__ == "__main__":
    main()
